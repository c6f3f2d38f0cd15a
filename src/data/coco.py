"""COCO annotation files: `load_coco_json` reads and repairs, `read_coco` gives samples (SPEC section 7)."""

from __future__ import annotations

import json
import math
import os

from src.config import data_file
from src.data.sample import DataSet, Faults, Sample, boxes_array, clip_boxes
from src.errors import UserError
from src.log import LOGGER


def load_coco_json(path: str) -> dict:
    """A COCO annotation file as a dict that pycocotools and our readers can rely on.

    Repaired, with one warning a kind: `iscrowd` and `area` that are missing, annotation ids that are missing,
    given twice or 0 (all are numbered anew from 1), boxes of no area (dropped).

    Raises:
        UserError: what cannot be repaired, with the file, the id and the reason in one line.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a COCO annotation file (the top level must be an object)")
    for key in ("images", "annotations", "categories"):
        rows = content.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: not a COCO annotation file ('{key}' must be a list of objects)")
    _check_ids(content["images"], "image", path, "file_name")
    _check_ids(content["categories"], "category", path, "name")
    names = [category["name"] for category in content["categories"]]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: category name '{name}' is given twice")
    faults = Faults()
    content = dict(content, annotations=_annotations(content, path, faults))
    for line in faults.lines():
        LOGGER.warning("%s: %s", path, line)
    return content


def _read_json(path: str):
    try:
        with open(path, encoding="utf-8-sig") as handle:
            return json.load(handle)
    except FileNotFoundError:
        raise UserError(f"annotation file not found: {path}") from None
    except OSError as error:
        raise UserError(f"cannot read annotation file {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None


def _check_ids(rows: list, what: str, path: str, name_key: str) -> None:
    """Every row has a hashable id of its own and a name."""
    seen = set()
    for row in rows:
        own = row.get("id")
        if isinstance(own, bool) or not isinstance(own, (int, str)):
            raise UserError(f"{path}: {what} without a usable id: {str(row)[:80]}")
        if own in seen:
            raise UserError(f"{path}: {what} id {own} is given twice")
        seen.add(own)
        if not isinstance(row.get(name_key), str) or not row[name_key]:
            raise UserError(f"{path}: {what} {own} has no '{name_key}'")


def _annotations(content: dict, path: str, faults: Faults) -> list:
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    kept, ids = [], []
    for annotation in content["annotations"]:
        own, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        for key, value, known in (("image_id", image, images), ("category_id", category, categories)):
            if isinstance(value, (dict, list)) or value not in known:
                raise UserError(f"{path}: annotation {own} has {key} {value}, which the file does not list")
        box = annotation.get("bbox")
        if not _is_box(box):
            raise UserError(f"{path}: annotation {own} has no usable bbox [x, y, width, height]: {str(box)[:60]}")
        if box[2] <= 0 or box[3] <= 0:
            faults.add("boxes of no area (dropped), annotations", own)
            continue
        annotation = dict(annotation)
        if annotation.get("iscrowd") not in (0, 1):
            faults.add("annotations without 'iscrowd' (taken as 0)", own)
            annotation["iscrowd"] = 0
        area = annotation.get("area")
        if isinstance(area, bool) or not isinstance(area, (int, float)) or not math.isfinite(area):
            faults.add("annotations without 'area' (taken from the box)", own)
            annotation["area"] = float(box[2] * box[3])
        kept.append(annotation)
        ids.append(own)
    usable = all(isinstance(own, int) and not isinstance(own, bool) and own > 0 for own in ids)
    if not usable or len(set(ids)) != len(ids):
        twice = sorted({str(own) for own in ids if ids.count(own) > 1})[:5] if len(ids) < 5000 else []
        faults.add("time annotation ids were missing, 0 or given twice: numbered anew", ", ".join(twice) or "all")
        for number, annotation in enumerate(kept, 1):
            annotation["id"] = number
    return kept


def _is_box(box) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in box)
    )


def category_labels(content: dict, classes: list, path: str) -> dict:
    """Category id -> class index, by name; classes and categories without a partner are told.

    Raises:
        UserError: no category is listed in `classes`.
    """
    labels = {
        category["id"]: classes.index(category["name"])
        for category in content["categories"]
        if category["name"] in classes[1:]
    }
    names = {category["name"] for category in content["categories"]}
    missing = [name for name in classes[1:] if name not in names]
    if not labels:
        raise UserError(f"{path}: none of its categories ({', '.join(sorted(names)[:5])}, ...) is in 'classes'")
    if missing:
        LOGGER.warning(
            "%s: %d of %d classes are not in the file: %s", path, len(missing), len(classes) - 1, ", ".join(missing[:5])
        )
    return labels


def read_coco(cfg, is_training: bool) -> DataSet:
    """Samples of a COCO folder. For evaluation every image is kept, for training those with a box."""
    root = data_file(cfg, cfg.coco_root)
    if not os.path.isdir(root):
        raise UserError(f"coco_root: no such folder: {root} (data_path {cfg.data_path}, coco_root {cfg.coco_root})")
    kind = cfg.train_data_type if is_training else cfg.val_data_type
    path = os.path.join(root, cfg.instances_set.format(kind))
    content = load_coco_json(path)
    labels = category_labels(content, list(cfg.classes), path)
    rows = {}
    for annotation in content["annotations"]:
        if annotation["category_id"] in labels:
            x, y, w, h = annotation["bbox"]
            rows.setdefault(annotation["image_id"], []).append(
                (round(y), round(x), round(y + h), round(x + w), labels[annotation["category_id"]])
            )
    faults, samples = Faults(), []
    for image in content["images"]:
        height, width = (image.get(key) if isinstance(image.get(key), int) else 0 for key in ("height", "width"))
        boxes = clip_boxes(boxes_array(rows.get(image["id"], [])), height, width, faults, image["file_name"])
        if len(boxes) or not is_training:
            samples.append(Sample(image["id"], os.path.join(root, kind, image["file_name"]), boxes, width, height))
    for line in faults.lines():
        LOGGER.warning("%s: %s", path, line)
    return DataSet(samples, [path], path)
