"""Choices from given facts, fitting to the time, and the file of the choices."""

import numpy as np
import pytest
import yaml

from src.config import load_config
from src.start import choose
from src.start.pacing import Pacer, epochs_done, reserve
from src.start.processes import Pace, Stopwatch, progress_of, steps_that_fit
from src.start.settings import Settings, recipe


def facts(pictures=100, size=(256, 256), side=0.3, minutes=20, device="CPU"):
    """Facts of a set whose boxes are squares of a share of the picture's sides."""
    centre = np.linspace(side / 2, 1 - side / 2, 50)
    boxes = np.stack([centre - side / 2, centre - side / 2, centre + side / 2, centre + side / 2, np.ones(50)], 1)
    return choose.Facts(pictures, np.tile(size, (pictures, 1)), boxes, minutes, device)


def test_image_size():
    """Seconds: 840 of 20 minutes for steps of 1 s at 128, 4 s at 256."""
    shape = lambda *args, **more: choose.choose_size(facts(*args, **more), 4).values["img_shape"]  # noqa: E731
    assert shape(side=0.3) == [128, 128]  # boxes of 38 pixels
    assert shape(side=0.05) == [128, 128]  # 256 would be 840 / 4 = 210 steps, below 300
    assert shape(side=0.05, minutes=40) == [256, 256]  # 420 steps
    assert shape(side=0.02, minutes=40, size=(100, 110)) == [128, 128]  # the pictures are not larger
    assert shape(side=0.015, minutes=100, device="GPU", size=(2000, 2000)) == [640, 640]
    assert shape(side=0.3, size=(200, 400)) == [128, 256] and shape(side=0.3, size=(400, 200)) == [256, 128]
    assert "--minutes" in choose.choose_size(facts(side=0.05), 4).reason
    assert choose.choose_size(facts(side=0.05, minutes=40), 4, 128).values["img_shape"] == [128, 128]


def test_batch_rate_and_weights(tmp_path):
    assert choose.choose_batch(facts(100)).values == {"batch_size": 4}
    assert choose.choose_batch(facts(9)).values == {"batch_size": 2}
    assert choose.choose_batch(facts(100, device="GPU")).values == {"batch_size": 16}
    assert choose.choose_rate(4, False).values == {"lr": 0.0005, "lr_init": 0.00005}
    assert choose.choose_rate(16, True).values["lr"] == 0.0005
    assert choose.choose_network(str(tmp_path))[1] is False
    (tmp_path / "resnet50.ckpt").write_bytes(b"x")
    choice, has_weights = choose.choose_network(str(tmp_path))
    assert has_weights and choice.values["feature_extractor_base_param"] == str(tmp_path / "resnet50.ckpt")
    (tmp_path / "ssd_resnet50_fpn_coco.ckpt").write_bytes(b"x")
    values = choose.choose_network(str(tmp_path))[0].values
    assert values["pre_trained"].endswith("coco.ckpt") and not values["feature_extractor_base_param"]


def test_schedule():
    choices, used = choose.choose_schedule(32, 4, 450)  # 8 steps in an epoch
    values = {key: value for choice in choices for key, value in choice.values.items()}
    assert used == 32 and values["epoch_size"] == 56 and values["bn_recalibration_steps"] == 8
    assert values["warmup_epochs"] == 5.0 and values["ema_decay"] == pytest.approx(1 - 5 / 448, abs=1e-4)
    choices, used = choose.choose_schedule(4000, 4, 450)  # an epoch of all pictures would take 1000 steps
    assert used == 1800 and choices[0].values["epoch_size"] == 1 and "1800 of 4000" in choices[0].reason
    choices, used = choose.choose_schedule(700, 4, 450)  # 2.57 epochs of 175 steps: 3 of 150
    assert used == 600 and choices[0].values["epoch_size"] == 3


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_times_are_read_from_the_log():
    """30 s until the first step, steps of 2 s, 1 s at the end of an epoch of 3 steps."""
    clock = Clock()
    watch = Stopwatch(3, 10, clock)
    line = "14:00:01 INFO epoch {}/1000: loss 3.1 (classes 2, boxes 1), lr 0.1, {:.3f} s/step, 2 images/s"
    clock.now += 37
    assert not watch.watch("first step: compiling") and not watch.watch(line.format(1, 9.0))
    clock.now += 7
    assert not watch.watch(line.format(2, 2.0))
    clock.now += 7
    assert watch.watch(line.format(3, 2.0))
    assert watch.pace() == pytest.approx((30, 2, 1))
    assert progress_of(line.format(3, 2.0))[:3] == (3, 1000, 0)
    found = progress_of(
        "INFO epoch 2/56, step 5/8: loss 3.1 (classes 2, boxes 1), lr 0.1, gradient norm 1, 0.500 s/step"
    )
    assert found == (2, 56, 5, 0.5)
    assert progress_of("INFO evaluating") is None


