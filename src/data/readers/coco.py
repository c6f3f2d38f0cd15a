"""COCO annotation files: `load_coco_json` reads and repairs, `read_coco` gives samples."""

from __future__ import annotations

import math
import os
from collections import Counter

from src.config import data_file
from src.data.issues import Issues
from src.data.readers.doubts import Normalized, alike
from src.data.readers.json_file import no_collection, read_json
from src.data.readers.locate import locate
from src.data.sample import DataSet, Sample, boxes_array
from src.utils.errors import UserError
from src.utils.log import warn_once
from src.utils.text import one_line

_CROWD = {"0": 0, "0.0": 0, "false": 0, "": 0, "1": 1, "1.0": 1, "true": 1}


def load_coco_json(path: str) -> dict:
    """A COCO annotation file as a dict that pycocotools and our readers can rely on.

    Each kind of repaired problem (see `repair_coco`) is logged once.

    Raises:
        UserError: what cannot be repaired, with the file, the ids and the reason in one line.
    """
    issues = Issues()
    content = repair_coco(path, issues)
    issues.raise_errors(path)
    for line in issues.repaired_lines():
        warn_once(f"{path}: {line}")
    return content


@no_collection()
def repair_coco(path: str, issues: Issues) -> dict:
    """The repaired content of a COCO annotation file; rows that cannot be repaired are left out and noted as errors.

    Repaired: ids of another type (1.0, or "1" where the file's id is 1), `iscrowd` and `area` that are missing,
    annotation ids that are missing, duplicate or not positive (renumbered from 1), images and categories given
    twice identically, boxes without area (dropped).

    Raises:
        UserError: the file is missing, no JSON, or not of this form at all.
    """
    content = read_json(path, issues)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a COCO annotation file (the top level must be an object)")
    for key in ("images", "annotations", "categories"):
        rows = content.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: not a COCO annotation file ('{key}' must be a list of objects)")
    images, image_ids = _with_ids(content["images"], "image", "file_name", issues)
    categories, category_ids = _with_ids(content["categories"], "category", "name", issues)
    names = Counter(category["name"] for category in categories)
    for name, number in names.items():
        if number > 1:
            issues.error("category names are given twice", name)
    known = {"image_id": image_ids, "category_id": category_ids}
    annotations = _annotations(content["annotations"], known, issues)
    return dict(content, images=images, categories=categories, annotations=annotations)


def _with_ids(rows: list, what: str, name_key: str, issues: Issues) -> tuple:
    """(rows with a usable id (integer or string) and a name, {id of any row: None})."""
    seen, kept, ids = {}, [], {}
    for row in rows:
        row_id, name = row.get("id"), row.get(name_key)
        if isinstance(row_id, float) and row_id.is_integer() and abs(row_id) < 2**53:
            issues.warn(f"{what} ids are written with a fraction (read as integers)", row_id)
            row_id = int(row_id)
            row = dict(row, id=row_id)
        if isinstance(row_id, bool) or not isinstance(row_id, (int, str)):
            issues.error(f"{what} rows without a usable id", str(row)[:80])
            continue
        ids[row_id] = None
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            issues.error(f"{what} rows without a usable '{name_key}', ids", row_id)
        elif row_id not in seen:
            seen[row_id] = row
            kept.append(row)
        elif row == seen[row_id]:
            issues.warn(f"{what} rows are exact duplicates (one is used), ids", row_id)
        else:
            names = " and ".join(dict.fromkeys((seen[row_id][name_key][:80], name[:80])))
            issues.error(f"{what} ids are given to two different rows", f"{row_id!r} ({names})")
    strings = [row["id"] for row in kept if isinstance(row["id"], str)]
    if strings and len(strings) < len(kept):
        for row_id in strings:
            issues.warn(f"{what} ids are strings, while other ids of the file are numbers", repr(row_id))
    return kept, ids


