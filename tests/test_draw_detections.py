"""scripts/draw_detections.py: positions and colours, all forms of predictions, files that cannot be written."""

import json
import os

import cv2
import numpy as np
import pytest

from tests.disks import small_disk
from tests.helpers.programs import run

GREEN, RED = (60, 200, 60), (40, 40, 230)


@pytest.fixture
def data(tmp_path):
    """Three grey pictures of 96 x 128 with a box each at x 16..64, y 32..80 (x 3 in a drawing of 288 x 384)."""
    os.makedirs(tmp_path / "images")
    images, annotations = [], []
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.full((96, 128, 3), 128, np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
        box = {"bbox": [16, 32, 48, 48], "area": 2304, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": 7, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "cat"}]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path


def draw(data, predictions, *more, output="out"):
    if predictions is not None:
        (data / "predictions.json").write_text(json.dumps(predictions))
    words = ["--annotations", "truth.json", "--images", "images", "--predictions", "predictions.json"]
    return run("scripts/draw_detections.py", *words, "--output", output, *more, cwd=data)


def row(**more):
    return {"image_id": 2, "category_id": 7, "bbox": [80, 16, 32, 24], "score": 0.9, **more}


def is_drawn(path, colour, y, x):
    """Whether a pixel near this position has the colour of an outline."""
    part = cv2.imread(str(path))[y - 3 : y + 4, x - 3 : x + 4].astype(int)
    return bool((np.abs(part - colour).max(-1) < 12).any())


def test_boxes_lie_where_they_belong(data):
    done = draw(data, [row(), row(image_id=3, score=0.2)])
    assert done.returncode == 0, done.stderr
    out = data / "out"
    assert sorted(os.listdir(out)) == ["1.png", "2.png", "3.png", "overview.png"]
    for number in (1, 2, 3):
        assert is_drawn(out / f"{number}.png", GREEN, 96, 120) and is_drawn(out / f"{number}.png", GREEN, 180, 192)
        assert is_drawn(out / f"{number}.png", RED, 84, 336) == (number == 2)  # x 80..112, y 16..40; 0.2 is too low


def test_the_detections_of_predict(data):
    """It has other image and category ids: images and classes are found by name."""
    detections = {
        "images": [{"id": 1, "file_name": str(data / "images" / "3.png"), "height": 96, "width": 128}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "area": 1, "iscrowd": 0, **row(image_id=1, category_id=1)}],
    }
    done = draw(data, detections)
    assert done.returncode == 0, done.stderr
    assert [is_drawn(data / "out" / f"{number}.png", RED, 84, 336) for number in (1, 2, 3)] == [False, False, True]


def test_unknown_categories_are_drawn_and_unknown_images_counted(data):
    done = draw(data, [row(category_id=99), row(image_id=77), row(image_id=[1]), row(category_id=None)])
    assert done.returncode == 0 and "2 of 4 detections are skipped" in done.stdout, done.stderr
    assert is_drawn(data / "out" / "2.png", RED, 84, 336)


@pytest.mark.parametrize(
    "predictions, words",
    [
        ([row(image_id=77)], "none of the 1 detections"),
        ([row(), {"image_id": 1}], "row 2 is not a detection"),
        ([3], "row 1 is not a detection"),
        ([row(bbox=[1, 2])], "row 1: bbox must be four numbers"),
        ([row(bbox="abcd")], "row 1 is not a detection"),
        ([row(bbox=[1, 2, 3, 1e300])], "row 1: bbox must be four numbers"),
        ([row(score=float("nan"))], "row 1: bbox must be four numbers below 1e9 and score a number"),
        ({"images": 3}, "neither predictions.json of eval.py"),
        (3, "neither predictions.json of eval.py"),
        (None, "cannot read predictions.json"),
    ],
)
def test_predictions_that_cannot_be_used(data, predictions, words):
    done = draw(data, predictions)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (data / "out").exists()


@pytest.mark.parametrize(
    "option", ["--count=0", "--count=-1", "--min_score=nan", "--min_score=-0.1", "--min_score=1.5"]
)
def test_numbers_out_of_range(data, option):
    done = draw(data, [row()], option)
    assert done.returncode == 2 and "must" in done.stderr and done.stderr.count("\n") == 1


def test_originals_stay_and_names_that_meet_are_numbered(data):
    before = [(data / "images" / f"{number}.png").read_bytes() for number in (1, 2, 3)]
    for _ in range(2):
        assert draw(data, [row()], output="images").returncode == 0
        names = sorted(os.listdir(data / "images"))
        assert names == ["1.png", "1_2.png", "2.png", "2_2.png", "3.png", "3_2.png", "overview.png"]
    assert [(data / "images" / f"{number}.png").read_bytes() for number in (1, 2, 3)] == before


def test_what_does_not_arrive_is_named(data):
    os.makedirs(data / "out" / "2.png")
    done = draw(data, [row()])
    assert done.returncode == 1 and "error: 1 of 4 pictures could not be written" in done.stderr
    assert "2.png: Is a directory" in done.stderr and "drew 2 pictures" in done.stdout
    with small_disk(data / "disk", 4) as disk:
        done = draw(data, [row()], output=disk)
        assert done.returncode == 1 and "No space left on device" in done.stderr
        written = os.listdir(disk)
        assert len(written) < 4 and all(cv2.imread(os.path.join(disk, name)) is not None for name in written)
        assert f"error: {4 - len(written)} of 4 pictures could not be written" in done.stderr
