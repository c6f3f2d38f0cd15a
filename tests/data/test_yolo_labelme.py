"""YOLO and LabelMe against hand-made files: what is read, repaired, left out, refused."""

import json
import math
import os

import pytest

from tests.helpers.annotations import noted, table
from tests.helpers.tool_files import picture, read, refused

# YOLO


def yolo(folder, labels, yaml="train: images/train\nval: images/val\nnames: [dog, sofa, cat]\n"):
    """A set with one image per entry of `labels` (name -> bytes of the label file, None for none)."""
    os.makedirs(folder / "yolo" / "labels" / "train", exist_ok=True)
    (folder / "yolo" / "data.yaml").write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
    for name, content in labels.items():
        picture(folder / "yolo" / "images" / "train" / f"{name}.jpg")
        if content is not None:
            (folder / "yolo" / "labels" / "train" / f"{name}.txt").write_bytes(content)


def test_yolo_rules(tmp_path):
    yolo(
        tmp_path,
        {
            "7": b"\xef\xbb\xbf0 0.5 0.5 0.1 0.2\r\n\r\n2.0 0.1 0.1 0.2 0.2 \r\n",  # BOM, CRLF, empty line
            "8": b"2 0.1 0.1 0.3 0.2 0.2 0.5\n1 .5 .5 .1 .1\n",  # a polygon; a class that is not listed
            "9": b"",  # no object
            "a": None,
        },
    )
    want = [
        (7, "7.jpg", [[40, 90, 60, 110, 2], [0, 0, 20, 40, 1]]),
        (8, "8.jpg", [[10, 20, 50, 60, 1]]),
    ]
    data = read(tmp_path, "yolo")
    assert table(data) == want
    assert [os.path.basename(sample.path) for sample in data.left_out] == ["9.jpg", "a.jpg"]
    warnings, errors = noted(data)
    assert not errors and warnings["images have no label file (taken as images without objects)"][0] == 1
    assert warnings["names are not in 'classes' (their boxes are dropped)"] == (1, ["sofa"])
    assert data.samples[0].file_name == "images/train/7.jpg"


@pytest.mark.parametrize(
    "yaml",
    [
        "path: /home/me/sets/birds\ntrain: images/train\nnames: {0: dog, 1: sofa, 2: cat}\n",
        "path: .\ntrain: [images/train]\nnames:\n  0: dog\n  1: sofa\n  2: cat\nnc: 3\n",
        "train: ../images/train\nnames: [dog, sofa, cat]\n",  # as Roboflow writes it
        "train: C:\\me\\yolo\\images\\train\nnames: [dog, sofa, cat]\n",
        "path: ../yolo\ntrain: list.txt\nnames: [dog, sofa, cat]\n",
    ],
)
def test_yolo_paths(tmp_path, yaml):
    yolo(tmp_path, {"7": b"0 0.5 0.5 0.1 0.2\n", "8": b"2 0.5 0.5 0.1 0.2\n"}, yaml)
    (tmp_path / "yolo" / "list.txt").write_text("./images/train/7.jpg\r\n/home/me/birds/images/train/8.jpg\n")
    assert [row[0] for row in table(read(tmp_path, "yolo"))] == [7, 8]


def test_yolo_names_may_be_missing(tmp_path):
    yolo(tmp_path, {"7": b"1 0.5 0.5 0.1 0.2\n"}, "train: images/train\nnc: 2\n")
    assert table(read(tmp_path, "yolo"))[0][2] == [[40, 90, 60, 110, 2]]
    yolo(tmp_path, {}, "train: images/train\nnc: 3\n")
    refused(tmp_path, "yolo", "data.yaml", "no names", "nc is 3", "2")