def _listed(value, ids: dict):
    """The id that a reference refers to, None where there is none: 1.0 and, where no other id fits, "1" mean 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    if value in ids:
        return value
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 and str(value) in ids else None
    text = value.strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 18 else None
    return number if number is not None and str(number) == text and number in ids else None


def _type(value) -> str:
    return "a string" if isinstance(value, str) else "a fraction" if isinstance(value, float) else "a number"


def _unlisted(value, ids: dict) -> str:
    """What is wrong with a reference to a row that does not exist, in words."""
    shown = f"{value!r}"[:60] if isinstance(value, str) else str(value)[:60]
    types = {type(known) for known in ids}
    if isinstance(value, str) and types == {int}:
        return f"{shown} (a string, the file's ids are numbers)"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and types == {str}:
        return f"{shown} (a number, the file's ids are strings)"
    return shown


def _annotations(rows: list, known: dict, issues: Issues) -> list:
    """The rows that can be used; `known` holds the ids that `image_id` and `category_id` may name."""
    kept = []
    for row in rows:
        annotation_id = row.get("id")
        row = dict(row)
        usable = True
        for key, ids in known.items():
            value = row.get(key)
            if type(value) is int and value in ids:
                continue
            meant = _listed(value, ids)
            if meant is None:
                issues.error(
                    f"annotations whose {key} the file does not list",
                    f"annotation {annotation_id}: {_unlisted(value, ids)}",
                )
                usable = False
            elif type(meant) is not type(value):
                issues.warn(
                    f"annotations whose {key} differs in type from the id that it refers to (matched by value)",
                    f"annotation {annotation_id}: {value!r} is {_type(value)}, the id {meant!r} {_type(meant)}",
                )
            row[key] = meant
        if not usable:
            continue
        box = row.get("bbox")
        if not _is_box(box):
            issues.error(
                "annotations have no usable bbox [x, y, width, height]",
                f"annotation {annotation_id}: {str(box)[:60]}{_flaw(box)}",
            )
            continue
        if box[2] <= 0 or box[3] <= 0:
            issues.warn("boxes of zero area (dropped), annotations", annotation_id)
            continue
        row["iscrowd"] = _crowd(row.get("iscrowd"), annotation_id, issues)
        if not _is_number(row.get("area")) or row["area"] < 0:
            usable = "a usable " if row.get("area") is not None else ""
            issues.warn(f"annotations without {usable}'area' (taken from the box)", annotation_id)
            row["area"] = float(box[2] * box[3])
        kept.append(row)
    _number(kept, issues)
    return kept


def _crowd(value, annotation_id, issues: Issues) -> int:
    """0 or 1. A crowd read as an ordinary box would change the metrics, so other values are not guessed."""
    if type(value) is int and value in (0, 1):
        return value
    if value is None:
        issues.warn("annotations without 'iscrowd' (taken as 0)", annotation_id)
        return 0
    meant = _CROWD.get(str(value).strip().lower())
    if meant is None:
        issues.error(
            "annotations have an iscrowd that is neither 0 nor 1", f"annotation {annotation_id}: {value!r}"[:80]
        )
        return 0
    issues.warn(
        "annotations have an iscrowd of another type (matched by value)", f"annotation {annotation_id}: {value!r}"
    )
    return meant


def _number(annotations: list, issues: Issues) -> None:
    """Renumber all ids if one is unusable: pycocotools keeps one annotation per id and takes id 0 for "no match"."""
    seen, renumber = set(), False
    for row in annotations:
        annotation_id = row.get("id")
        if isinstance(annotation_id, bool) or not isinstance(annotation_id, int) or annotation_id <= 0:
            issues.warn("annotation ids are missing or not positive integers (all were renumbered)", str(annotation_id))
            renumber = True
        elif annotation_id in seen:
            issues.warn("annotation ids are given twice (all were renumbered)", annotation_id)
            renumber = True
        else:
            seen.add(annotation_id)
    if renumber:
        for number, row in enumerate(annotations, 1):
            row["id"] = number


def _is_number(value) -> bool:
    """A finite number of a usable size."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e15 if isinstance(value, int) else math.isfinite(value)


def _is_box(box) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(_is_number(v) and abs(v) < 1e9 for v in box)


def _flaw(box) -> str:
    """Why a bbox cannot be used, in brackets."""
    if isinstance(box, str) or (isinstance(box, list) and any(isinstance(value, str) for value in box)):
        return " (a string in place of numbers)"
    if isinstance(box, list) and len(box) != 4:
        return f" ({len(box)} numbers)"
    return ""


