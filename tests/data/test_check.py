"""The data check against hand-made sets; cover by default boxes against the dense IoU."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from src.boxes.default_boxes import build_default_boxes
from src.config import load_config
from src.data.check import check_split
from src.data.statistics import best_iou, shape_figures
from tests.conftest import ROOT
from tests.data.test_readers import coco, config, thing, voc
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
            "--num_default=[3, 4, 4, 4, 4]",
            "--feature_size=[16, 8, 4, 2, 1]",
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
    figures = shape_figures(boxes, (640, 640))
    assert list(figures["sizes"].values()) == [1, 0, 1, 1]
    assert figures["size"]["0%"] == 6.4 and figures["size"]["50%"] == 32 and figures["size"]["100%"] == 320
    assert figures["aspect"]["100%"] == 4 and figures["aspect"]["0%"] == 1


def draw(path, height, width):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def faults(report):
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
    found = faults(report)
    assert found["annotations have a category_id that the file does not list"] == (1, True)
    assert found["annotations have no usable bbox [x, y, width, height]"] == (1, True)
    assert found["images are missing"] == (1, True)
    assert found["images are broken (max_bad_images is 0)"] == (1, True)
    assert found["boxes of no area (dropped), annotations"] == (1, False)
    assert found["images have another size than annotated (the file's counts)"] == (1, False)
    assert found["images with boxes beyond the image (clipped)"] == (1, False)
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
    done = run(*options, "--dataset=voc", "--voc_root=voc", cwd=cwd)  # the folder of the evaluation split is missing
    assert done.returncode == 2 and "no such folder" in done.stdout and "Traceback" not in done.stderr
    assert os.listdir(cwd) == []
