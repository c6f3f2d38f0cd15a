"""Planted faults that spoil metrics are found, and drawn sets give no false alarm."""

import json
import shutil

import cv2
import numpy as np
import pytest

from scripts.draw_shapes import draw_split
from src.config import load_config
from src.data.inspect.check import check_splits
from src.data.inspect.near_copies import near_pairs, thumbnails
from src.data.sample import Sample, boxes_array

CLASSES = "['background', 'stop sign', 'sports ball', 'kite']"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """60 training and 20 validation images."""
    folder = tmp_path_factory.mktemp("drawn")
    for part, (split, count) in enumerate((("train2017", 60), ("val2017", 20))):
        path = folder / "annotations" / f"instances_{split}.json"
        draw_split(str(folder / split), str(path), count, [1, part], 256, 1009 + part * 500000)
    return folder


@pytest.fixture
def work(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "set")
    return tmp_path / "set"


def faults(folder):
    """{kind: number} of both splits."""
    cfg = load_config(
        [f"--data_path={folder}", "--coco_root=.", "--num_classes=4", f"--classes={CLASSES}", "--device_target=CPU"]
    )
    reports = check_splits(cfg, ["train", "val"], decode=False)
    return {fault["kind"]: (fault["number"], fault["places"]) for report in reports for fault in report["faults"]}


def pictures(folder, split):
    return sorted((folder / split).iterdir())


def change(folder, split, edit):
    path = folder / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_no_false_alarm(drawn):
    assert faults(drawn) == {}


def saved_again(image):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)


CHANGES = {
    "saved again": saved_again,
    "smaller": lambda image: cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "cropped": lambda image: image[4:-3, 3:-5],
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=0.9, beta=30),
    "mirrored": lambda image: image[:, ::-1],
}


def test_images_of_train_that_were_changed(work):
    """Each of five images of val is replaced by a changed one of train: 5 of 5 are found, with their origin."""
    origins = pictures(work, "train2017")[::10]
    targets = pictures(work, "val2017")[::3]
    for edit, origin, target in zip(CHANGES.values(), origins, targets):
        cv2.imwrite(str(target), edit(cv2.imread(str(origin))), [cv2.IMWRITE_JPEG_QUALITY, 90])
    found = {kind: places for kind, places in faults(work).items() if "look like one in train" in kind}
    ((number, places),) = found.values()
    assert number == 5
    for origin, target, place in zip(origins, targets, places):
        assert place == f"{target} (as {origin})"


def test_five_kinds_are_found_at_once(work):
    """The same picture, a nearly equal one, an annotation twice, one nearly twice, a box that looks like corners."""
    train, val = pictures(work, "train2017"), pictures(work, "val2017")
    shutil.copy2(train[7], val[3])
    cv2.imwrite(str(val[9]), saved_again(cv2.imread(str(train[20]))))

    def edit(content):
        rows = [row for row in content["annotations"] if not row["iscrowd"]]
        number = 10**6
        for row, shift in ((rows[4], 0), (rows[11], 1)):
            x, y, width, height = row["bbox"]
            content["annotations"].append(dict(row, id=number, bbox=[x + shift, y, width, height]))
            number += 1
        image = next(row for row in content["images"] if row["id"] == rows[30]["image_id"])
        rows[30]["bbox"] = [image["width"] * 0.55, image["height"] * 0.3, image["width"] * 0.9, image["height"] * 0.8]

    change(work, "train2017", edit)
    found = faults(work)
    for words in (
        "images of val are in train too, byte for byte",
        "images of val look like one in train",
        "boxes are given twice",
        "boxes are nearly those of another",
        "would fit as corners",
    ):
        assert [number for kind, (number, _) in found.items() if words in kind] == [1], (words, found)


def test_all_boxes_as_corners(work):
    def edit(content):
        for row in content["annotations"]:
            x, y, width, height = row["bbox"]
            row["bbox"] = [x, y, x + width, y + height]

    change(work, "train2017", edit)
    assert any("look like corners" in kind for kind in faults(work))


def test_images_without_contrast_are_not_alike():
    flat = np.full((3, 32, 32), 90, np.float32)
    assert near_pairs(flat, flat) == []
    assert near_pairs(flat[:0], flat) == near_pairs(flat, flat[:0]) == []


def test_layouts_that_agree_are_not_alike():
    """Objects on the same light: the coarse comparison is the same, the details are not."""
    rng = np.random.default_rng(0)
    light = np.add.outer(np.linspace(0, 150, 32), np.linspace(0, 60, 32))
    images = np.stack([light + cv2.GaussianBlur(rng.normal(0, 12, (32, 32)), (0, 0), 1) for _ in range(40)])
    images = images.astype(np.float32)
    assert near_pairs(images[:10], images[10:]) == []
    assert near_pairs(images[:3] * 0.8 + 9, images) == [(0, 0), (1, 1), (2, 2)]


def test_thumbnails_of_files(tmp_path):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (600, 800, 3)).astype(np.uint8), (0, 0), 9)
    cv2.imwrite(str(tmp_path / "a.jpg"), image)
    cv2.imwrite(str(tmp_path / "b.png"), image)
    (tmp_path / "c.jpg").write_bytes(b"<html>")
    samples = [Sample(0, str(tmp_path / name), boxes_array([]), 800, 600) for name in ("a.jpg", "b.png", "c.jpg", "d")]
    first, second, *others = thumbnails(samples, 2)
    np.testing.assert_allclose(first, second, atol=2)  # an eighth of a JPEG, and a whole PNG
    assert not np.any(others)
