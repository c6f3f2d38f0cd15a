"""One COCO set written in the formats of labelling tools, and configurations that read it."""

from __future__ import annotations

import json
import os
import shutil
from xml.sax.saxutils import quoteattr

from src.config import load_config
from tests.helpers.annotations import thing

FORMATS = ("coco", "voc", "other", "yolo", "labelme", "cvat", "label_studio")
SPLITS = {"train2017": "train", "val2017": "val"}


def options(folder, dataset):
    """The options that read the set of `write_all` in a format."""
    keys = {
        "coco": ["--coco_root=coco"],
        "voc": ["--voc_root=voc", "--voc_json=none.json"],
        "other": ["--anno_path=list_train.txt", "--anno_path_val=list_val.txt", "--image_dir=coco"],
        "yolo": ["--anno_path=yolo/data.yaml"],
        "labelme": ["--anno_path=labelme/train", "--anno_path_val=labelme/val"],
        "cvat": ["--anno_path=cvat/train/annotations.xml", "--anno_path_val=cvat/val/annotations.xml"],
        "label_studio": ["--anno_path=train.json", "--anno_path_val=val.json", "--image_dir=coco"],
    }[dataset]
    return [f"--data_path={folder}", f"--dataset={dataset}", f"--mindrecord_dir=records_{dataset}", *keys]


def config(folder, dataset, *more):
    """The configuration that reads the set of `write_all` in a format."""
    return load_config(
        [
            *options(folder, dataset),
            "--num_classes=4",
            "--classes=['background', 'stop sign', 'sports ball', 'kite']",
            "--img_shape=[128, 128]",
            "--batch_size=2",
            "--device_target=CPU",
            *more,
        ]
    )


def write_all(folder):
    """Write the set `folder/coco`, whose ids are the numbers of the images, in all other formats."""
    for split, part in SPLITS.items():
        content = json.loads((folder / "coco" / "annotations" / f"instances_{split}.json").read_text())
        names = {row["id"]: row["name"] for row in content["categories"]}
        images = []
        for image in content["images"]:
            rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
            images.append((image, [(names[row["category_id"]], *row["bbox"]) for row in rows]))
        source = folder / "coco" / split
        write_voc(folder / "voc" / {"train": "train", "val": "eval"}[part], source, images)
        write_list(folder / f"list_{part}.txt", split, images)
        write_yolo(folder / "yolo", part, source, images, list(names.values()))
        write_labelme(folder / "labelme" / part, source, images)
        write_cvat(folder / "cvat" / part, source, images)
        write_label_studio(folder / f"{part}.json", split, images)


def copy_images(source, target, images):
    os.makedirs(target)
    for image, _ in images:
        shutil.copy2(source / image["file_name"], target)


def write_voc(folder, source, images):
    copy_images(source, folder / "Images", images)
    os.makedirs(folder / "Annotations")
    for image, boxes in images:
        objects = "".join(thing(name, x + 1, y + 1, x + w + 1, y + h + 1) for name, x, y, w, h in boxes)
        stem = os.path.splitext(image["file_name"])[0]
        (folder / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>")


def write_list(path, split, images):
    order = ["background", "stop sign", "sports ball", "kite"]
    lines = []
    for image, boxes in images:
        fields = [f"{x},{y},{x + w},{y + h},{order.index(name)}" for name, x, y, w, h in boxes]
        lines.append(" ".join([f"{split}/{image['file_name']}", *fields]))
    path.write_text("\n".join(lines))


def write_yolo(folder, part, source, images, names):
    copy_images(source, folder / "images" / part, images)
    os.makedirs(folder / "labels" / part)
    for image, boxes in images:
        width, height = image["width"], image["height"]
        lines = [
            f"{names.index(name)} {(x + w / 2) / width!r} {(y + h / 2) / height!r} {w / width!r} {h / height!r}\n"
            for name, x, y, w, h in boxes
        ]
        stem = os.path.splitext(image["file_name"])[0]
        (folder / "labels" / part / f"{stem}.txt").write_text("".join(lines))
    listed = "".join(f"  {number}: {name}\n" for number, name in enumerate(names))
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnc: {len(names)}\nnames:\n{listed}")


def write_labelme(folder, source, images):
    copy_images(source, folder, images)
    for number, (image, boxes) in enumerate(images):
        shapes = []
        for name, x, y, w, h in boxes:
            ends = [[x + w, y], [x, y + h]] if number % 2 else [[x, y], [x + w, y + h]]  # drawn from any corner
            shapes.append({"label": name, "points": ends, "group_id": None, "shape_type": "rectangle", "flags": {}})
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image["file_name"]}
        content.update(imageData=None, imageHeight=image["height"], imageWidth=image["width"])
        stem = os.path.splitext(image["file_name"])[0]
        (folder / f"{stem}.json").write_text(json.dumps(content, indent=2))


def write_cvat(folder, source, images):
    copy_images(source, folder / "images", images)
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    lines += ["  <meta><task><id>1</id><name>drawn</name></task></meta>"]
    for image, boxes in images:
        size = f'width="{image["width"]}" height="{image["height"]}"'
        lines.append(f'  <image id="{image["id"]}" name={quoteattr(image["file_name"])} {size}>')
        for name, x, y, w, h in boxes:
            corners = f'xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"'
            lines.append(f'    <box label={quoteattr(name)} source="manual" occluded="0" {corners} z_order="0"></box>')
        lines.append("  </image>")
    (folder / "annotations.xml").write_text("\n".join([*lines, "</annotations>"]))


def write_label_studio(path, split, images):
    tasks = []
    for image, boxes in images:
        width, height = image["width"], image["height"]
        results = [
            {
                "id": f"r{number}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "x": x / width * 100,
                    "y": y / height * 100,
                    "width": w / width * 100,
                    "height": h / height * 100,
                    "rotation": 0,
                    "rectanglelabels": [name],
                },
            }
            for number, (name, x, y, w, h) in enumerate(boxes)
        ]
        upload = f"/data/local-files/?d=somewhere/{split}/{image['file_name']}"
        annotation = {"id": 1, "result": results, "was_cancelled": False, "ground_truth": False}
        tasks.append({"id": image["id"], "data": {"image": upload}, "annotations": [annotation], "predictions": []})
    path.write_text(json.dumps(tasks))
