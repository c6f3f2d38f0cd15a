"""Small annotation files in the three formats, and the samples and issues of the readers."""

from __future__ import annotations

import json
import os

from src.config import load_config

CLASSES = "['background', 'cat', 'dog']"


def config(folder, *more):
    """The configuration for the files that this module writes into a folder."""
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
    """Write one instances file for both splits. images: (id, height, width); categories: (id, name)."""
    os.makedirs(folder / "coco" / "annotations", exist_ok=True)
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": h, "width": w} for i, h, w in images],
        "annotations": [dict({"id": k + 1, "iscrowd": 0, "area": 1}, **a) for k, a in enumerate(annotations)],
        "categories": [{"id": c, "name": n} for c, n in categories],
    }
    for split in ("train2017", "val2017"):
        (folder / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def table(data):
    """(id, file name, boxes) of every sample."""
    return [(s.image_id, os.path.basename(s.path), s.boxes.tolist()) for s in data.samples]


def voc(folder, name, body, image):
    """Write an XML file and, if `image` is a name, an image file."""
    for part in ("Images", "Annotations"):
        os.makedirs(folder / "voc" / "train" / part, exist_ok=True)
    (folder / "voc" / "train" / "Annotations" / name).write_text(f"<annotation>{body}</annotation>")
    if image:
        (folder / "voc" / "train" / "Images" / image).write_bytes(b"x")


def thing(name, *corners):
    """An <object> with a <part>, whose box must not be read."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox><part><bndbox><xmin>1</xmin></bndbox></part></object>"


def noted(data):
    """(warnings, errors), each kind -> (number, places)."""
    kinds = ({}, {})
    for fault in data.issues.all():
        kinds[fault.refused][fault.kind] = (fault.number, fault.places)
    return kinds
