"""Class names travel with weights, and are compared by name."""

import logging
import os
import shlex

import mindspore as ms
import numpy as np
import pytest
import yaml
from easydict import EasyDict
from mindspore import Tensor, nn

from src.config import load_config
from src.config.networks import OPTIONAL_KEYS
from src.inference.predictor import options_of
from src.models.checkpoint_file import write_checkpoint
from src.models.trained_classes import (
    RUN_STATE,
    check_before_start,
    check_same_classes,
    classes_options,
    first_difference,
    read_trained_config,
    trained_classes,
)
from src.models.weights import load_network
from src.training.checkpoint import restore_run, save_checkpoint_atomically
from src.training.state import RunState, training_relevant_config
from src.utils.errors import UserError
from tests.helpers.programs import run

NAMES = ["background", "cat", "dog", "cow"]
SWAPPED = ["background", "dog", "cat", "cow"]
RENAMED = ["background", "cat", "hound", "cow"]
FEWER = NAMES[:3]


def state(names):
    return RunState(epochs=1, steps_per_epoch=4, config={"classes": names, "num_classes": len(names)} if names else {})


class Head(nn.Cell):
    """A network with only the parameter names of the class predictor."""

    def __init__(self, count=4):
        super().__init__()
        self.weight = ms.Parameter(Tensor(np.zeros((6 * count, 2), np.float32)), name="multi_box.cls_layers.0.weight")
        self.other = ms.Parameter(Tensor(np.zeros(3, np.float32)), name="feature_extractor.conv.weight")