@pytest.mark.parametrize(
    "line, words",
    [
        (b"0 0.5 0.5 0.1 0.1\n3 0.5 0.5 0.1 0.1", ["7.txt, line 2: class 3", "0..2"]),
        (b"-1 0.5 0.5 0.1 0.1", ["7.txt, line 1", "class -1"]),
        (b"dog 0.5 0.5 0.1 0.1", ["7.txt, line 1: class dog"]),
        (b"0 0.5 nan 0.1 0.1", ["7.txt, line 1", "nan"]),
        (b"0 0.5 inf 0.1 0.1", ["7.txt, line 1", "inf"]),
        (b"0 50 50 10 10", ["7.txt, line 1", "fractions", "50"]),
        (b"0 0.5 0.5 -0.1 0.1", ["7.txt, line 1", "-0.1"]),
        (b"0 0.5 0.5 0.1", ["7.txt, line 1: 4 numbers"]),
        (b"0 0.5 0.5 0.1 0.1 0.9", ["7.txt, line 1: 6 numbers"]),
        (b"0 0.5 0.5 0.1 0.1 \xff", ["7.txt", "UTF-8"]),
    ],
)
def test_yolo_lines_that_are_refused(tmp_path, line, words):
    yolo(tmp_path, {"7": line})
    refused(tmp_path, "yolo", *words)


@pytest.mark.parametrize(
    "yaml, words",
    [
        (b"train: images/train\nnames: [dog,\n", ["data.yaml, line", "not valid YAML"]),
        (b"names: [dog]\n", ["data.yaml", "has no 'train'"]),
        (b"train: images/other\nnames: [dog]\n", ["train: no such file or folder", "images/other"]),
        (b"train: images/train\nnames: [bird]\n", ["none of its names (bird)", "cat"]),
        (b"train: images/train\nnames: [dog, no]\n", ["class 1", "in quotes"]),
        (b"train: images/train\nnames: [dog]\nnc: 2\n", ["nc is 2", "1 entries"]),
        (b"train: 5\nnames: [dog]\n", ["train must be a folder"]),
        (b"\xff\xff", ["data.yaml", "UTF-8"]),
    ],
)
def test_yolo_yaml_that_is_refused(tmp_path, yaml, words):
    yolo(tmp_path, {"7": b"0 0.5 0.5 0.1 0.1"}, yaml)
    refused(tmp_path, "yolo", *words)


def test_yolo_files_that_are_missing(tmp_path):
    refused(tmp_path, "yolo", "anno_path: no such file or folder", "data.yaml")
    yolo(tmp_path, {"7": None})
    refused(tmp_path, "yolo", "none of the 1 images has a label file", "labels/train/7.txt")
    yolo(tmp_path, {"7": b"0 0.5 0.5 0.1 0.1"}, "train: list.txt\nnames: [dog]\n")
    (tmp_path / "yolo" / "list.txt").write_text("images/train/7.jpg\nimages/train/none.jpg\n")
    refused(tmp_path, "yolo", "images are missing", "none.jpg")


def test_yolo_broken_image(tmp_path):
    yolo(tmp_path, {"7": b"0 0.5 0.5 0.1 0.1", "8": b"0 0.5 0.5 0.1 0.1"})
    (tmp_path / "yolo" / "images" / "train" / "8.jpg").write_bytes(b"<html>")
    refused(tmp_path, "yolo", "images are broken", "8.jpg", "text file")
    assert len(read(tmp_path, "yolo", "--max_bad_images=1").samples) == 1


# LabelMe


def labelme(folder, shapes, name="a", image="a.jpg", **more):
    os.makedirs(folder / "labelme", exist_ok=True)
    content = {"version": "5.4.1", "shapes": shapes, "imagePath": image, "imageHeight": 100, "imageWidth": 200, **more}
    (folder / "labelme" / f"{name}.json").write_text(json.dumps(content))


def shape(label, *points, kind="rectangle"):
    return {"label": label, "points": [list(point) for point in points], "shape_type": kind, "flags": {}}


