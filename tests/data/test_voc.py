"""VOC folders: variants of objects, difficult objects, hidden files, encodings."""

import json
import os
import time

import numpy as np
import pytest

from src.data.issues import Issues
from src.data.readers import READERS, read_dataset
from src.data.readers.coco import coco_json
from src.data.sample import clip_to_image
from src.evaluation.coco_evaluator import CocoEvaluator
from src.utils.errors import UserError
from tests.helpers.annotations import config, noted, table, thing, voc


def voc_read(folder, body, is_training=True):
    voc(folder, "a.xml", body, "a.jpg")
    return READERS["voc"](config(folder, "--dataset=voc"), is_training)


def several(*entries):
    return "<object>" + "".join(entries) + "</object>"


def bndbox(*corners):
    return (
        "<bndbox>" + "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners)) + "</bndbox>"
    )


def test_voc_uses_every_box_of_an_object(tmp_path):
    boxes = bndbox(2, 3, 5, 7), bndbox(11, 12, 21, 32), bndbox(4, 4, 9, 9)
    data = voc_read(tmp_path, several("<name>cat</name>", *boxes) + thing("dog", 1, 1, 3, 3))
    assert data.samples[0].boxes.tolist() == [[2, 1, 6, 4, 1], [11, 10, 31, 20, 1], [3, 3, 8, 8, 1], [0, 0, 2, 2, 2]]
    assert noted(data)[0]["objects have several <bndbox> (each is used as a box)"] == (1, ["cat in a.xml"])


@pytest.mark.parametrize(
    "body, words",
    [
        (several(bndbox(1, 2, 3, 4)), "objects have no <name>: object 1 in a.xml"),
        (several("<name> </name>", bndbox(1, 2, 3, 4)), "objects have no <name>: object 1 in a.xml"),
        (thing("cat", 1, 2, 3, 4) + several("<name/>", bndbox(1, 2, 3, 4)), "no <name>: object 2 in a.xml"),
        (
            several("<name>cat</name><name>dog</name>", bndbox(1, 2, 3, 4)),
            "objects have several <name>: object 1 in a.xml",
        ),
        (several("<name>cat</name>"), "no <bndbox> of four numbers.*cat in a.xml"),
        (several("<name>cat</name>", bndbox(1, 2, 3, 4), bndbox(1, 2, 3)), "no <bndbox> of four numbers.*cat in a.xml"),
        (several("<name>cat</name>", "<bndbox><xmin>1</xmin>" + bndbox(1, 2, 3, 4)[8:]), "no <bndbox> of four numbers"),
        ("<objects>" + thing("cat", 1, 2, 3, 4) + "</objects>", "files are not VOC annotations.*a.xml"),
        (thing("cat", 0.1, 0.2, 0.5, 0.8) + thing("dog", 0, 0.1, 0.4, 1), "2 boxes have coordinates between 0 and 1"),
    ],
)
def test_voc_objects_that_cannot_be_used(tmp_path, body, words):
    voc(tmp_path, "a.xml", body, "a.jpg")
    with pytest.raises(UserError, match=words):
        read_dataset(config(tmp_path, "--dataset=voc"), True)


def test_a_class_spelt_in_another_way_is_named(tmp_path):
    found = noted(voc_read(tmp_path, thing("cat", 1, 2, 3, 4) + thing("Dog ", 1, 2, 3, 4)))[0]
    kind = "objects of a class that 'classes' does not list (dropped)"
    assert found[kind] == (1, ["Dog in a.xml (spelt 'dog' in 'classes')"])


def difficult(name, *corners):
    return several(f"<name>{name}</name><difficult>1</difficult>", bndbox(*corners))


def test_difficult_objects_are_trained_on_and_ignored_by_evaluation(tmp_path):
    body = thing("cat", 11, 11, 31, 31) + difficult("cat", 51, 11, 81, 31) + difficult("dog", 11, 51, 31, 91)
    body += thing("dog", 51, 51, 81, 91)
    for split in ("train", "eval"):
        voc(tmp_path, "1.xml", body, "1.jpg")
        if split == "train":
            os.rename(tmp_path / "voc" / "train", tmp_path / "voc" / "eval")
    cfg = config(tmp_path, "--dataset=voc")
    assert len(read_dataset(cfg, True).samples[0].boxes) == 4
    data = read_dataset(cfg, False)
    kind = "objects are difficult (used in training; evaluation ignores them and detections on them)"
    assert noted(data)[0][kind] == (2, ["cat in 1.xml", "dog in 1.xml"])
    clip_to_image(data.samples[0], (100, 100), 1, Issues())
    content = coco_json(data, [1], None, {1: (100, 100)}, list(cfg.classes))
    assert [row["iscrowd"] for row in content["annotations"]] == [0, 1, 1, 0]
    (tmp_path / "voc.json").write_text(json.dumps(content))

    def average(*found):
        evaluator = CocoEvaluator(str(tmp_path / "voc.json"), list(cfg.classes))
        boxes = np.array([row[:4] for row in found], np.float64)
        evaluator.add(1, boxes, np.array([row[4] for row in found]), np.array([row[5] for row in found]))
        return evaluator.summarize()["mAP"]

    right = [10, 10, 30, 30, 0.5, 1], [50, 50, 90, 80, 0.5, 2]
    assert average(*right) == pytest.approx(1)
    # higher scores than all others: twice on a difficult box, then next to every box
    assert average(
        [10, 50, 30, 80, 0.9, 1], [10, 51, 30, 80, 0.8, 1], [50, 10, 90, 30, 0.9, 2], *right
    ) == pytest.approx(1)
    assert average([70, 0, 90, 20, 0.9, 1], *right) == pytest.approx(0.75)