def test_steps_fill_the_time():
    pace = Pace(30, 2, 1)
    steps = steps_that_fit(430, pace, 8)
    assert steps == int(400 / (2 + 1 / 8)) and pace.seconds(steps // 8, 8) <= 430
    assert steps_that_fit(20, pace, 8) == 0
    assert reserve(pace, 4, 100) > reserve(pace, 4, 10)


def test_a_slower_machine_gets_fewer_epochs(tmp_path):
    """Planned: 100 epochs of 4 steps of 1 s within 430 s. The steps take 2 s: 4 s for an epoch become 8."""
    clock, end = Clock(), 530.0
    pacer = Pacer(lambda: end - clock.now, 430, Pace(20, 1, 0), 4, clock)
    line = "INFO epoch {}/100: loss 3.1 (classes 2, boxes 1), {:.3f} s/step"
    for speed, stops in ((4, False), (8, True)):
        clock.now, pacer.epochs = 130.0, None
        pacer._first = None
        for epoch in range(1, 12):
            if pacer.watch(line.format(epoch, speed / 4)):
                break
            clock.now += speed
        assert (pacer.epochs is not None) == stops
    # stopped at epoch 10 after 72 s, the first line after 64.5 s; a new process needs 20 s: (530 - 202 - 20) / 8 = 38.5
    assert clock.now == 202 and pacer.epochs == 48
    assert pacer.epochs_for(10.5, Pace(20, 2, 0)) == 49 and pacer.epochs_for(10.5, Pace(1000, 2, 0)) == 11
    (tmp_path / "ssd-7_2.ckpt").write_bytes(b"x")
    assert epochs_done(str(tmp_path), 4) == 6.5


def test_edits_win(tmp_path):
    path = str(tmp_path / "start.yaml")
    first = Settings(path)
    for choice in (choose.choose_rate(4, False), choose.Choice({"img_shape": [128, 128]}, "small"), recipe()):
        first.add(choice)
    first.save()
    text = open(path, encoding="utf-8").read()
    assert "# small\nimg_shape: [128, 128]\n" in text and "optimizer: adamw" in text
    cfg = load_config([f"--config_path={path}"])
    assert (cfg.lr, cfg.optimizer, cfg.box_loss, cfg.ema_decay) == (0.0005, "adamw", "giou", 0.0)
    edited = text.replace("lr: 0.0005", "lr: 0.001   # mine").replace("img_shape: [128, 128]\n", "")
    open(path, "w", encoding="utf-8").write(edited)
    second = Settings(path)
    second.add(choose.choose_rate(4, False))
    second.add(choose.Choice({"img_shape": [256, 256]}, "larger"))
    assert second.values["lr"] == 0.001 and second.values["img_shape"] == [256, 256]
    assert second.lines[0].endswith("from start.yaml") and second.lines[1] == "img_shape [256, 256]: larger"
    second.save()
    assert open(path, encoding="utf-8").read() == edited + "\n# larger\nimg_shape: [256, 256]\n"
    second.replace({"img_shape": [384, 384]})
    assert yaml.safe_load(open(path, encoding="utf-8"))["img_shape"] == [384, 384]
