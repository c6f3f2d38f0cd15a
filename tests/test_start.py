"""scripts/start.py: recognition, split, choices, fitting to the time, edits, errors, and a complete run."""

import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest
import yaml

from scripts.draw_shapes import draw_split
from src.config import load_config
from src.data.sample import Sample, boxes_array
from src.start import choose
from src.start.derived import write_part
from src.start.pacing import Pacer, epochs_done, reserve
from src.start.pictures import read_pictures
from src.start.processes import Pace, Stopwatch, progress_of, steps_that_fit
from src.start.recognise import Found, recognise, split_of
from src.start.run import Start
from src.start.settings import Settings, recipe
from src.start.split import fewer, split_pictures
from src.utils.errors import UserError
from tests.helpers.programs import run
from tests.helpers.tool_formats import FORMATS, write_all

CLASSES = ["stop sign", "sports ball", "kite"]
SORTED = ["kite", "sports ball", "stop sign"]
IN_ORDER = ("coco", "yolo")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder for each format, with the same 12 + 6 drawn pictures."""
    folder, apart = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("sets")
    for split, count in (("train2017", 12), ("val2017", 6)):
        path = folder / "coco" / "annotations" / f"instances_{split}.json"
        draw_split(str(folder / "coco" / split), str(path), count, [5, len(split)], 160, 1)
        content = json.loads(path.read_text())
        for row in content["annotations"]:  # the other formats have no crowds
            row["iscrowd"] = 0
        path.write_text(json.dumps(content))
    write_all(folder)
    for name in ("coco", "voc", "yolo", "labelme", "cvat"):
        shutil.copytree(folder / name, apart / name)
    for name, files in (("other", ("list_train.txt", "list_val.txt")), ("label_studio", ("train.json", "val.json"))):
        shutil.copytree(folder / "coco", apart / name, ignore=shutil.ignore_patterns("annotations"))
        for file in files:
            shutil.copy(folder / file, apart / name)
    return folder, apart


def table(samples):
    """{name of an image: sorted boxes without labels}."""
    return {os.path.basename(sample.path): sorted(sample.boxes[:, :4].tolist()) for sample in samples}


@pytest.mark.parametrize("dataset", FORMATS)
def test_each_format_is_recognised_and_read(sets, dataset):
    folder = str(sets[1] / dataset)
    found = recognise(folder)
    assert found.dataset == dataset and re.search(r": .*\.\w+ (has|is) ", found.line)
    data, want = read_pictures(found, folder), read_pictures(recognise(str(sets[1] / "coco")), str(sets[1] / "coco"))
    assert {name: table(part) for name, part in data.parts.items()} == {
        name: table(part) for name, part in want.parts.items()
    }
    names = CLASSES if dataset in IN_ORDER else [f"class {n}" for n in (1, 2, 3)] if dataset == "other" else SORTED
    assert data.classes == ["background", *names] and data.absent == []


def test_class_names_of_a_list_are_next_to_it(sets, tmp_path):
    folder = shutil.copytree(sets[1] / "other", tmp_path / "set")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    assert read_pictures(recognise(str(folder)), str(folder)).classes == ["background", *CLASSES]


@pytest.mark.parametrize("dataset", ["coco", "voc", "other", "labelme", "cvat", "label_studio"])
def test_one_file_or_folder_without_a_split(sets, tmp_path, dataset):
    """What lies in one folder and names no split is one part, wherever the pictures are."""
    source, folder = sets[1] / dataset, tmp_path / "photos"
    if dataset == "coco":
        shutil.copytree(source / "train2017", folder / "pictures")
        shutil.copy(source / "annotations" / "instances_train2017.json", folder / "labels.json")
    elif dataset == "voc":  # VOC's original layout
        shutil.copytree(source / "train" / "Images", folder / "JPEGImages")
        shutil.copytree(source / "train" / "Annotations", folder / "Annotations")
    elif dataset in ("labelme", "cvat"):
        shutil.copytree(source / "train", folder)
    else:
        shutil.copytree(source / "train2017", folder / "train2017")
        shutil.copy(source / ("list_train.txt" if dataset == "other" else "train.json"), folder / "labels.x")
        os.rename(folder / "labels.x", folder / ("labels.txt" if dataset == "other" else "labels.json"))
    found = recognise(str(folder))
    assert (found.dataset, [part.name for part in found.parts]) == (dataset, [""])
    data = read_pictures(found, str(folder))
    assert list(data.parts) == [""] and len(data.samples) == 12


def test_words_of_a_path_name_the_split():
    assert [split_of(path) for path in ("train/a.xml", "instances_val2017.json", "valid/x", "a/b.json")] == [
        "train",
        "val",
        "val",
        "",
    ]
    assert split_of("training.json") == "train" and split_of("trained.json") == "" and split_of("test-1.xml") == "test"


def line_of(call, *words):
    with pytest.raises(UserError) as error:
        call()
    assert len(str(error.value).splitlines()) == 1
    assert all(word in str(error.value) for word in words), str(error.value)


def test_folders_that_are_not_one_set(sets, tmp_path):
    line_of(lambda: recognise(str(sets[0])), "several formats", "coco (", "yolo (yolo/data.yaml)", "--dataset")
    assert recognise(str(sets[0]), "yolo").dataset == "yolo"
    line_of(lambda: recognise(str(tmp_path)), "neither pictures nor annotations", "give the folder")
    line_of(lambda: recognise(str(tmp_path / "no")), "does not exist")
    cv2.imwrite(str(tmp_path / "1.jpg"), np.zeros((40, 40, 3), np.uint8))
    line_of(lambda: recognise(str(tmp_path)), "1 pictures but no annotations", "label the pictures")
    (tmp_path / "1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    line_of(lambda: recognise(str(tmp_path)), "1.txt", "no data.yaml", "names: [")
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text('{"images": [], "annotations": [], "categories": []}')
    line_of(lambda: recognise(str(tmp_path)), "2 annotation files", "one.json", "two.json", "keep one")


def photo(seed, size=96):
    """A smooth picture that no other seed's resembles."""
    noise = np.random.default_rng(seed).uniform(0, 255, (6, 6, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def samples_of(folder, images, labels=(1,)):
    """Samples of pictures that are written into a folder; the labels are given in turn."""
    samples = []
    for number, (name, image) in enumerate(images.items()):
        os.makedirs(os.path.dirname(folder / name), exist_ok=True)
        cv2.imwrite(str(folder / name), image)
        boxes = boxes_array([(5, 5, 40, 40, labels[number % len(labels)])])
        samples.append(Sample(number, str(folder / name), boxes, image.shape[1], image.shape[0], name))
    return samples


def test_no_picture_and_its_near_copy_on_both_sides(tmp_path):
    images = {f"{number:02d}.png": photo(number) for number in range(20)}
    for number in range(8):
        image = photo(number)
        changed = [image, image[:, ::-1], cv2.resize(image, (140, 140)), np.clip(image * 0.8 + 40, 0, 255)][number % 4]
        images[f"copy{number:02d}.png"] = changed.astype(np.uint8)
    samples = samples_of(tmp_path, images)
    for seed in range(6):
        split = split_pictures(samples, ["background", "cat"], seed, "", 2)
        assert split.alike == 16 and len(split.train) + len(split.val) == 28 and 4 <= len(split.val) <= 6
        sides = [{os.path.basename(sample.path)[-6:-4] for sample in side} for side in (split.train, split.val)]
        assert not sides[0] & sides[1]
    again = split_pictures(samples, ["background", "cat"], 3, "", 2)
    assert [s.path for s in again.val] == [s.path for s in split_pictures(samples, ["b", "cat"], 3, "", 2).val]


def test_groups_that_are_asked_for(tmp_path):
    names = [f"{folder}/shop{shop}_{number}.png" for folder in "abcd" for shop in (1, 2) for number in range(4)]
    samples = samples_of(tmp_path, {name: photo(number) for number, name in enumerate(names)})
    for group_by, key in (("folder", r"/(\w)/shop"), (r"(shop\d)_", r"(shop\d)_"), (r"\w/shop\d", r"(\w/shop\d)")):
        classes = ["background", "cat"]
        split = split_pictures(samples, classes, 1, group_by, 2)
        groups = [{re.search(key, sample.path).group(1) for sample in side} for side in (split.train, split.val)]
        assert not groups[0] & groups[1] and all(groups)
    line_of(lambda: split_pictures(samples, classes, 1, "(", 2), "--group_by", "regular expression")
    line_of(lambda: split_pictures(samples, classes, 1, "nothing", 2), "--group_by nothing", "no two groups")
    line_of(lambda: split_pictures(samples[:4], classes, 1, "folder", 2), "in one folder")


def test_every_class_is_on_both_sides(tmp_path):
    """Also one with boxes in 2 of 40 pictures; a class in one picture only is refused."""
    samples = samples_of(tmp_path, {f"{number}.png": photo(number) for number in range(40)})
    for number in (3, 17):
        samples[number].boxes[:, 4] = 2
    for seed in range(5):
        split = split_pictures(samples, ["background", "cat", "dog"], seed, "", 2)
        assert len(split.val) == 8
        for side in (split.train, split.val):
            assert {label for sample in side for label in sample.boxes[:, 4].tolist()} == {1, 2}
    samples[3].boxes[:, 4] = 1
    line_of(lambda: split_pictures(samples, ["background", "cat", "dog"], 1, "", 2), "'dog'", "label more", "--classes")
    samples[3].boxes[:, 4] = 2
    few = fewer(samples, 10, 1)
    assert len(few) == 10 and any(sample.boxes[0, 4] == 2 for sample in few)


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


def test_derived_annotations(sets, tmp_path):
    """Pictures stay where they are; boxes are those of the set, of COCO as written."""
    folder = str(sets[1] / "coco")
    before = {path: os.stat(path).st_mtime_ns for path, _, _ in os.walk(folder)}
    data = read_pictures(recognise(folder), folder)
    write_part(str(tmp_path / "data"), "val", data.parts["val"], data, folder)
    content = json.loads((tmp_path / "data" / "instances_val.json").read_text())
    source = json.loads((sets[1] / "coco" / "annotations" / "instances_val2017.json").read_text())
    assert sorted(row["bbox"] for row in content["annotations"]) == sorted(row["bbox"] for row in source["annotations"])
    for image in content["images"]:
        path = tmp_path / "data" / "val" / image["file_name"]
        assert os.path.realpath(path).startswith(os.path.realpath(folder))
    assert before == {path: os.stat(path).st_mtime_ns for path, _, _ in os.walk(folder)}


def unusable(folder, tmp_path, *words, **more):
    """start.py stops in one line before it measures anything."""
    start = Start(str(folder), str(tmp_path / "out"), 1, "", more.get("group_by", ""), 1, [], "CPU", lambda line: None)
    os.makedirs(tmp_path / "out", exist_ok=True)
    line_of(start.run, *words)


def test_unusable_data(sets, tmp_path):
    folder = shutil.copytree(sets[1] / "yolo", tmp_path / "yolo")
    images = sorted(os.listdir(folder / "images" / "train"))
    broken = folder / "images" / "train" / images[0]
    content = broken.read_bytes()
    broken.write_bytes(content[:10])
    unusable(folder, tmp_path, images[0], "broken")
    broken.write_bytes(content)
    for part in ("train", "val"):
        for name in os.listdir(folder / "labels" / part)[: 10 if part == "train" else 6]:
            (folder / "labels" / part / name).write_text("")
    unusable(folder, tmp_path, "pictures with boxes; at least 10", "label more")
    for path in folder.glob("labels/*/*.txt"):
        path.write_text("")
    unusable(folder, tmp_path, "no picture has a box", "label the objects")


def test_changed_annotations_need_another_output(sets, tmp_path):
    folder = shutil.copytree(sets[1] / "cvat", tmp_path / "cvat")
    start = Start(str(folder), str(tmp_path), 1, "", "", 1, [], "CPU", lambda line: None)
    start._read()
    start.save_state()
    with open(folder / "train" / "annotations.xml", "a", encoding="utf-8") as handle:
        handle.write("\n")
    again = Start(str(folder), str(tmp_path), 1, "", "", 1, [], "CPU", lambda line: None)
    again._load_state()
    line_of(again._read, "annotations changed", "--output")


def test_bad_options(sets, tmp_path):
    folder = sets[1] / "coco"
    for options, words in (
        (["--minutes", "0"], "--minutes must be"),
        (["--output", folder / "out"], "lies in the folder of the pictures"),
        (["--classes", "dragon", "--output", tmp_path], "dragon is not a class of the set"),
    ):
        done = run("scripts/start.py", folder, *options)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (folder / "out").exists()


def test_found_says_why():
    assert Found("coco", [], "a.json has images").line == "COCO: a.json has images"