def test_difficult_flags_stay_with_their_boxes(tmp_path):
    body = difficult("cat", 91, 91, 99, 99) + difficult("cat", 5, 5, 5, 9) + thing("dog", 1, 1, 30, 30)
    sample = voc_read(tmp_path, body + difficult("dog", 11, 11, 60, 60)).samples[0]
    assert sample.boxes[:, 4].tolist() == [1, 2, 2] and sample.difficult.tolist() == [True, False, True]
    clip_to_image(sample, (50, 50), 1, Issues())
    assert sample.boxes.tolist() == [[0, 0, 29, 29, 2], [10, 10, 50, 50, 2]] and sample.difficult.tolist() == [
        False,
        True,
    ]


def test_hidden_files_are_left_out_and_counted(tmp_path):
    voc(tmp_path, "1.xml", thing("cat", 1, 2, 3, 4), "1.jpg")
    for name in ("Annotations/._1.xml", "Images/._1.jpg", "Images/.DS_Store", "Images/Thumbs.db"):
        (tmp_path / "voc" / "train" / name).write_bytes(b"\0\5\x16\7")
    os.makedirs(tmp_path / "voc" / "train" / "Annotations" / "__MACOSX")
    data = read_dataset(config(tmp_path, "--dataset=voc"), True)
    assert table(data) == [(1, "1.jpg", [[1, 0, 3, 2, 1]])] and noted(data)[0]["hidden files (left out)"][0] == 5


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb2312", "shift_jis", "latin-1"])
def test_xml_in_any_encoding(tmp_path, encoding):
    name = {"gb2312": "\u732b", "shift_jis": "\u732b"}.get(encoding, "\u00e9t\u00e9")
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    text = f'<?xml version="1.0" encoding="{declared}"?>\r\n<annotation>{thing(name, 1, 2, 3, 4)}</annotation>'
    voc(tmp_path, "a.xml", "", "a.jpg")
    (tmp_path / "voc" / "train" / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    data = read_dataset(
        config(tmp_path, "--dataset=voc", "--num_classes=2", f"--classes=['background', '{name}']"), True
    )
    assert table(data) == [(0, "a.jpg", [[1, 0, 3, 2, 1]])]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-7"])
def test_xml_entities_do_not_grow(tmp_path, encoding):
    lines = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 12))
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    text = f'<!DOCTYPE a [<!ENTITY l0 "ha">{lines}]><annotation>&l11;</annotation>'
    voc(tmp_path, "a.xml", "", "a.jpg")
    content = head.encode() + text.encode(encoding) if encoding == "utf-7" else (head + text).encode(encoding)
    (tmp_path / "voc" / "train" / "Annotations" / "a.xml").write_bytes(content)
    start = time.monotonic()
    with pytest.raises(UserError, match="not valid XML: a.xml"):
        read_dataset(config(tmp_path, "--dataset=voc"), True)
    assert time.monotonic() - start < 2


def test_voc_empty_file_and_original_layout(tmp_path):
    voc(tmp_path, "a.xml", "", "a.jpg")
    (tmp_path / "voc" / "train" / "Annotations" / "a.xml").write_bytes(b"")
    with pytest.raises(UserError, match="a.xml: the file is empty"):
        read_dataset(config(tmp_path, "--dataset=voc"), True)
    os.makedirs(tmp_path / "VOC2007" / "JPEGImages")
    with pytest.raises(UserError, match="no such folder: .*VOC2007/train; this is VOC's original layout"):
        read_dataset(config(tmp_path, "--dataset=voc", "--voc_root=VOC2007"), True)


@pytest.mark.parametrize(
    "body, words",
    [
        ("<Object><name>cat</name>" + bndbox(1, 2, 3, 4) + "</Object>", "files are not VOC annotations.*a.xml"),
        (
            '<object xmlns="x"><name>cat</name>' + bndbox(1, 2, 3, 4) + "</object>",
            "files are not VOC annotations.*a.xml",
        ),
        ("<item><name>cat</name>" + bndbox(1, 2, 3, 4) + "</item>", "files are not VOC annotations.*a.xml"),
        (
            several("<name>cat</name><difficult>0</difficult><difficult>1</difficult>", bndbox(1, 2, 3, 4)),
            "objects have several <difficult> that differ: cat in a.xml",
        ),
    ],
)
def test_voc_objects_under_other_names_are_no_loss(tmp_path, body, words):
    voc(tmp_path, "a.xml", body, "a.jpg")
    os.rename(tmp_path / "voc" / "train", tmp_path / "voc" / "eval")  # where images without objects are kept
    with pytest.raises(UserError, match=words):
        read_dataset(config(tmp_path, "--dataset=voc"), False)
