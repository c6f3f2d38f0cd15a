"""What the readers of labelling tools share: keys, class names, and boxes around shapes."""

from __future__ import annotations

import math
import os
from typing import List, Optional, Sequence, Tuple

from src.config import data_file
from src.data.issues import Issues
from src.data.readers.doubts import alike
from src.utils.errors import UserError

MAX_COORDINATE = 1e9


def annotation_source(cfg, is_training: bool, what: str) -> Tuple[str, str]:
    """(key, absolute path) of the annotations of a split: `anno_path`, for evaluation `anno_path_val` if it is set.

    Raises:
        UserError: the key is empty, or nothing is there; `what` says what the format needs.
    """
    key = "anno_path_val" if not is_training and cfg.anno_path_val else "anno_path"
    if not cfg[key]:
        raise UserError(f"{key}: dataset '{cfg.dataset}' needs {what}; set --{key}")
    path = data_file(cfg, cfg[key])
    if not os.path.exists(path):
        raise UserError(f"{key}: no such file or folder: {path} (dataset '{cfg.dataset}' needs {what})")
    return key, path


def image_folder(cfg, default: str) -> str:
    """Absolute path of `image_dir`, or `default` where the key is empty.

    Raises:
        UserError: there is no such folder.
    """
    folder = data_file(cfg, cfg.image_dir) if cfg.image_dir else default
    if not os.path.isdir(folder):
        raise UserError(f"image_dir: no such folder: {folder}")
    return folder


class ClassLabels:
    """Class name -> label; names that `classes` lacks are noted."""

    def __init__(self, classes: Sequence[str], issues: Issues):
        self._labels = {name: label for label, name in enumerate(classes) if label > 0}
        self._issues = issues

    def label(self, name: object, place: str) -> Optional[int]:
        """The label of an object's class, None for a class that is dropped and for a name that is none (an error)."""
        if not isinstance(name, str) or not name.strip():
            self._issues.error("objects have no class name", place)
            return None
        label = self._labels.get(name, self._labels.get(name.strip()))
        if label is None:
            other = alike(name, list(self._labels))
            meant = f" (spelt '{other}' in 'classes')" if other else ""
            self._issues.warn(
                "objects of a class that 'classes' does not list (dropped)", f"{name[:60]} in {place}{meant}"
            )
        return label


def usable(values: Sequence[object]) -> bool:
    """Whether all are finite numbers of a usable size."""
    return all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MAX_COORDINATE
        for value in values
    )


def number(text: Optional[str]) -> float:
    """The number in a string, NaN if there is none."""
    try:
        return float(text) if text is not None else math.nan
    except ValueError:
        return math.nan


def box_around(xs: Sequence[float], ys: Sequence[float], label: int) -> Tuple[int, int, int, int, int]:
    """The box y1, x1, y2, x2, label around points in pixels, rounded.

    Rounding to a millionth comes first: so numbers that were divided by the size of the image and multiplied again give
    the same pixel as the original ones.
    """
    y1, x1, y2, x2 = (round(round(value, 6)) for value in (min(ys), min(xs), max(ys), max(xs)))
    return y1, x1, y2, x2, label


def rotated(x: float, y: float, width: float, height: float, degrees: float, centre: Tuple[float, float]) -> Tuple:
    """(x [4], y [4]) of the corners of a box that is turned clockwise around `centre`, in pixels."""
    xs, ys = [x, x + width, x + width, x], [y, y, y + height, y + height]
    if not degrees % 360:
        return xs, ys
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offsets = [(a - centre[0], b - centre[1]) for a, b in zip(xs, ys)]
    return (
        [centre[0] + cos * a - sin * b for a, b in offsets],
        [centre[1] + sin * a + cos * b for a, b in offsets],
    )


def side(value: object) -> int:
    """An annotated height or width, 0 where the file gives none that can be used."""
    if isinstance(value, str):
        value = number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < MAX_COORDINATE:
        return 0
    return int(value) if float(value).is_integer() else 0


def points_of(text: str) -> List[Tuple[float, float]]:
    """Points of `x,y;x,y`; NaN for what is no number."""
    points = []
    for part in text.split(";"):
        x, _, y = part.partition(",")
        points.append((number(x), number(y)))
    return points
