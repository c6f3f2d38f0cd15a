"""The drawn data set: repeatable, valid COCO, and with what a detector must cope with."""

import hashlib
import json
import logging
import os
import subprocess
import sys

import cv2
import pytest

from src.data.coco import load_coco_json
from tests.conftest import ROOT


def draw(folder, *more):
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, "scripts", "draw_shapes.py"), "--output", str(folder), *more],
        capture_output=True,
        text=True,
    )


def digests(folder):
    return {
        os.path.relpath(os.path.join(where, name), folder): hashlib.sha256(
            open(os.path.join(where, name), "rb").read()
        ).hexdigest()
        for where, _, names in os.walk(folder)
        for name in names
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "a"
    assert draw(folder, "--train", "60", "--val", "3", "--image_size", "128").returncode == 0
    return folder


def test_the_same_arguments_give_the_same_files(drawn):
    other = drawn.parent / "b"
    assert draw(other, "--train", "60", "--val", "3", "--image_size", "128").returncode == 0
    assert digests(drawn) == digests(other)
    assert "already drawn" in draw(drawn, "--train", "60", "--val", "3", "--image_size", "128").stdout


def test_annotations_are_coco_and_need_no_repair(drawn, caplog):
    with caplog.at_level(logging.WARNING, "ssd"):
        content = load_coco_json(str(drawn / "annotations" / "instances_train2017.json"))
    assert caplog.text == ""
    assert {c["name"]: c["id"] for c in content["categories"]} == {"stop sign": 13, "sports ball": 37, "kite": 38}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    assert {a["category_id"] for a in content["annotations"]} == {13, 37, 38}
    assert any(a["iscrowd"] for a in content["annotations"])
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        assert 0 <= x and 0 <= y and w > 0 and h > 0 and x + w <= width and y + h <= height


def test_some_files_are_really_grey(drawn):
    content = json.loads((drawn / "annotations" / "instances_train2017.json").read_text())
    kinds = [
        cv2.imread(str(drawn / "train2017" / image["file_name"]), cv2.IMREAD_UNCHANGED).ndim
        for image in content["images"]
    ]
    assert 2 <= kinds.count(2) <= 25 and kinds.count(3) > 30


def test_a_foreign_folder_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    done = draw(tmp_path, "--train", "1", "--val", "1")
    assert done.returncode == 2 and done.stderr.startswith("error:") and os.listdir(tmp_path) == ["mine.txt"]
