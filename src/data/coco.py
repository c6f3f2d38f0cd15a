"""COCO annotation files: `load_coco_json` reads and repairs, `read_coco` gives samples (SPEC section 7)."""

from __future__ import annotations

import json
import math
import os
from collections import Counter

from src.config import data_file
from src.data.sample import DataSet, Faults, Sample, boxes_array, clip_boxes
from src.errors import UserError
from src.log import printable, warn_once


def load_coco_json(path: str) -> dict:
    """A COCO annotation file as a dict that pycocotools and our readers can rely on.

    What is mended (see `repair_coco`) is told once, one line a kind.

    Raises:
        UserError: what cannot be repaired, with the file, the ids and the reason in one line.
    """
    faults = Faults()
    content = repair_coco(path, faults)
    faults.raise_refused(path)
    for line in faults.repaired_lines():
        warn_once(f"{path}: {line}")
    return content


def repair_coco(path: str, faults: Faults) -> dict:
    """The content of a COCO annotation file, mended; rows that cannot be are left out and noted as refused.

    Mended: `iscrowd` and `area` that are missing, annotation ids that are missing, given twice or not above 0
    (all are numbered anew from 1), images and categories given twice word by word, boxes of no area (dropped).

    Raises:
        UserError: the file is missing, no JSON, or not of this form at all.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a COCO annotation file (the top level must be an object)")
    for key in ("images", "annotations", "categories"):
        rows = content.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: not a COCO annotation file ('{key}' must be a list of objects)")
    images = _with_ids(content["images"], "image", "file_name", faults)
    categories = _with_ids(content["categories"], "category", "name", faults)
    names = Counter(category["name"] for category in categories)
    for name, number in names.items():
        if number > 1:
            faults.refuse("category names are given twice", name)
    annotations = _annotations(content["annotations"], images, categories, faults)
    return dict(content, images=images, categories=categories, annotations=annotations)


def _read_json(path: str):
    try:
        with open(path, encoding="utf-8-sig") as handle:
            return json.load(handle, object_hook=_without_outline)
    except FileNotFoundError:
        raise UserError(f"annotation file not found: {path}") from None
    except OSError as error:
        raise UserError(f"cannot read annotation file {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None


def _without_outline(row: dict) -> dict:
    """An object of the file without `segmentation`: nothing here reads it, and COCO's outlines take 2 GB as numbers."""
    row.pop("segmentation", None)
    return row


def _with_ids(rows: list, what: str, name_key: str, faults: Faults) -> list:
    """The rows that have an id of their own (a whole number or a text) and a name."""
    seen, kept = {}, []
    for row in rows:
        own, name = row.get("id"), row.get(name_key)
        if isinstance(own, bool) or not isinstance(own, (int, str)):
            faults.refuse(f"{what} rows without a usable id", str(row)[:80])
        elif not isinstance(name, str) or not name.strip() or "\0" in name:
            faults.refuse(f"{what} rows without a usable '{name_key}', ids", own)
        elif own not in seen:
            seen[own] = row
            kept.append(row)
        elif row == seen[own]:
            faults.repair(f"{what} rows are given twice word by word (one is used), ids", own)
        else:
            faults.refuse(f"{what} ids are given to two different rows", own)
    return kept


def _annotations(rows: list, images: list, categories: list, faults: Faults) -> list:
    known = {"image_id": {row["id"] for row in images}, "category_id": {row["id"] for row in categories}}
    kept = []
    for row in rows:
        own = row.get("id")
        stray = [
            key
            for key, ids in known.items()
            if isinstance(row.get(key), bool) or not isinstance(row.get(key), (int, str)) or row[key] not in ids
        ]
        if stray:
            for key in stray:
                faults.refuse(
                    f"annotations have a {key} that the file does not list", f"annotation {own}: {row.get(key)}"
                )
            continue
        box = row.get("bbox")
        if not _is_box(box):
            faults.refuse("annotations have no usable bbox [x, y, width, height]", f"annotation {own}: {str(box)[:60]}")
            continue
        if box[2] <= 0 or box[3] <= 0:
            faults.repair("boxes of no area (dropped), annotations", own)
            continue
        row = dict(row)
        if not _is_number(row.get("iscrowd")) or row["iscrowd"] not in (0, 1):
            faults.repair("annotations without 'iscrowd' (taken as 0)", own)
            row["iscrowd"] = 0
        if not _is_number(row.get("area")) or row["area"] < 0:
            faults.repair("annotations without 'area' (taken from the box)", own)
            row["area"] = float(box[2] * box[3])
        kept.append(row)
    _number(kept, faults)
    return kept


