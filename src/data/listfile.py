"""List files: `path xmin,ymin,xmax,ymax,class ...`, one image a line, x first (SPEC section 7)."""

from __future__ import annotations

import os
import re

from src.config import data_file
from src.data.sample import DataSet, Faults, Sample, boxes_array, clip_boxes
from src.errors import UserError
from src.log import LOGGER

_NUMBER = r"[+-]?\d+(?:\.\d*)?"
_BOX = re.compile(rf"({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER}),(\d+)$")


def _parse(line: str, where: str, num_classes: int, faults: Faults) -> tuple:
    """(path, rows) of a line. Boxes are recognised from the right, so that a path keeps its blanks."""
    rest, rows = line.strip(), []
    while True:
        parts = re.split(r"[ \t]+", rest)
        found = _BOX.fullmatch(parts[-1]) if len(parts) > 1 else None
        if found is None:
            break
        x1, y1, x2, y2 = (round(float(text)) for text in found.groups()[:4])
        label = int(found.group(5))
        if not 0 < label < num_classes:
            raise UserError(f"{where}: class {label} is not in 1..{num_classes - 1}")
        if x2 < x1 or y2 < y1:
            faults.add("lines with reversed corners (swapped)", where)
        rows.append((min(y1, y2), min(x1, x2), max(y1, y2), max(x1, x2), label))
        rest = rest[: len(rest) - len(parts[-1])].rstrip(" \t")
    last = re.split(r"[ \t]+", rest)[-1]
    if re.search(r",[^/]*,", last) and not re.search(r"\.[A-Za-z]{3,4}$", last):
        raise UserError(f"{where}: '{last[:60]}' is no box; write xmin,ymin,xmax,ymax,class")
    return rest, rows[::-1]


def read_list(cfg, is_training: bool) -> DataSet:
    """Samples of `anno_path` (evaluation: `anno_path_val`, by default the same) below `image_dir`."""
    key = "anno_path_val" if not is_training and cfg.anno_path_val else "anno_path"
    if not cfg[key]:
        raise UserError(f"{key}: dataset 'other' needs a list file; set --{key} and --image_dir")
    path, root = data_file(cfg, cfg[key]), data_file(cfg, cfg.image_dir)
    if not os.path.isdir(root):
        raise UserError(f"image_dir: no such folder: {root}")
    try:
        with open(path, encoding="utf-8-sig") as handle:
            lines = handle.read().splitlines()
    except FileNotFoundError:
        raise UserError(f"{key}: no such file: {path}") from None
    except OSError as error:
        raise UserError(f"{key}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{key}: {path} is not a UTF-8 text file") from None
    faults, samples, seen = Faults(), [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        if "\0" in line:
            raise UserError(f"{where}: not a text file")
        name, rows = _parse(line, where, cfg.num_classes, faults)
        if name in seen:
            raise UserError(f"{where}: {name} stands in line {seen[name]} already")
        seen[name] = number
        boxes = clip_boxes(boxes_array(rows), 0, 0, faults, name)
        if len(boxes) or not is_training:
            samples.append(Sample(len(seen) - 1, os.path.abspath(os.path.join(root, name)), boxes))
    if not seen:
        raise UserError(f"{key}: {path} names no image")
    for line in faults.lines():
        LOGGER.warning("%s: %s", path, line)
    return DataSet(samples, [path])