def test_labelme_rules(tmp_path):
    picture(tmp_path / "labelme" / "7.jpg")
    picture(tmp_path / "images" / "b.jpg")
    picture(tmp_path / "labelme" / "unlabelled.jpg")
    shapes = [
        shape("cat", (30.5, 40.5), (10.4, 20.6)),  # any corner first; halves to even
        shape("dog", (1, 2), (11, 2), (6, 22.6), kind="polygon"),
        shape("dog", (50, 50), (60, 60), kind="circle"),
        shape("sofa", (1, 1), (2, 2)),
        shape("cat", (5, 5), (5, 9)),  # no area
    ]
    labelme(tmp_path, shapes, "7", "7.jpg")
    labelme(tmp_path, [shape("dog", (180, 90), (250, 130))], "b", "..\\images\\b.jpg")
    (tmp_path / "labelme" / "settings.json").write_text("{}")
    data = read(tmp_path, "labelme")
    want = [(7, "7.jpg", [[21, 10, 40, 30, 1], [2, 1, 23, 11, 2]]), (0, "b.jpg", [[90, 180, 130, 250, 2]])]
    assert table(data) == want and (data.samples[0].width, data.samples[0].height) == (200, 100)
    warnings, errors = noted(data)
    assert not errors
    assert warnings["shapes are neither rectangles nor polygons (left out)"] == (1, ["circle, shape 3 in 7.json"])
    assert warnings["objects of a class that 'classes' does not list (dropped)"][1] == ["sofa in shape 4 in 7.json"]
    assert warnings["JSON files are not LabelMe's (no 'shapes'; left out)"] == (1, ["settings.json"])
    assert warnings["images have no annotation file (left out)"][0] == 1


def test_labelme_image_of_another_machine(tmp_path):
    picture(tmp_path / "photos" / "day" / "b.jpg")
    labelme(tmp_path, [shape("dog", (1, 1), (9, 9))], "x", "C:\\Users\\me\\day\\b.jpg")
    refused(tmp_path, "labelme", "images are missing")
    data = read(tmp_path, "labelme", "--image_dir=photos")
    assert table(data) == [(0, "b.jpg", [[1, 1, 9, 9, 2]])] and data.samples[0].file_name == "day/b.jpg"
    assert any("found by name" in kind for kind in noted(data)[0])


@pytest.mark.parametrize(
    "content, words",
    [
        (b'{"shapes": [\n{"label": "dog",\n}]}', ["a.json", "not valid JSON", "line 3"]),
        (b"", ["a.json", "the file is empty"]),
        ('{"shapes": [], "imagePath": "é.jpg"}'.encode("latin-1"), ["a.json", "UTF-8"]),
        (b'{"shapes": 3, "imagePath": "a.jpg"}', ["a.json", "no list 'shapes'"]),
        (b'{"shapes": [3]}', ["shape 1 in a.json", "no objects"]),
    ],
)
def test_labelme_files_that_are_refused(tmp_path, content, words):
    picture(tmp_path / "labelme" / "a.jpg")
    (tmp_path / "labelme" / "a.json").write_bytes(content)
    refused(tmp_path, "labelme", *words)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (shape("dog", (1, 2), (math.nan, 3)), ["shape 2 in a.json", "finite"]),
        (shape("dog", (1, 2), (math.inf, 3)), ["shape 2 in a.json", "finite"]),
        (shape("dog", (1, 2), (3,)), ["shape 2 in a.json", "pairs"]),
        (shape("dog", (1, 2), ("3", 4)), ["shape 2 in a.json"]),
        (shape("dog", (1, 2)), ["shape 2 in a.json", "too few points"]),
        (shape("", (1, 2), (3, 4)), ["shape 2 in a.json", "no class name"]),
    ],
)
def test_labelme_shapes_that_are_refused(tmp_path, wrong, words):
    picture(tmp_path / "labelme" / "a.jpg")
    labelme(tmp_path, [shape("cat", (1, 1), (9, 9)), wrong])
    refused(tmp_path, "labelme", *words)


def test_labelme_two_files_for_an_image(tmp_path):
    picture(tmp_path / "labelme" / "a.jpg")
    labelme(tmp_path, [shape("cat", (1, 1), (9, 9))])
    labelme(tmp_path, [shape("cat", (1, 1), (9, 9))], "b")
    refused(tmp_path, "labelme", "two annotation files", "a.json, b.json")


def test_labelme_bom(tmp_path):
    picture(tmp_path / "labelme" / "a.jpg")
    labelme(tmp_path, [shape("cat", (1, 1), (9, 9))])
    path = tmp_path / "labelme" / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b", ", b",\r\n"))
    assert len(read(tmp_path, "labelme").samples) == 1
