"""The data check on hand-made sets; coverage by default boxes against the dense IoU."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from src.boxes.default_boxes import build_default_boxes
from src.config import load_config
from src.data.inspect.anchors import suggest_anchors
from src.data.inspect.check import check_split, check_splits
from src.data.inspect.statistics import best_iou, shape_figures
from src.data.records.prepare import _check_locale
from tests.helpers.annotations import coco, config, thing, voc
from tests.helpers.paths import ROOT
from tests.oracles import iou


@pytest.mark.parametrize(
    "options",
    [
        ["--img_shape=[256, 128]"],
        ["--img_shape=[128, 384]"],
        [
            "--use_anchor_generator=False",
            "--img_shape=[128, 128]",
            "--steps=[8, 16, 32, 64, 128]",
            "--num_default=[4, 4, 4, 4, 4]",
            "--aspect_ratios=[[2], [2], [2], [2], [2]]",
        ],
    ],
)
def test_best_iou_is_the_dense_one(options):
    cfg = load_config(["--device_target=CPU", *options])
    rng = np.random.default_rng(0)
    centre, size = rng.uniform(-0.1, 1.1, (60, 2)), np.exp(rng.uniform(-5, 0.5, (60, 2)))
    gt = np.concatenate([centre - size / 2, centre + size / 2], 1)
    defaults = build_default_boxes(cfg)[1].astype(np.float64).tolist()
    want = [max(iou(box, default) for default in defaults) for box in gt.tolist()]
    np.testing.assert_allclose(best_iou(gt, cfg), want, atol=2e-6)


def test_sizes_and_aspects_by_hand():
    # at 640 x 640: 64 x 16 pixels (size 32, aspect 4), 320 x 320, 6.4 x 6.4
    boxes = np.array([[0, 0, 0.025, 0.1, 1], [0, 0, 0.5, 0.5, 1], [0, 0, 0.01, 0.01, 2]])
    statistics = shape_figures(boxes, (640, 640))
    assert list(statistics["sizes"].values()) == [1, 0, 1, 1]
    assert statistics["size"]["0%"] == 6.4 and statistics["size"]["50%"] == 32 and statistics["size"]["100%"] == 320
    assert statistics["aspect"]["100%"] == 4 and statistics["aspect"]["0%"] == 1


def draw(path, height, width):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def issues(report):
    return {fault["kind"]: (fault["number"], fault["refused"]) for fault in report["faults"]}


def test_every_fault_at_once(tmp_path):
    coco(
        tmp_path,
        [
            {"image_id": 5, "category_id": 7, "bbox": [10, 20, 30, 40]},
            {"image_id": 5, "category_id": 99, "bbox": [1, 2, 3, 4]},
            {"image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4]},
            {"image_id": 8, "category_id": 0, "bbox": [1, 2, 0, 4]},
            {"image_id": 8, "category_id": 0, "bbox": [1, 2, "x", 4]},
            {"image_id": 9, "category_id": 0, "bbox": [150, 80, 100, 100]},
        ],
        images=((5, 100, 200), (6, 50, 60), (7, 10, 10), (8, 10, 10), (9, 200, 100)),
    )
    for name, size in (("5", (100, 200)), ("8", (10, 10)), ("9", (100, 200))):
        draw(str(tmp_path / "coco" / "train2017" / f"{name}.jpg"), *size)
    (tmp_path / "coco" / "train2017" / "7.jpg").write_bytes(b"<html>")
    report = check_split(config(tmp_path, "--batch_size=1"), True, decode=False)
    found = issues(report)
    assert found["annotations whose category_id the file does not list"] == (1, True)
    assert found["annotations have no usable bbox [x, y, width, height]"] == (1, True)
    assert found["images are missing"] == (1, True)
    assert found["images are broken (max_bad_images is 0)"] == (1, True)
    assert found["boxes of zero area (dropped), annotations"] == (1, False)
    assert found["images differ in size from their annotation (the image file's size is used)"] == (1, False)
    assert found["images with boxes that extend beyond the image (clipped)"] == (1, False)
    assert found["categories are not in 'classes' (their boxes are dropped)"] == (1, False)
    assert (report["images"], report["images_with_boxes"], report["boxes"]) == (5, 2, 2)
    assert [(row["name"], row["boxes"], row["images"]) for row in report["classes"]] == [("cat", 1, 1), ("dog", 1, 1)]
    assert report["image_sizes"] == {"smallest": [10, 10], "largest": [200, 100]}


def run(*arguments, cwd):
    command = [sys.executable, os.path.join(ROOT, "scripts", "check_data.py"), *arguments]
    return subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)


def test_the_script_for_voc_and_lists(tmp_path):
    options = [f"--data_path={tmp_path}", "--num_classes=3", "--classes=['background', 'cat', 'dog']", "--batch_size=1"]
    size = "<size><width>20</width><height>10</height></size>"
    voc(tmp_path, "1.xml", size + thing("cat", 2, 2, 9, 9) + thing("sofa", 1, 1, 3, 3), None)
    draw(str(tmp_path / "voc" / "train" / "Images" / "1.png"), 10, 20)
    draw(str(tmp_path / "images" / "a b.png"), 10, 20)
    (tmp_path / "list.txt").write_text("a b.png 1,1,8,8,2\n")
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    for more in (
        ["--dataset=voc", "--voc_root=voc"],
        ["--dataset=other", "--image_dir=images", "--anno_path=list.txt"],
    ):
        done = run(*options, *more, "--split=train", f"--json={tmp_path / 'report.json'}", cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads((tmp_path / "report.json").read_text())["train"]
        assert report["images"] == 1 and report["boxes"] == 1 and "can be used" in done.stdout
        assert sum(row["boxes"] for row in report["classes"]) == 1
    done = run(*options, "--dataset=voc", "--voc_root=voc", cwd=cwd)  # a training set alone can be converted
    assert done.returncode == 0 and "there is no evaluation set" in done.stdout and "Traceback" not in done.stderr
    done = run(*options, "--dataset=voc", "--voc_root=voc", "--split=val", cwd=cwd)
    assert done.returncode == 2 and "no such folder" in done.stdout and ": ," not in done.stdout
    assert os.listdir(cwd) == []


def boxed(*boxes, image_id=5):
    return [{"image_id": image_id, "category_id": 7, "bbox": list(box)} for box in boxes]


def coco_check(folder, annotations, sizes=((5, 100, 200), (6, 100, 200)), names=("train",), **more):
    """Reports of a COCO set whose images are drawn in different greys; train and val have the same annotations."""
    coco(folder, annotations, images=sizes)
    for grey, split in ((1, "train2017"), (2, "val2017")):
        for image_id, height, width in sizes:
            path = str(folder / "coco" / split / f"{image_id}.png")
            draw(path, height, width)
            image = cv2.imread(path)
            image[:, ::2] = grey * 50 + image_id
            cv2.imwrite(path, image)
            os.replace(path, path[:-3] + "jpg")
    if "change" in more:
        more["change"](folder / "coco")
    return check_splits(config(folder, "--batch_size=1"), names, more.get("decode", False))


def kinds(report, words):
    """The problems whose kind contains the words: [(number, places)]; none of them may be an error."""
    found = [fault for fault in report["faults"] if words in fault["kind"]]
    assert not any(fault["refused"] for fault in found)
    return [(fault["number"], [os.path.basename(place) for place in fault["places"]]) for fault in found]


XYWH = [(10, 10, 30, 20), (100, 50, 40, 30), (150, 20, 40, 60), (120, 70, 50, 25), (60, 40, 100, 50)]
DOUBTS = (
    "given twice",
    "look like corners",
    "swapped",
    "more than 100",
    "share",
    "same file",
    "in train",
    "black",
    "colour",
)


def test_a_sound_set_has_none_of_the_doubts(tmp_path):
    for report in coco_check(tmp_path, boxed(*XYWH), names=("train", "val"), decode=True):
        assert not [fault["kind"] for fault in report["faults"] if any(words in fault["kind"] for words in DOUBTS)]


def test_boxes_given_twice(tmp_path):
    other = [dict(boxed(XYWH[0])[0], category_id=0), *boxed(XYWH[0], image_id=6)]
    (report,) = coco_check(tmp_path, boxed(*XYWH, XYWH[1], XYWH[1], XYWH[2]) + other)
    assert kinds(report, "given twice") == [(3, ["5.jpg"] * 3)] and report["boxes"] == 10


def test_corners_in_place_of_sizes(tmp_path):
    corners = [(x, y, x + w, y + h) for x, y, w, h in XYWH]
    (report,) = coco_check(tmp_path, boxed(*corners))
    # read as sizes they extend to x = 50, 240, 340, 290, 220 of 200
    assert kinds(report, "look like corners") == [(4, ["5.jpg"] * 4)]


def test_axes_swapped(tmp_path):
    (report,) = coco_check(tmp_path, boxed(*[(y, x, h, w) for x, y, w, h in XYWH]))
    assert kinds(report, "x and y were swapped") == [(4, ["5.jpg"] * 4)]  # y + h > 100: 140, 190, 170, 160
    voc_corners = [(y + 1, x + 1, y + h + 1, x + w + 1) for x, y, w, h in XYWH]
    voc(tmp_path, "a.xml", "".join(thing("cat", *row) for row in voc_corners), None)
    draw(str(tmp_path / "voc" / "train" / "Images" / "a.png"), 100, 200)
    report = check_split(config(tmp_path, "--batch_size=1", "--dataset=voc"), True, decode=False)
    assert kinds(report, "x and y were swapped") == [(4, ["a.png"] * 4)]


def test_shares_of_the_image_are_refused(tmp_path):
    (report,) = coco_check(tmp_path, boxed((0.1, 0.2, 0.5, 0.6), (0.5, 0.5, 0.25, 0.5), (0, 0, 1, 0.5)))
    assert issues(report)[
        "boxes have coordinates between 0 and 1 (fractions of the image), where pixels are expected"
    ] == (
        3,
        True,
    )
    (report,) = coco_check(tmp_path, boxed((0, 0, 1, 1), (0.1, 0.2, 0.5, 0.6), *XYWH))
    assert issues(report)[
        "boxes have coordinates between 0 and 1 (fractions of the image), where pixels are expected"
    ] == (
        1,
        False,
    )


def test_more_boxes_than_evaluation_counts(tmp_path):
    many = [(k % 20, k // 20, 9, 9) for k in range(101)]
    (report,) = coco_check(tmp_path, boxed(*many) + boxed(*many[:100], image_id=6))
    assert kinds(report, "more than 100 boxes of one class") == [(1, ["5.jpg (101)"])]


def test_a_file_under_two_ids(tmp_path):
    def change(root):
        path = root / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        content["images"][1]["file_name"] = "5.jpg"
        path.write_text(json.dumps(content))

    (report,) = coco_check(tmp_path, boxed(*XYWH), change=change)
    assert kinds(report, "image ids refer to the same file as another id") == [(1, ["6 (5.jpg, as id 5)"])]


def test_copies_within_and_between_splits(tmp_path):
    def change(root):
        content = (root / "train2017" / "5.jpg").read_bytes()
        (root / "train2017" / "6.jpg").write_bytes(content)
        (root / "val2017" / "6.jpg").write_bytes(content)
        # same size, another byte at the end only: no copy
        (root / "val2017" / "5.jpg").write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])

    train, val = coco_check(tmp_path, boxed(*XYWH), names=("train", "val"), change=change)
    assert [number for number, _ in kinds(train, "the same file as another image")] == [1]
    ((number, places),) = kinds(val, "images of val are in train too, byte for byte")
    assert number == 1 and places[0].startswith("5.jpg)") and not kinds(val, "every image of val is in train")


def test_evaluation_on_the_training_set_and_classes_that_one_lacks(tmp_path):
    draw(str(tmp_path / "images" / "a.png"), 100, 200)
    (tmp_path / "list.txt").write_text("a.png 1,1,80,80,2\n")
    cfg = config(tmp_path, "--dataset=other", "--batch_size=1")
    _, val = check_splits(cfg, ("train", "val"), False)
    assert kinds(val, "images of val are in train too") == [(1, ["a.png"])]
    assert kinds(val, "every image of val is in train") == [(1, ["val"])]
    (tmp_path / "val.txt").write_text("a.png 1,1,80,80,1\n")
    cfg = config(tmp_path, "--dataset=other", "--batch_size=1", "--anno_path_val=val.txt")
    _, val = check_splits(cfg, ("train", "val"), False)
    assert kinds(val, "classes of train have no box in val") == [(1, ["dog"])]
    assert kinds(val, "classes of val have no box in train") == [(1, ["cat"])]


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_16_bit_images_that_become_black(tmp_path, decode, ending):
    def change(root):
        ramp = np.tile(np.arange(200, dtype=np.uint16), (100, 1))
        for name, image in (("5", ramp * 20), ("6", ramp * 300)):  # 12 bits: up to 15 of 255; the full range
            (root / "train2017" / f"{name}.jpg").write_bytes(cv2.imencode(ending, image)[1].tobytes())

    (report,) = coco_check(tmp_path, boxed(*XYWH), change=change, decode=decode)
    assert kinds(report, "16-bit images become black") == [(1, ["5.jpg"])]


def test_one_colour_and_odd_sizes(tmp_path):
    def change(root):
        draw(str(root / "train2017" / "5.jpg"), 100, 200)

    (report,) = coco_check(
        tmp_path, boxed(*XYWH), ((5, 100, 200), (6, 31, 40), (7, 32, 257), (8, 32, 256)), change=change, decode=True
    )
    assert kinds(report, "images have one colour only") == [(1, ["5.jpg"])]
    assert kinds(report, "smaller than 32 pixels") == [(1, ["6.jpg (40 x 31)"])]
    assert kinds(report, "8 times as long") == [(1, ["7.jpg (257 x 32)"])]


def test_turned_by_exif_after_annotation(tmp_path):
    def change(root):
        path = root / "train2017" / "5.jpg"
        jpeg = cv2.imencode(".jpg", np.full((200, 100, 3), 90, np.uint8))[1].tobytes()
        exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
        path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])

    (report,) = coco_check(tmp_path, boxed(*XYWH), change=change)
    assert kinds(report, "annotated as rotated by their EXIF orientation") == [(1, ["5.jpg"])]


def test_missing_images_get_a_hint(tmp_path):
    hints = {
        "5.jpg": ("5.JPG", "the folder has 5.JPG: extension and case must match"),
        "sub/5.jpg": ("5.png", "there is no folder sub in"),
        "b\\5.jpg": ("x.jpg", "holds backslashes"),
        "http://host/x/7.jpg": ("x.jpg", "a URL is given"),
        "x.jpg 3 0.5 0.5 0.1 0.1": ("x.jpg", "the folder has x.jpg; the rest of the line is not a box"),
    }
    os.makedirs(tmp_path / "images")
    for name, (there, words) in hints.items():
        for old in (tmp_path / "images").iterdir():
            old.unlink()
        draw(str(tmp_path / "images" / "y.png"), 40, 40)
        os.replace(tmp_path / "images" / "y.png", tmp_path / "images" / there)
        (tmp_path / "list.txt").write_text(f"{name} 1,1,8,8,2\n")
        report = check_split(config(tmp_path, "--dataset=other"), True, decode=False)
        (fault,) = [fault for fault in report["faults"] if fault["kind"] == "images are missing"]
        assert fault["refused"] and words in fault["places"][0], name


def test_absent_classes_of_a_default_list(tmp_path):
    coco(tmp_path, boxed(*XYWH))
    names = ["background", "cat", "dog", "a", "b", "c"]
    report = check_split(config(tmp_path, "--num_classes=6", f"--classes={names}"), True, decode=False)
    assert kinds(report, "class list holds mostly classes that the file lacks") == [(1, ["3 of 5"])]
    coco(tmp_path, boxed(*XYWH), categories=((7, "Dog"), (0, "cat")))
    report = check_split(config(tmp_path), True, decode=False)
    assert kinds(report, "categories are not in 'classes'") == [(1, ["Dog (5 boxes, spelt 'dog' in 'classes')"])]


def test_an_empty_set_is_refused_as_conversion_does(tmp_path):
    os.makedirs(tmp_path / "images")
    (tmp_path / "list.txt").write_text("\n")
    for is_training in (True, False):
        report = check_split(config(tmp_path, "--dataset=other"), is_training, decode=False)
        assert issues(report)["set holds no image"] == (1, True)


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {}])
def test_names_are_found_in_any_locale(tmp_path, locale):
    """With LC_ALL=C Python expects ASCII file names; names in annotations and on disk are UTF-8."""
    (tmp_path / "图").mkdir()
    draw(str(tmp_path / "图" / "grün 1.png"), 20, 20)
    (tmp_path / "list.txt").write_text("grün 1.png 1,1,9,9,1\n", encoding="utf-8")
    options = ["--dataset=other", "--image_dir=图", "--anno_path=list.txt", "--num_classes=2", "--batch_size=1"]
    command = [
        sys.executable,
        os.path.join(ROOT, "scripts", "check_data.py"),
        f"--data_path={tmp_path}",
        "--classes=['background', '红']",
        *options,
    ]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ, **locale), capture_output=True)
    shown = done.stdout.decode()
    assert done.returncode == 0 and "images 1, with boxes 1" in shown and "红" in shown, shown + done.stderr.decode()


def test_records_in_a_folder_that_mindspore_cannot_open_in_this_locale(tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = (
        "import sys; from src.data.records.prepare import _check_locale as check\n"
        "check('/ascii')\ntry: check(sys.argv[1])\nexcept Exception as error: print(ascii(str(error)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "/图"], cwd=ROOT, env=dict(os.environ, **locale), capture_output=True
    )
    assert b"PYTHONUTF8=1" in done.stdout and not done.stderr
    _check_locale("/图")


def anchor_corners(shape, steps, scale, octaves, ratios):
    """The default boxes in pixels, one after the other: y1, x1, y2, x2."""
    for step in steps:
        for row in range(shape[0] // step):
            for column in range(shape[1] // step):
                for ratio in ratios:
                    for octave in range(octaves):
                        side = scale * step * 2 ** (octave / octaves)
                        high, wide = side / ratio**0.5, side * ratio**0.5
                        y, x = (row + 0.5) * step, (column + 0.5) * step
                        yield y - high / 2, x - wide / 2, y + high / 2, x + wide / 2


def test_other_anchors():
    """The default boxes of other keys, counted and placed by a loop; num_default follows from them."""
    options = ["--anchor_scale=2.5", "--anchor_octaves=3", "--anchor_ratios=[1,3,0.4,2]", "--img_shape=[128, 256]"]
    cfg = load_config(["--device_target=CPU", *options])
    want = np.array(list(anchor_corners((128, 256), cfg.steps, 2.5, 3, [1, 3, 0.4, 2])))
    assert cfg.num_default == [12] * 5 and cfg.num_ssd_boxes == len(want)
    got = build_default_boxes(cfg)[1] * np.array([128, 256, 128, 256])
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_suggested_anchors_cover_what_the_published_ones_do_not():
    """Long boxes of 16 x 35 pixels: published default boxes begin at 32 pixels, and know ratios of 2 only."""
    cfg = load_config(["--device_target=CPU", "--img_shape=[128, 128]"])
    rng = np.random.default_rng(0)
    corner, high = rng.uniform(0, 100, (200, 2)), rng.uniform(14, 18, (200, 1))
    small = np.concatenate([corner, corner + high * [1, 2.2], np.full((200, 1), 128)], 1) / 128
    now, best = suggest_anchors(small, cfg)
    trial = load_config(["--device_target=CPU", "--img_shape=[128, 128]", *best.options.split()])
    for cover, of_cover in ((now, cfg), (best, trial)):
        dense = build_default_boxes(of_cover)[1].astype(np.float64).tolist()
        overlaps = np.array([max(iou(box, default) for default in dense) for box in small[:40, :4].tolist()])
        assert abs((overlaps <= 0.5).mean() - cover.uncovered) < 0.1
        assert abs(overlaps.mean() - cover.mean_iou) < 0.05
    assert now.uncovered > 0.25 and best.uncovered < 0.1 and best.anchor_scale < 4
    large = np.array([[0.2, 0.2, 0.5, 0.5, 1.0], [0.4, 0.4, 0.9, 0.9, 1.0]])
    assert len({id(cover) for cover in suggest_anchors(large, cfg)}) == 1
