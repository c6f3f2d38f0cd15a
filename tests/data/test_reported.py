"""Problems that people reported with annotation files, images, paths and records, each with a small input."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from src.data.records import prepare_records
from src.utils.errors import UserError
from tests.helpers.paths import ROOT
from tests.helpers.records import IDS, config, instances, rows_of


def drop_keys(*keys):
    def change(content):
        for annotation in content["annotations"]:
            for key in keys:
                del annotation[key]

    return change


def test_annotations_without_iscrowd_and_area(folder, log_lines):
    instances(folder, "train2017", drop_keys("iscrowd", "area"))
    assert len(rows_of(prepare_records(config(folder), True))) == 5
    lines = [line for line in log_lines() if "iscrowd" in line]
    assert len(lines) == 1 and "5 annotations without 'iscrowd' (taken as 0): 1, 2, 3, 4, 5" in lines[0]


def test_annotation_ids_given_twice(folder, log_lines):
    instances(folder, "train2017", lambda content: content["annotations"][3].update(id=1))
    assert len(rows_of(prepare_records(config(folder), True))) == 5
    assert any("1 annotation ids are given twice (all were renumbered): 1" in line for line in log_lines())


def test_an_unknown_category_names_annotation_category_and_file(folder):
    instances(folder, "train2017", lambda content: content["annotations"][2].update(category_id=99))
    with pytest.raises(UserError, match="instances_train2017.json.*annotation 3: 99"):
        prepare_records(config(folder), True)


def test_boxes_without_area(folder, log_lines):
    def change(content):
        content["annotations"][0]["bbox"] = [10, 10, 0, 50]
        content["annotations"][1]["bbox"] = [10.6, 10.4, 0.3, 20]
        content["annotations"].append(dict(content["annotations"][2], id=9, bbox=[10, 10, 20, 0]))

    instances(folder, "train2017", change)
    assert sorted(rows_of(prepare_records(config(folder), True))) == list(IDS[2:])
    assert any("2 boxes of zero area (dropped), annotations: 1, 9" in line for line in log_lines())
    assert any("zero area after rounding (dropped): 40.jpg" in line for line in log_lines())


def test_crowd_boxes_are_training_targets(folder):
    instances(folder, "train2017", lambda content: content["annotations"][0].update(iscrowd=1))
    assert rows_of(prepare_records(config(folder), True))[IDS[0]][1] == [[6, 5, 24, 25, 1]]


def test_ids_are_not_taken_from_file_names(folder):
    name = "0000f77c-6257be58.jpg"
    os.rename(folder / "coco" / "train2017" / "3.jpg", folder / "coco" / "train2017" / name)
    instances(folder, "train2017", lambda content: content["images"][0].update(file_name=name))
    assert sorted(rows_of(prepare_records(config(folder), True))) == list(IDS)


def test_exif_orientation_is_counted_and_not_applied(folder, log_lines):
    path = folder / "coco" / "train2017" / "3.jpg"
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    jpeg = path.read_bytes()
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    assert rows_of(prepare_records(config(folder), True))[3][1] == [[6, 5, 24, 25, 1]]
    assert any(
        "1 images have an EXIF orientation, which is not applied" in line and "3.jpg" in line for line in log_lines()
    )


def test_missing_images_are_counted_before_anything_is_written(folder):
    os.remove(folder / "coco" / "train2017" / "6000.jpg")
    with pytest.raises(UserError, match="1 of 5 images are missing: .*6000.jpg"):
        prepare_records(config(folder), True)
    assert not (folder / "records").exists()


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"GIF89a" + b"\0" * 30, b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 40, "half"]
)
def test_images_that_no_decoder_takes(folder, tmp_path, monkeypatch, content):
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    path = folder / "coco" / "train2017" / "40.jpg"
    if content == "half":
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(UserError, match="broken image .*40.jpg: "):
        prepare_records(config(folder), True)
    assert os.listdir(cwd) == [] and not (folder / "records").exists()


def test_an_image_above_the_limit_is_one_line_and_may_be_left_out(folder, monkeypatch):
    monkeypatch.setattr("src.data.images.MAX_PIXELS", 44 * 60 - 1)  # the last of the five images is 44 pixels high
    words = "broken image .*70000.jpg: 60 x 44 pixels exceed the limit of 2,639"
    with pytest.raises(UserError, match=words):
        prepare_records(config(folder), True)
    assert sorted(rows_of(prepare_records(config(folder, "--max_bad_images=1"), True))) == list(IDS[:-1])


def test_images_without_boxes_are_counted_at_conversion(folder, log_lines):
    instances(folder, "train2017", lambda content: content.update(annotations=content["annotations"][:2]))
    assert sorted(rows_of(prepare_records(config(folder), True))) == list(IDS[:2])
    lines = [line for line in log_lines() if "3 of 5 images have no box of the listed classes" in line]
    assert len(lines) == 1 and "left out of training" in lines[0] and "500.jpg" in lines[0]


def test_doubtful_boxes_are_logged_at_conversion(folder, log_lines):
    def change(content):
        for annotation in content["annotations"]:
            annotation["bbox"] = [25, 20, 50, 38]
        content["annotations"].append(dict(content["annotations"][0], id=9))

    instances(folder, "train2017", change)
    prepare_records(config(folder), True)
    assert any("6 boxes leave their image: all boxes look like corners x1, y1, x2, y2" in line for line in log_lines())
    assert any("1 boxes are given twice" in line for line in log_lines())


def test_an_image_outside_its_folder_is_logged_at_conversion(folder, log_lines):
    os.rename(folder / "coco" / "train2017" / "3.jpg", folder / "secret.jpg")
    instances(folder, "train2017", lambda content: content["images"][0].update(file_name="../../secret.jpg"))
    assert sorted(rows_of(prepare_records(config(folder), True))) == list(IDS)
    assert any("1 images lie outside" in line and "../../secret.jpg" in line for line in log_lines())


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    """The peak of memory is the same for 400 images of 1 MB as for 60."""
    code = """
import sys, json, os
sys.path.insert(0, sys.argv[2])
from src.data.records import prepare_records
from tests.helpers.records import config
prepare_records(config(sys.argv[1]), True)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    rng = np.random.default_rng(0)
    image = cv2.imencode(".bmp", rng.integers(0, 255, (512, 680, 3)).astype(np.uint8))[1].tobytes()
    assert len(image) > 1_000_000
    peaks = []
    for count in (60, 400):
        root = tmp_path / str(count)
        for part in ("annotations", "train2017"):
            os.makedirs(root / "coco" / part)
        (root / "coco" / "train2017" / "0.bmp").write_bytes(image)
        for k in range(1, count):
            os.link(root / "coco" / "train2017" / "0.bmp", root / "coco" / "train2017" / f"{k}.bmp")
        content = {
            "images": [{"id": k, "file_name": f"{k}.bmp"} for k in range(count)],
            "annotations": [
                {"id": k + 1, "image_id": k, "category_id": 1, "bbox": [5, 6, 20, 18]} for k in range(count)
            ],
            "categories": [{"id": 1, "name": "person"}],
        }
        (root / "coco" / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
        run = subprocess.run(
            [sys.executable, "-c", "import src" + code, str(root), ROOT],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PYTHONPATH=ROOT),
        )
        assert run.returncode == 0, run.stderr
        peaks.append(int(run.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 100_000  # kB; the images are 400 MB
