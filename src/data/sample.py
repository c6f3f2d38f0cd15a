"""The one form of an annotated image that every reader gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List

import numpy as np


@dataclass
class Sample:
    """An image and its boxes.

    image_id: the data set's own id (int or str); path: absolute; boxes: int32 [M, 5] y1, x1, y2, x2, label
    in pixels; width, height: as annotated, 0 where the format does not say.
    """

    image_id: object
    path: str
    boxes: np.ndarray
    width: int = 0
    height: int = 0


@dataclass
class DataSet:
    """What a reader found. `sources`: the annotation files, for the fingerprint of the records.

    annotation_file: COCO-style json for the evaluator, "" where none exists yet.
    """

    samples: List[Sample]
    sources: List[str]
    annotation_file: str = ""


@dataclass
class Faults:
    """Counts of repaired or dropped annotations, told in one line a kind with the first places."""

    places: dict = field(default_factory=dict)

    def add(self, kind: str, place) -> None:
        """Note one case of `kind` at `place` (a file name or an id)."""
        self.places.setdefault(kind, []).append(str(place))

    def lines(self) -> List[str]:
        """One line a kind: its number and the first five places."""
        return [
            f"{len(where)} {kind}: {', '.join(where[:5])}{', ...' if len(where) > 5 else ''}"
            for kind, where in self.places.items()
        ]


def boxes_array(rows) -> np.ndarray:
    """Rows of y1, x1, y2, x2, label as int32 [M, 5]; M may be 0."""
    return np.array(rows, np.int64).clip(-(2**31), 2**31 - 1).astype(np.int32).reshape(-1, 5)


def clip_boxes(boxes: np.ndarray, height: int, width: int, faults: Faults, place) -> np.ndarray:
    """Boxes cut at the image's edges (nothing is cut where the size is 0); those without area are dropped."""
    if len(boxes) == 0:
        return boxes
    clipped = boxes.copy()
    clipped[:, :4] = np.maximum(clipped[:, :4], 0)
    if height and width:
        clipped[:, 0:4:2] = np.minimum(clipped[:, 0:4:2], height)
        clipped[:, 1:4:2] = np.minimum(clipped[:, 1:4:2], width)
    if (clipped != boxes).any():
        faults.add("images with boxes beyond the image (clipped)", place)
    whole = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    if not whole.all():
        faults.add("images with boxes of no area (dropped)", place)
    return clipped[whole]