def _number(annotations: list, faults: Faults) -> None:
    """pycocotools keeps one annotation an id and takes id 0 for "no match": such ids are numbered anew."""
    seen, anew = set(), False
    for row in annotations:
        own = row.get("id")
        if isinstance(own, bool) or not isinstance(own, int) or own <= 0:
            faults.repair("annotation ids are missing or no number above 0 (all were numbered anew)", str(own))
            anew = True
        elif own in seen:
            faults.repair("annotation ids are given twice (all were numbered anew)", own)
            anew = True
        else:
            seen.add(own)
    if anew:
        for number, row in enumerate(annotations, 1):
            row["id"] = number


def _is_number(value) -> bool:
    """A finite number of a usable size."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e15 if isinstance(value, int) else math.isfinite(value)


def _is_box(box) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(_is_number(v) and abs(v) < 1e9 for v in box)


def category_labels(content: dict, classes: list, path: str, faults: Faults) -> dict:
    """Category id -> class index, by name; classes and categories without a partner are noted."""
    places = {name: place for place, name in enumerate(classes) if place > 0}
    labels = {row["id"]: places[row["name"]] for row in content["categories"] if row["name"] in places}
    names = {row["name"] for row in content["categories"]}
    if not labels:
        few = printable(", ".join(sorted(names)[:5]))[:200] or "it has none"
        raise UserError(f"{path}: none of its categories ({few}) is in 'classes' ({', '.join(classes[1:6])}, ...)")
    for name in places:
        if name not in names:
            faults.repair("classes are not in the file", name)
    boxes = Counter(row["category_id"] for row in content["annotations"])
    for row in content["categories"]:
        if row["id"] not in labels:
            faults.repair(
                "categories are not in 'classes' (their boxes are dropped)", f"{row['name']} ({boxes[row['id']]} boxes)"
            )
    return labels


def read_coco(cfg, is_training: bool) -> DataSet:
    """Samples of a COCO folder, images without a box included."""
    root = data_file(cfg, cfg.coco_root)
    if not os.path.isdir(root):
        raise UserError(f"coco_root: no such folder: {root} (data_path {cfg.data_path}, coco_root {cfg.coco_root})")
    kind = cfg.train_data_type if is_training else cfg.val_data_type
    path = os.path.join(root, cfg.instances_set.format(kind))
    faults = Faults()
    content = repair_coco(path, faults)
    labels = category_labels(content, list(cfg.classes), path, faults)
    rows = {}
    for annotation in content["annotations"]:
        if annotation["category_id"] in labels:
            x, y, w, h = annotation["bbox"]
            rows.setdefault(annotation["image_id"], []).append(
                (round(y), round(x), round(y + h), round(x + w), labels[annotation["category_id"]])
            )
    samples = []
    for image in content["images"]:
        height, width = (_side(image.get(key)) for key in ("height", "width"))
        boxes, _, empty = clip_boxes(boxes_array(rows.get(image["id"], [])), 0, 0)
        if empty:
            faults.repair("images with boxes of no area after rounding (dropped)", image["file_name"])
        samples.append(Sample(image["id"], os.path.join(root, kind, image["file_name"]), boxes, width, height))
    return DataSet(samples, [path], path, faults, path)


def _side(value) -> int:
    """An annotated height or width, 0 where the file gives none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1e9 else 0


def coco_json(data: DataSet, ids: list, table, sizes: dict, classes: list) -> dict:
    """A COCO-style annotation dict of samples (VOC and list files have none of their own).

    Args:
        ids: img_id of each sample's row; table: img_id -> the data set's own id, None where they are the same.
        sizes: img_id -> (height, width) of the images that were written.
    """
    images, annotations = [], []
    for img_id, sample in zip(ids, data.samples):
        if img_id not in sizes:
            continue
        own, (height, width) = (img_id if table is None else table[img_id]), sizes[img_id]
        images.append({"id": own, "file_name": os.path.basename(sample.path), "height": height, "width": width})
        for y1, x1, y2, x2, label in sample.boxes.tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": own,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label, "name": name} for label, name in enumerate(classes) if label > 0]
    return {"images": images, "annotations": annotations, "categories": categories}
