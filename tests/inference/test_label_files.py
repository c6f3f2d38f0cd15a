"""Detections written for labelling tools are what the readers of these formats read."""

import json
import os

import cv2
import numpy as np
import pytest

from src.config import load_config
from src.data.readers import READERS
from src.inference.label_files import LABEL_FORMATS
from src.inference.results import CocoResults
from src.utils.output import OutputError
from tests.helpers.predictions import picture as draw_picture
from tests.helpers.programs import run

CLASSES = ["background", "cat", '椅子 "x"']


@pytest.fixture
def found(tmp_path):
    """Detections on three pictures, one of which has none, and on a frame of a video."""
    rng, results = np.random.default_rng(1), CocoResults(CLASSES, 100)
    for k, name in enumerate(("a.jpg", "day 1/b.jpg", "day 1/c.png")):
        path = tmp_path / "photos" / name
        os.makedirs(path.parent, exist_ok=True)
        height, width = 90 + k, 130
        cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
        count = (3, 5, 0)[k]
        corners = rng.integers(0, 60, (count, 2)).astype(np.float32)
        boxes = np.hstack([corners, corners + rng.integers(1, 30, (count, 2))])
        results.add(str(path), (height, width), (boxes, rng.integers(1, 3, count), rng.uniform(0, 1, count)))
    results.add("clip.mp4", (9, 9), (np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)), frame=0)
    return results


def read(folder, dataset, annotations):
    options = [f"--data_path={folder}", f"--dataset={dataset}", f"--anno_path={annotations}", "--image_dir=photos"]
    cfg = load_config([*options, "--num_classes=3", f"--classes={CLASSES}", "--device_target=CPU"])
    return READERS[dataset](cfg, True)


def boxes_of(found):
    """{name: int boxes y1, x1, y2, x2, label} of the pictures."""
    rows = {}
    for picture, boxes, labels, _ in found.pictures():
        if "frame" not in picture:
            x, y, w, h = boxes.T
            rows[os.path.basename(picture["file_name"])] = np.stack([y, x, y + h, x + w, labels], 1).round().astype(int)
    return rows


def check(found, data):
    want = boxes_of(found)
    assert not [issue for issue in data.issues.all() if issue.refused]
    got = {os.path.basename(sample.path): sample.boxes for sample in data.samples}
    assert {name for name, boxes in want.items() if len(boxes)} <= set(got)
    for name, boxes in got.items():
        np.testing.assert_array_equal(boxes, want[name])


def test_yolo(found, tmp_path):
    assert LABEL_FORMATS["yolo"](found, str(tmp_path)).startswith("3 label files and classes.txt")
    names = [name for name in (tmp_path / "labels" / "classes.txt").read_text("utf-8").splitlines()]
    assert names == CLASSES[1:]
    assert (tmp_path / "labels" / "day 1" / "c.txt").read_text() == ""
    for name in ("a", "day 1/b", "day 1/c"):  # as a tool does that keeps labels next to the pictures
        os.rename(tmp_path / "labels" / f"{name}.txt", tmp_path / "photos" / f"{name}.txt")
    (tmp_path / "data.yaml").write_text(f"train: photos\nnames: {json.dumps(names)}\n", encoding="utf-8")
    check(found, read(tmp_path, "yolo", "data.yaml"))


def test_label_studio(found, tmp_path):
    assert LABEL_FORMATS["label_studio"](found, str(tmp_path)).startswith("3 tasks")
    tasks = json.loads((tmp_path / "label_studio.json").read_text())
    assert [len(task["predictions"][0]["result"]) for task in tasks] == [3, 5, 0]
    assert all("annotations" not in task for task in tasks)
    assert tasks[1]["data"]["image"].endswith("photos/day%201/b.jpg")
    first = tasks[0]["predictions"][0]["result"][0]
    assert (first["from_name"], first["to_name"], first["type"]) == ("label", "image", "rectanglelabels")
    for number, task in enumerate(tasks, 1):  # what the tool does when predictions are accepted
        task.update(id=number, annotations=task.pop("predictions"))
    (tmp_path / "accepted.json").write_text(json.dumps(tasks))
    check(found, read(tmp_path, "label_studio", "accepted.json"))


def test_pictures_that_share_a_label_file(tmp_path):
    found = CocoResults(CLASSES, 100)
    for name in ("a.jpg", "a.png", "classes.jpg"):
        found.add(str(tmp_path / name), (10, 10), (np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)))
    assert LABEL_FORMATS["yolo"](found, str(tmp_path / "out")).startswith("1 label files")
    assert sorted(os.listdir(tmp_path / "out" / "labels")) == ["a.txt", "classes.txt"]


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_without_pictures(tmp_path, name):
    LABEL_FORMATS[name](CocoResults(CLASSES, 100), str(tmp_path))
    assert os.listdir(tmp_path)


@pytest.mark.parametrize("name, path", [("yolo", "labels/a.txt"), ("label_studio", "label_studio.json")])
def test_a_folder_in_the_way_is_an_error(found, tmp_path, name, path):
    os.makedirs(tmp_path / path)
    with pytest.raises(OutputError, match=os.path.basename(path)):
        LABEL_FORMATS[name](found, str(tmp_path))


def test_predict_writes_them(model, tmp_path):
    for name in ("in/a.jpg", "in/deep/b.png"):
        draw_picture(tmp_path / name)
    words = ["scripts/predict.py", "--model", model, tmp_path / "in", "--output", tmp_path / "out", "--label_format"]
    done = run(*words, "yolo")
    assert done.returncode == 0, done.stderr
    assert "2 label files and classes.txt" in done.stdout
    # 80 x 120 pixels: a cat in the upper left quarter, a dog in the lower right one
    assert (tmp_path / "out" / "labels" / "deep" / "b.txt").read_text() == "0 0.25 0.25 0.5 0.5\n1 0.75 0.75 0.5 0.5\n"
    done = run(*words, "label_studio")
    assert done.returncode == 0 and "2 tasks for Label Studio" in done.stdout
    first = json.loads((tmp_path / "out" / "label_studio.json").read_text())[0]["predictions"][0]["result"][0]
    assert first["value"]["rectanglelabels"] == ["cat"] and first["value"]["width"] == 50
    (tmp_path / "out" / "label_studio.json").unlink()
    (tmp_path / "out" / "label_studio.json").mkdir()
    done = run(*words, "label_studio")
    assert done.returncode == 1 and "label_studio.json" in done.stderr and "Traceback" not in done.stderr
