"""List files: `path xmin,ymin,xmax,ymax,class ...`, one image per line, x first."""

from __future__ import annotations

import os
import re

from src.config import data_file
from src.data.issues import Issues
from src.data.readers.doubts import Normalized, note_reversed
from src.data.readers.locate import locate
from src.data.readers.text_file import read_lines
from src.data.sample import DataSet, Sample, boxes_array, note_absent_classes
from src.utils.errors import UserError

# up to nine digits: no image is larger, and a longer number is a typing error
_NUMBER = r"[+-]?\d{1,9}(?:\.\d*)?"
_BOX = re.compile(rf"({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER}),(\d{{1,9}})$", re.ASCII)
_BLANKS = re.compile(r"[ \t]+")


def _parse(line: str, where: str, num_classes: int, issues: Issues, normalized: Normalized) -> tuple:
    """(path, rows, number of reversed boxes) of a line; path is "" if the line cannot be used.

    Boxes are parsed from the end of the line, so that a path may contain spaces.
    """
    rest, rows, wrong = line.strip(), [], 0
    while True:
        last = _BLANKS.split(rest)[-1]
        match = _BOX.fullmatch(last) if last != rest else None
        if match is None:
            break
        values = [float(number) for number in match.groups()[:4]]
        normalized.add(values, where)
        x1, y1, x2, y2 = (round(value) for value in values)
        label = int(match.group(5))
        if not 0 < label < num_classes:
            issues.error(f"boxes of a class that is not in 1..{num_classes - 1}", f"{where}: class {label}")
        if x2 < x1 or y2 < y1:
            wrong += 1
            issues.warn("boxes with reversed corners (swapped)", where)
        rows.append((min(y1, y2), min(x1, x2), max(y1, y2), max(x1, x2), label))
        rest = rest[: len(rest) - len(last)].rstrip(" \t")
    if re.search(r",[^/]*,", last) and not re.search(r"\.[A-Za-z]{3,4}$", last):
        issues.error(
            "fields are not a box xmin,ymin,xmax,ymax,class (pixels, then the index in 'classes')",
            f"{where}: '{last[:60]}'",
        )
        return "", [], 0
    return rest, rows[::-1], wrong


def read_list(cfg, is_training: bool) -> DataSet:
    """Samples of `anno_path` (evaluation: `anno_path_val`, by default the same) below `image_dir`.

    The id of an image is its index in the list, from 0.
    """
    key = "anno_path_val" if not is_training and cfg.anno_path_val else "anno_path"
    if not cfg[key]:
        raise UserError(f"{key}: dataset 'other' needs a list file; set --{key} and --image_dir")
    path, root = data_file(cfg, cfg[key]), data_file(cfg, cfg.image_dir)
    if not os.path.isdir(root):
        raise UserError(f"image_dir: no such folder: {root}")
    issues, samples, seen = Issues(), [], {}
    normalized, reversed_boxes = Normalized(), 0
    for number, line in enumerate(read_lines(path, key), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        name, rows, wrong = _parse(line, where, cfg.num_classes, issues, normalized)
        if not name:
            continue
        reversed_boxes += wrong
        image_path, name = locate(root, name, issues)
        if image_path in seen:
            issues.error("images are listed twice", f"{where}: {name} (also in line {seen[image_path]})")
            continue
        seen[image_path] = number
        sample = Sample(len(seen) - 1, image_path, boxes_array(rows), file_name=name)
        outside, empty = sample.clip(0, 0)
        if outside:
            issues.warn("lines with corners below 0 (clipped)", where)
        if empty:
            issues.warn("lines with boxes of zero area (dropped)", where)
        samples.append(sample)
    normalized.note(issues)
    note_reversed(reversed_boxes, normalized.boxes, path, issues)
    note_absent_classes(samples, cfg.classes, issues)
    return DataSet(samples, [path], path, issues)
