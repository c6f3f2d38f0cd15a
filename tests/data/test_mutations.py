"""Damaged annotation files give samples or a one-line error, never another exception."""

import copy
import json
import os
import random
import re

import numpy as np
import pytest

from src.data.readers import read_dataset
from src.data.readers.coco import coco_json
from src.data.records.writer import record_ids
from src.evaluation.coco_evaluator import CocoEvaluator
from src.utils.errors import UserError
from tests.helpers.annotations import config, thing
from tests.helpers.tool_files import picture

WEIRD = [
    None, True, False, -1, 0, 1, 2, 1.5, -0.0, 1e300, float("inf"), float("nan"), 2**31, 2**63, 10**400, "", " ", "1",
    "cat", "\0", "\ud800", "../../x", "x" * 5000, [], {}, [1, 2, 3], [[1]], {"id": 1}, [0, 0, 0, 0], [5, 5, -5, -5],
    [1e308, 1e308, 1e308, 1e308], [True, 1, 2, 3],
]  # fmt: skip
BYTES = [b"\0", b"\xff", b"{", b"}", b"[", b"]", b",", b'"', b"<", b">", b"&", b"-", b".", b"e9", b"\r", b"\n", b"\t",
         b" ", b"9" * 30, b"\xef\xbb\xbf", "²".encode(), b"<part>", b"]]>", b"<!--",
         b"&lol;", b"1,2,3,4,1 "]  # fmt: skip

NUMBERS = [b"0", b"-1", b"1.5", b"1e3", b"1e400", b"NaN", b"inf", b"", b" 7 ", b"9" * 9, b"9" * 20, b"9" * 5000,
           b"0x10", b"1_0", b"-0", b"+3", b"00012", "\u0663".encode(), "\u00b2".encode(), b"x"]  # fmt: skip


def coco_content():
    return {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": 40, "width": 60} for k in range(4)],
        "annotations": [
            {
                "id": k + 1,
                "image_id": k % 4,
                "category_id": k % 2,
                "bbox": [1 + k, 2, 20, 30],
                "area": 600,
                "iscrowd": 0,
            }
            for k in range(8)
        ],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }


def change_value(content, rng):
    """Replace, delete or repeat something at a random place of a JSON tree."""
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.85:
            place = place[key]
            continue
        what = rng.random()
        if what < 0.6:
            place[key] = rng.choice(WEIRD)
        elif what < 0.8:
            del place[key]
        elif isinstance(place, list):
            place.insert(key, copy.deepcopy(place[rng.choice(keys)]))
        return


def change_bytes(data, rng):
    """A random change of a file's bytes, or another number in place of one of its numbers."""
    numbers = list(re.finditer(rb"\d+", data))
    if numbers and rng.random() < 0.5:
        found = rng.choice(numbers)
        return data[: found.start()] + rng.choice(NUMBERS) + data[found.end() :]
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(5)
        if what == 0:
            data = data[:at] + rng.choice(BYTES) + data[at:]
        elif what == 1:
            data = data[:at] + data[at + rng.randint(1, 40) :]
        elif what == 2:
            data = data[:at]
        elif what == 3:
            end = at + rng.randint(1, 60)
            data = data[:at] + data[at:end] * 2 + data[end:]
        elif data:
            at = rng.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    return data


def read(cfg):
    """The samples for training and evaluation, or the error line."""
    outcome = []
    for is_training in (True, False):
        try:
            data = read_dataset(cfg, is_training)
        except UserError as error:
            text = str(error)
            assert 0 < len(text.splitlines()) and len(text) < 4000
            text.encode("utf-8")
            outcome.append(text)
            continue
        for sample in data.samples:
            assert sample.boxes.dtype == np.int32 and sample.boxes.shape[1:] == (5,)
            boxes = sample.boxes
            assert (boxes[:, 2:4] > boxes[:, :2]).all() and (boxes >= 0).all() and (boxes[:, 4] < 3).all()
        ids, table = record_ids(data.samples)
        assert len(set(ids)) == len(ids) and all(-(2**31) <= number < 2**31 for number in ids)
        json.dumps(coco_json(data, ids, table, {number: (40, 60) for number in ids}, list(cfg.classes)))
        outcome.append(data)
    return outcome


@pytest.fixture
def empty_cwd(tmp_path, monkeypatch):
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert os.listdir(folder) == []


def test_json(tmp_path, empty_cwd):
    rng, refused = random.Random(1), 0
    os.makedirs(tmp_path / "coco" / "annotations")
    cfg = config(tmp_path, "--train_data_type=a", "--val_data_type=a")
    path = tmp_path / "coco" / "annotations" / "instances_a.json"
    for number in range(700):
        content = coco_content()
        if number % 3:
            for _ in range(rng.randint(1, 3)):
                change_value(content, rng)
            path.write_text(json.dumps(content))
        else:
            path.write_bytes(change_bytes(json.dumps(content).encode(), rng))
        outcome = read(cfg)
        refused += isinstance(outcome[0], str)
        if not isinstance(outcome[1], str):
            # detections of every readable image score without an exception, and give metrics in [0, 1]
            evaluator = CocoEvaluator(str(path), list(cfg.classes))
            for sample in outcome[1].samples:
                evaluator.update(
                    sample.image_id, np.array([[0.05, 0.02, 0.8, 0.35]]), np.array([[0, 0.9, 0.1]]), (40, 60)
                )
            assert all(-1 <= value <= 1 for value in evaluator.summarize()["stats"])
    assert 100 < refused < 650


