"""Each reader against tables made by hand."""

import json
import os

import pytest

from src.config import load_config
from src.data.annotations import read_dataset
from src.errors import UserError

CLASSES = "['background', 'cat', 'dog']"


def config(folder, *more):
    return load_config(
        [
            f"--data_path={folder}",
            "--num_classes=3",
            f"--classes={CLASSES}",
            "--coco_root=coco",
            "--image_dir=images",
            "--anno_path=list.txt",
            "--voc_root=voc",
            *more,
        ]
    )


def coco(folder, annotations, images=((5, 100, 200), (6, 50, 60)), categories=((7, "dog"), (0, "cat"), (9, "sofa"))):
    os.makedirs(folder / "coco" / "annotations", exist_ok=True)
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": h, "width": w} for i, h, w in images],
        "annotations": [dict({"id": k + 1, "iscrowd": 0, "area": 1}, **a) for k, a in enumerate(annotations)],
        "categories": [{"id": c, "name": n} for c, n in categories],
    }
    for split in ("train2017", "val2017"):
        (folder / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def table(data):
    return [(s.image_id, os.path.basename(s.path), s.boxes.tolist()) for s in data.samples]


def test_coco_rules(tmp_path):
    coco(
        tmp_path,
        [
            {"image_id": 5, "category_id": 7, "bbox": [10.5, 20.5, 30.2, 40.4]},  # round half to even: 10, 20; 41, 61
            {"image_id": 5, "category_id": 0, "bbox": [1, 2, 3, 4], "iscrowd": 1},  # a crowd is a training target
            {"image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4]},  # not listed
            {"image_id": 5, "category_id": 0, "bbox": [180, 90, 50, 50]},  # beyond the image: cut when converted
            {"image_id": 6, "category_id": 0, "bbox": [10.6, 10.4, 0.3, 20]},  # no width by rounding
            {"image_id": 6, "category_id": 0, "bbox": [10, 10, 0, 20]},
        ],
    )  # no width
    want = [(5, "5.jpg", [[20, 10, 61, 41, 2], [2, 1, 6, 4, 1], [90, 180, 140, 230, 1]])]
    assert table(read_dataset(config(tmp_path), True)) == want
    assert table(read_dataset(config(tmp_path), False)) == want + [(6, "6.jpg", [])]


@pytest.mark.parametrize(
    "annotation, words",
    [
        ({"image_id": 5, "category_id": 99, "bbox": [1, 2, 3, 4]}, ["annotation 1", "99", "instances_train2017.json"]),
        ({"image_id": 77, "category_id": 7, "bbox": [1, 2, 3, 4]}, ["annotation 1", "77"]),
        ({"image_id": 5, "category_id": 7, "bbox": [1, 2, 3]}, ["annotation 1", "bbox"]),
        ({"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, float("nan")]}, ["annotation 1", "bbox"]),
        ({"image_id": 5, "category_id": 7, "bbox": "1,2,3,4"}, ["annotation 1", "bbox"]),
    ],
)
def test_coco_that_cannot_be_repaired_is_one_line(tmp_path, annotation, words):
    coco(tmp_path, [annotation])
    with pytest.raises(UserError) as error:
        read_dataset(config(tmp_path), True)
    assert all(word in str(error.value) for word in words)


def test_coco_missing_things_are_named(tmp_path):
    with pytest.raises(UserError, match="coco_root.*no such folder"):
        read_dataset(config(tmp_path), True)
    os.makedirs(tmp_path / "coco")
    with pytest.raises(UserError, match="annotation file not found.*instances_train2017.json"):
        read_dataset(config(tmp_path), True)
    coco(tmp_path, [], categories=((1, "sofa"),))
    with pytest.raises(UserError, match="none of its categories"):
        read_dataset(config(tmp_path), True)


def voc(folder, name, body, image):
    for part in ("Images", "Annotations"):
        os.makedirs(folder / "voc" / "train" / part, exist_ok=True)
    (folder / "voc" / "train" / "Annotations" / name).write_text(f"<annotation>{body}</annotation>")
    if image:
        (folder / "voc" / "train" / "Images" / image).write_bytes(b"x")


def thing(name, *corners):
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox><part><bndbox><xmin>1</xmin></bndbox></part></object>"


def test_voc_rules(tmp_path):
    size = "<size><width>200</width><height>100</height></size>"
    voc(tmp_path, "7.xml", "<filename>IMG_7</filename>" + size + thing("cat", 11, 21, 31, "45.70000076293945"), "7.JPG")
    voc(
        tmp_path,
        "b.xml",
        "<filename>sub/b.jpg</filename>" + size + thing("dog", 0, 0, 50, 60) + thing("sofa", 1, 1, 9, 9),
        "b.Jpeg",
    )
    want = [(7, "7.JPG", [[20, 10, 44, 30, 1]]), (0, "b.Jpeg", [[0, 0, 59, 49, 2]])]
    assert table(read_dataset(config(tmp_path, "--dataset=voc"), True)) == want


def test_voc_without_image_or_number_is_one_line(tmp_path):
    voc(tmp_path, "a.xml", thing("cat", 1, 2, 3, 4), None)
    with pytest.raises(UserError, match="1 annotation files have no image.*a.xml"):
        read_dataset(config(tmp_path, "--dataset=voc"), True)
    voc(tmp_path, "a.xml", thing("cat", 1, 2, "x", 4), "a.jpg")
    with pytest.raises(UserError, match="xmax"):
        read_dataset(config(tmp_path, "--dataset=voc"), True)
    voc(tmp_path, "a.xml", "<object>", "a.jpg")
    with pytest.raises(UserError, match="not valid XML"):
        read_dataset(config(tmp_path, "--dataset=voc"), True)


def test_list_rules(tmp_path):
    os.makedirs(tmp_path / "images")
    (tmp_path / "list.txt").write_bytes(
        b"\xef\xbb\xbfmy cats/a b.jpg 0,259,401,459,2\r\n\r\nc.jpg\t1,2,3,4,1  30,40,10,20,2\r\nempty.jpg\r\n"
    )
    want = [(0, "a b.jpg", [[259, 0, 459, 401, 2]]), (1, "c.jpg", [[2, 1, 4, 3, 1], [20, 10, 40, 30, 2]])]
    data = read_dataset(config(tmp_path, "--dataset=other"), True)
    assert table(data) == want and data.samples[0].path == str(tmp_path / "images" / "my cats" / "a b.jpg")
    assert table(read_dataset(config(tmp_path, "--dataset=other"), False)) == want + [(2, "empty.jpg", [])]


@pytest.mark.parametrize("line", ["a.jpg 1,2,3,4,3", "a.jpg 1,2,3,4,0", "a.jpg 1,2,x,4,1"])
def test_list_faults_name_the_line(tmp_path, line):
    os.makedirs(tmp_path / "images")
    (tmp_path / "list.txt").write_text(f"ok.jpg 1,2,3,4,1\n{line}\n")
    with pytest.raises(UserError, match="line 2"):
        read_dataset(config(tmp_path, "--dataset=other"), True)