def checkpoint(path, names, count=4):
    head = Head(count)
    for parameter in head.get_parameters():
        parameter.set_data(Tensor(np.ones(parameter.shape, np.float32)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint_atomically(head, str(path), state(names))
    return str(path)


def test_the_first_difference_in_words():
    assert first_difference(NAMES, NAMES) == ""
    assert first_difference(NAMES, SWAPPED) == "class 1 is 'cat' there and 'dog' here"
    assert first_difference(NAMES, FEWER) == "4 classes there, 3 here; class 3 is 'cow' there and missing here"
    assert first_difference(FEWER, NAMES) == "3 classes there, 4 here; class 3 is missing there and 'cow' here"


def test_names_are_read_from_a_checkpoint(tmp_path):
    path = checkpoint(tmp_path / "a.ckpt", NAMES)
    assert trained_classes(read_trained_config(path)) == NAMES
    ms.save_checkpoint(Head(), str(tmp_path / "published.ckpt"))
    assert read_trained_config(str(tmp_path / "published.ckpt")) == {}
    assert read_trained_config(str(tmp_path / "nothing.ckpt")) == {}
    for content in (b"no json", b"[]", b'{"config": 3}', b'{"config": {"classes": [1]}}'):
        write_checkpoint(str(tmp_path / "odd.ckpt"), [(RUN_STATE, np.frombuffer(content, np.uint8))])
        assert trained_classes(read_trained_config(str(tmp_path / "odd.ckpt"))) == []


@pytest.mark.parametrize("names", [SWAPPED, RENAMED, FEWER])
def test_evaluation_prediction_and_export_need_the_same_names(tmp_path, names):
    path = checkpoint(tmp_path / "a.ckpt", NAMES)
    for key in ("checkpoint_file_path", "model"):
        with pytest.raises(UserError) as raised:
            load_network(Head(len(names)), path, key, strict=True, classes=names)
        assert first_difference(NAMES, names) in str(raised.value) and str(raised.value).startswith(f"{key}: {path}")
    load_network(Head(), path, "model", strict=True, classes=NAMES)


def test_the_advice_works_in_the_program_that_prints_it(tmp_path):
    path = checkpoint(tmp_path / "ckpt_0" / "a.ckpt", ["background", "traffic light", "it's"])
    for key in ("checkpoint_file_path", "model"):
        with pytest.raises(UserError) as raised:
            check_same_classes(["background", "traffic light", "it's"], FEWER, path, key)
        assert ("--classes" in str(raised.value)) == (key != "model")
    with pytest.raises(UserError) as raised:
        check_same_classes(["background", "traffic light", "it's"], FEWER, path, "checkpoint_file_path")
    words = shlex.split(str(raised.value).split("use its classes: ")[1])
    assert load_config(words).classes == ["background", "traffic light", "it's"]
    for names in (
        NAMES,
        ["background", "traffic light", "no", "1"],
        ["b", "猫", "a,b", '"'],
        ["b", "- x", "[y", "$HOME"],
    ):
        assert load_config(shlex.split(classes_options(names))).classes == names
    # the configuration of the run, if it exists and has these classes
    (tmp_path / "config.yaml").write_text("classes: [background, traffic light, it's]\n")
    with pytest.raises(UserError, match=f"--config_path={tmp_path}/config.yaml"):
        check_same_classes(["background", "traffic light", "it's"], FEWER, path, "model")
    for text in ("classes: [a, b]\n", "{", "- 3\n"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError) as raised:
            check_same_classes(["background", "traffic light", "it's"], FEWER, path, "model")
        assert "config.yaml" not in str(raised.value)


def start(path, classes, filters=()):
    cfg = EasyDict(
        pre_trained=path,
        feature_extractor_base_param="",
        classes=classes,
        checkpoint_filter_list=list(filters),
        filter_weight=bool(filters),
        match_class_names=False,
    )
    check_before_start(cfg, [])  # as train.py asks, before anything is converted
    head = Head(len(classes))
    load_network(head, path, "pre_trained", filters, classes=classes)
    return {parameter.name: parameter.asnumpy() for parameter in head.get_parameters()}


def test_pre_trained(tmp_path, log_lines):
    path = checkpoint(tmp_path / "a.ckpt", NAMES)
    for names in (SWAPPED, FEWER):
        with pytest.raises(UserError, match="--filter_weight=True") as raised:
            start(path, names)
        assert first_difference(NAMES, names) in str(raised.value)
        # the advice works
        got = start(path, names, ["network.multi_box.cls_layers.0.weight", "network.multi_box.cls_layers.0.bias"])
        assert (got["multi_box.cls_layers.0.weight"] == 0).all() and (got["feature_extractor.conv.weight"] == 1).all()
    assert not [line for line in log_lines(logging.WARNING) if "class 1" in line]
    # perhaps another spelling
    assert (start(path, RENAMED)["multi_box.cls_layers.0.weight"] == 1).all()
    warnings = [line for line in log_lines(logging.WARNING) if "trained" in line]
    assert any("class 2 is 'dog' there and 'hound' here" in line for line in warnings)
    with pytest.raises(UserError, match="'cls_layers' in checkpoint_filter_list"):
        start(path, SWAPPED, ["loc_layers"])


def test_without_names_everything_loads_as_before(tmp_path, log_lines):
    ms.save_checkpoint(Head(), str(tmp_path / "published.ckpt"))
    path = str(tmp_path / "published.ckpt")
    load_network(Head(), path, "checkpoint_file_path", strict=True, classes=SWAPPED)
    start(path, SWAPPED)
    assert not [line for line in log_lines(logging.WARNING) if "class" in line]


def test_resume(tmp_path):
    path = checkpoint(tmp_path / "ckpt_0" / "ssd-1_4.ckpt", NAMES)
    assert restore_run(Head(), [path], state(NAMES))[0].epochs == 1
    for names in (SWAPPED, RENAMED, FEWER):
        with pytest.raises(UserError, match="^resume: .*--pre_trained=.*--filter_weight=True") as raised:
            restore_run(Head(len(names)), [path], state(names))
        assert first_difference(NAMES, names) in str(raised.value)
        with pytest.raises(UserError, match="^resume: "):
            check_before_start(EasyDict(classes=names), [str(tmp_path / "broken.ckpt"), path])


def test_a_checkpoint_alone_says_what_it_needs(tmp_path):
    """A checkpoint copied out of the folder of its run is used with the options in it."""
    cfg = load_config(["--classes", str(NAMES), "--num_classes=4", "--img_shape=[128, 256]", "--device_target=CPU"])
    save_checkpoint_atomically(Head(), str(tmp_path / "best_map.ckpt"), RunState(config=training_relevant_config(cfg)))
    got = load_config(options_of(str(tmp_path / "best_map.ckpt")))
    for key in ("classes", "num_classes", "img_shape", "num_ssd_boxes", "steps", "aspect_ratios", "freeze_layer"):
        assert got[key] == cfg[key], key
    ms.save_checkpoint(Head(), str(tmp_path / "published.ckpt"))
    with pytest.raises(UserError, match="holds no class names"):
        options_of(str(tmp_path / "published.ckpt"))
    assert options_of(str(tmp_path / "published.ckpt"), "x.yaml") == ["--config_path=x.yaml"]


def test_training_is_refused_before_anything_is_converted(tmp_path):
    path = checkpoint(tmp_path / "out" / "ckpt_0" / "ssd-1_4.ckpt", NAMES)
    options = ["--device_target=CPU", f"--classes={SWAPPED}", "--num_classes=4", "--feature_extractor_base_param="]
    options += [f"--data_path={tmp_path}", f"--mindrecord_dir={tmp_path / 'records'}"]
    for more in ([f"--pre_trained={path}", "--output_path=new"], ["--resume", f"--output_path={tmp_path / 'out'}"]):
        done = run("train.py", *options, *more, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "class 1 is 'cat' there and 'dog' here" in done.stderr
        assert sorted(os.listdir(tmp_path)) == ["out"] and os.listdir(tmp_path / "out") == ["ckpt_0"]


def test_a_checkpoint_of_an_earlier_run_keeps_the_configuration_of_that_run(tmp_path):
    earlier = checkpoint(tmp_path / "ckpt_0.20260101-000000" / "best_map.ckpt", NAMES)
    later = checkpoint(tmp_path / "ckpt_0" / "best_map.ckpt", SWAPPED)
    dumped = {"classes": NAMES, "num_classes": 4, "img_shape": [128, 128]}
    (tmp_path / "ckpt_0.20260101-000000" / "config.yaml").write_text(yaml.safe_dump(dumped))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(dict(dumped, classes=SWAPPED, img_shape=[256, 256])))
    assert options_of(earlier) == [f"--config_path={os.path.dirname(earlier)}/config.yaml"]
    assert options_of(later) == [f"--config_path={tmp_path}/config.yaml"]


@pytest.mark.parametrize("text", ["classes: [background, a]\nnum_classes: 2\n", "services: {web: 1}\n", "{", ""])
def test_a_config_that_is_not_of_the_run_of_a_copied_checkpoint_is_not_read(tmp_path, text):
    copied = checkpoint(tmp_path / "copies" / "a.ckpt", NAMES)
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(options_of(copied)).classes == NAMES
    assert options_of(copied, "mine.yaml") == ["--config_path=mine.yaml"]


@pytest.mark.parametrize(
    "options",
    [
        ["--model_name=ssd_vgg16", "--ssd_vgg_bn=True"],
        ["--model_name=ssd300", "--img_shape=[160, 160]", "--extras_ratio=[0.2, 0.2, 0.5, 0.25, 0.5, 0.25]"],
        ["--num_addition_layers=2", "--backbone_padding=symmetric"],
    ],
)
def test_a_copied_checkpoint_says_which_network_it_is_of(tmp_path, monkeypatch, options):
    trained = load_config(options)
    monkeypatch.setattr("src.inference.predictor.read_trained_config", lambda path: dict(trained))
    again = load_config(options_of(str(tmp_path / "copies" / "a.ckpt")))
    for key in (*OPTIONAL_KEYS, "model_name", "img_shape", "steps", "num_ssd_boxes", "classes", "min_scale"):
        assert again[key] == trained[key], key


START = {"pre_trained": "", "feature_extractor_base_param": "", "classes": NAMES}
START.update(filter_weight=False, match_class_names=False)


@pytest.mark.parametrize("content", [b"", b"<html></html>", None], ids=["empty", "page", "cut"])
def test_a_damaged_start_is_reported_before_anything_is_converted(tmp_path, content):
    good, bad = checkpoint(tmp_path / "a.ckpt", NAMES), tmp_path / "b.ckpt"
    bad.write_bytes((tmp_path / "a.ckpt").read_bytes()[:-5] if content is None else content)
    for key in ("pre_trained", "feature_extractor_base_param"):
        cfg = EasyDict(dict(START, **{key: str(bad)}))
        with pytest.raises(UserError, match=f"^{key}: {bad} is damaged or no checkpoint: "):
            check_before_start(cfg, [])
    cfg = EasyDict(dict(START))
    with pytest.raises(UserError, match=f"^resume: {bad} is damaged or no checkpoint: "):
        check_before_start(cfg, [str(bad), str(bad)])
    check_before_start(cfg, [str(bad), good])  # the newest may be damaged: an older one is resumed from


def test_resuming_from_weights_only_is_reported_before_anything_is_converted(tmp_path):
    ms.save_checkpoint(Head(), str(tmp_path / "published.ckpt"))
    with pytest.raises(UserError, match="is not a complete training checkpoint.*--pre_trained"):
        check_before_start(EasyDict(dict(START)), [str(tmp_path / "published.ckpt")])