def test_xml(tmp_path, empty_cwd):
    rng, refused = random.Random(2), 0
    for part in ("Images", "Annotations"):
        for split in ("train", "eval"):
            os.makedirs(tmp_path / "voc" / split / part)
            (tmp_path / "voc" / split / "Images" / "7.jpg").write_bytes(b"x")
    original = "<annotation><filename>7.jpg</filename><size><width>60</width><height>40</height></size>"
    original += thing("cat", 11, 12, 31, 33) + thing("dog", 1, 2, 60, 40) + "</annotation>"
    cfg = config(tmp_path, "--dataset=voc")
    for _ in range(400):
        content = change_bytes(original.encode(), rng)
        for split in ("train", "eval"):
            (tmp_path / "voc" / split / "Annotations" / "7.xml").write_bytes(content)
        refused += isinstance(read(cfg)[0], str)
    assert 50 < refused < 390


def test_list(tmp_path, empty_cwd):
    rng, refused = random.Random(3), 0
    os.makedirs(tmp_path / "images")
    original = b"my cats/a b.jpg 0,25,40,39,2\nc.jpg\t1,2,3,4,1  30,40,10,20,2\r\n\nempty.jpg\n"
    cfg = config(tmp_path, "--dataset=other")
    for _ in range(400):
        (tmp_path / "list.txt").write_bytes(change_bytes(original, rng))
        refused += isinstance(read(cfg)[0], str)
    assert 30 < refused < 350


def test_yolo(tmp_path, empty_cwd):
    rng, refused = random.Random(4), 0
    picture(tmp_path / "images" / "7.jpg", 40, 60)
    os.makedirs(tmp_path / "labels")
    yaml, labels = (
        b"train: images\nval: images\nnames:\n  0: cat\n  1: dog\n",
        b"0 0.5 0.5 0.2 0.4\n1 .1 .1 .2 .3 .4 .1\n",
    )
    cfg = config(tmp_path, "--dataset=yolo", "--anno_path=data.yaml")
    for number in range(400):
        (tmp_path / "data.yaml").write_bytes(change_bytes(yaml, rng) if number % 3 == 0 else yaml)
        (tmp_path / "labels" / "7.txt").write_bytes(change_bytes(labels, rng))
        refused += isinstance(read(cfg)[0], str)
    assert 50 < refused < 390


def test_labelme(tmp_path, empty_cwd):
    rng, refused = random.Random(5), 0
    picture(tmp_path / "in" / "a.jpg", 40, 60)
    cfg = config(tmp_path, "--dataset=labelme", "--anno_path=in", "--image_dir=")
    for number in range(400):
        points = [[1, 2], [30.5, 20]]
        shapes = [{"label": name, "points": points, "shape_type": "rectangle"} for name in ("cat", "dog")]
        content = {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 40, "imageWidth": 60}
        damage(content, number, tmp_path / "in" / "a.json", rng)
        refused += isinstance(read(cfg)[0], str)
    assert 50 < refused < 390


def damage(content, number, path, rng):
    """Change values of a JSON tree, or every third time bytes of its text, and write it."""
    if number % 3:
        content = json.loads(json.dumps(content))  # no part of it occurs twice
        for _ in range(rng.randint(1, 3)):
            change_value(content, rng)
            content = json.loads(json.dumps(content))
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(change_bytes(json.dumps(content).encode(), rng))


def test_cvat(tmp_path, empty_cwd):
    rng, refused = random.Random(6), 0
    picture(tmp_path / "a.jpg", 40, 60)
    original = b'<annotations><image id="3" name="a.jpg" width="60" height="40" subset="x"><box label="cat" xtl="1" '
    original += (
        b'ytl="2" xbr="30.5" ybr="20" rotation="5"/><polygon label="dog" points="1,2;9,2;5,9"/></image></annotations>'
    )
    cfg = config(tmp_path, "--dataset=cvat", "--anno_path=a.xml", "--image_dir=")
    for _ in range(400):
        (tmp_path / "a.xml").write_bytes(change_bytes(original, rng))
        refused += isinstance(read(cfg)[0], str)
    assert 50 < refused < 390


def test_label_studio(tmp_path, empty_cwd):
    rng, refused = random.Random(7), 0
    picture(tmp_path / "a.jpg", 40, 60)
    cfg = config(tmp_path, "--dataset=label_studio", "--anno_path=a.json", "--image_dir=")
    for number in range(400):
        value = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}
        results = [{"id": "r", "type": "rectanglelabels", "original_width": 60, "original_height": 40, "value": value}]
        points = {"points": [[1, 2], [9, 2], [5, 9]], "polygonlabels": ["dog"]}
        results.append(dict(results[0], type="polygonlabels", value=points))
        annotation = {"result": results, "was_cancelled": False, "updated_at": "2024-01-01"}
        content = [{"id": 3, "data": {"image": "/data/upload/1/a.jpg"}, "annotations": [annotation]}]
        damage(content, number, tmp_path / "a.json", rng)
        refused += isinstance(read(cfg)[0], str)
    assert 50 < refused < 390