def category_labels(content: dict, classes: list, path: str, issues: Issues) -> dict:
    """Category id -> class index, by name; classes and categories without a counterpart are noted."""
    indices = {name: index for index, name in enumerate(classes) if index > 0}
    labels = {row["id"]: indices[row["name"]] for row in content["categories"] if row["name"] in indices}
    names = {row["name"] for row in content["categories"]}
    if not labels:
        few = one_line(", ".join(sorted(names)[:5]))[:200] or "it has none"
        raise UserError(f"{path}: none of its categories ({few}) is in 'classes' ({', '.join(classes[1:6])}, ...)")
    absent = [name for name in indices if name not in names]
    for name in absent:
        issues.warn("classes do not occur among the file's categories", name)
    if len(absent) > len(indices) // 2 and len(indices) > 4:
        issues.warn(
            "class list holds mostly classes that the file lacks (set --classes and --num_classes for your data)",
            f"{len(absent)} of {len(indices)}",
        )
    boxes = Counter(row["category_id"] for row in content["annotations"])
    for row in content["categories"]:
        if row["id"] in labels:
            if not boxes[row["id"]]:
                issues.warn("classes of 'classes' have no box", row["name"])
        else:
            other = alike(row["name"], absent)
            meant = f", spelt '{other}' in 'classes'" if other else ""
            issues.warn(
                "categories are not in 'classes' (their boxes are dropped)",
                f"{row['name']} ({boxes[row['id']]} boxes{meant})",
            )
    return labels


@no_collection()
def read_coco(cfg, is_training: bool) -> DataSet:
    """Samples of a COCO folder, images without a box included."""
    root = data_file(cfg, cfg.coco_root)
    if not os.path.isdir(root):
        raise UserError(f"coco_root: no such folder: {root} (data_path {cfg.data_path}, coco_root {cfg.coco_root})")
    kind = cfg.train_data_type if is_training else cfg.val_data_type
    path = os.path.join(root, cfg.instances_set.format(kind))
    issues = Issues()
    content = repair_coco(path, issues)
    labels = category_labels(content, list(cfg.classes), path, issues)
    rows, normalized = {}, Normalized()
    for annotation in content["annotations"]:
        if annotation["category_id"] in labels:
            x, y, w, h = annotation["bbox"]
            normalized.add(annotation["bbox"], f"annotation {annotation['id']}: {annotation['bbox']}")
            rows.setdefault(annotation["image_id"], []).append(
                (round(y), round(x), round(y + h), round(x + w), labels[annotation["category_id"]])
            )
    normalized.note(issues)
    folder = os.path.normpath(os.path.join(root, kind))
    samples, owners = [], {}
    for image in content["images"]:
        image_id = image["id"]
        height, width = (_side(image, key, issues) for key in ("height", "width"))
        image_path, name = locate(folder, image["file_name"], issues)
        if image_path in owners:
            issues.warn(
                "image ids refer to the same file as another id", f"{image_id} ({name}, as id {owners[image_path]})"
            )
        owners[image_path] = image_id
        sample = Sample(image_id, image_path, boxes_array(rows.get(image_id, [])), width, height, name)
        if len(sample.boxes) and sample.clip(0, 0)[1]:
            issues.warn("images with boxes of zero area after rounding (dropped)", name)
        samples.append(sample)
    return DataSet(samples, [path], path, issues, path, form="xywh")


def _side(image: dict, key: str, issues: Issues) -> int:
    """An annotated height or width, 0 where the file gives none that can be used."""
    value = image.get(key)
    if type(value) is int and 0 < value < 1e9:
        return value
    if isinstance(value, float) and value.is_integer() and 0 < value < 1e9:
        return int(value)
    if value is not None:
        issues.warn(
            "image sizes are not positive integers (the image file's size is used)",
            f"image {image['id']}: {key} {value!r}"[:80] + (" is a string" if isinstance(value, str) else ""),
        )
    return 0


def coco_json(data: DataSet, ids: list, table, sizes: dict, classes: list) -> dict:
    """A COCO-style annotation dict of samples (VOC and list files come without one).

    Difficult boxes are crowds there: pycocotools counts them neither as found nor as missed, and a detection on them
    neither as right nor as wrong, which is VOC's rule.

    Args:
        ids: img_id of each sample's row; table: img_id -> the data set's id, None where they are the same.
        sizes: img_id -> (height, width) of the images that were written.
    """
    images, annotations = [], []
    for img_id, sample in zip(ids, data.samples):
        if img_id not in sizes:
            continue
        dataset_id, (height, width) = (img_id if table is None else table[img_id]), sizes[img_id]
        images.append({"id": dataset_id, "file_name": sample.file_name, "height": height, "width": width})
        difficult = [False] * len(sample.boxes) if sample.difficult is None else sample.difficult.tolist()
        for (y1, x1, y2, x2, label), hard in zip(sample.boxes.tolist(), difficult):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": dataset_id,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(hard),
                    **({"difficult": 1} if hard else {}),
                }
            )
    categories = [{"id": label, "name": name} for label, name in enumerate(classes) if label > 0]
    return {"images": images, "annotations": annotations, "categories": categories}
