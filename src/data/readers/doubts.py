"""Annotations that are readable but suspicious: duplicate boxes, corners in place of sizes, swapped axes."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

from src.data.issues import Issues
from src.data.sample import Sample

MOST_DETECTIONS = 100
"""Per image and class: COCO's protocol counts no more."""
LEAST_BOXES = 4
NEARLY = 0.9
"""IoU of two boxes of one class that are probably one object."""
BEYOND_IMAGE = 0.05
"""A box that leaves its image by more than this fraction of a side was not drawn there."""
BEYOND, FITS = 0.25, 0.95
"""Fractions of the boxes: BEYOND of them outside the image start the search for another order; FITS must fit it."""
CORNERS = "and would fit as corners x1, y1, x2, y2"
SMALLEST_SIDE, MOST_ELONGATED = 32, 8


def note_doubts(samples: Sequence[Sample], form: str, issues: Issues) -> None:
    """Note suspicious boxes of a data set: duplicates, too many per image, another order of the numbers.

    Args:
        samples: with the boxes as annotated, not yet cut at the right and lower edges; where width and height are 0,
            checks that need a size are skipped.
        form: of the boxes in the file, "xywh" or "xyxy".
    """
    samples = [sample for sample in samples if len(sample.boxes)]
    if not samples:
        return
    boxes = np.concatenate([sample.boxes for sample in samples])
    images = np.repeat(np.arange(len(samples)), [len(sample.boxes) for sample in samples])
    _note_repeated(boxes, images, samples, issues)
    _note_crowded(boxes, images, samples, issues)
    sizes = np.array([(sample.height, sample.width) for sample in samples])[images]
    known = (sizes > 0).all(1)
    if known.sum() >= LEAST_BOXES:
        _note_form(boxes[known], images[known], sizes[known], samples, form, issues)


def _note_repeated(boxes: np.ndarray, images: np.ndarray, samples: List[Sample], issues: Issues) -> None:
    order = np.lexsort((boxes[:, 4], boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], images))
    same = (images[order[1:]] == images[order[:-1]]) & (boxes[order[1:]] == boxes[order[:-1]]).all(1)
    for image in images[order[1:]][same]:
        issues.warn("boxes are given twice (same image, class and corners; all are used)", samples[image].path)
    _note_nearly_repeated(
        boxes[np.r_[order[:1], order[1:][~same]]], images[np.r_[order[:1], order[1:][~same]]], samples, issues
    )


def _note_nearly_repeated(boxes: np.ndarray, images: np.ndarray, samples: List[Sample], issues: Issues) -> None:
    """Note boxes of one class that are nearly the same, as in two exports with other rounding.

    Boxes are sorted by image, class and left edge; each is compared with those after it as long as left edges are near.
    """
    order = np.lexsort((boxes[:, 1], boxes[:, 4], images))
    boxes, group = boxes[order].astype(np.int64), images[order] * (int(boxes[:, 4].max()) + 1) + boxes[order, 4]
    y1, x1, y2, x2 = boxes[:, :4].T
    for distance in range(1, MOST_DETECTIONS):
        one, other = slice(None, -distance), slice(distance, None)
        near = (group[one] == group[other]) & ((x1[other] - x1[one]) * 10 <= x2[one] - x1[one])
        if not near.any():
            return
        width = np.minimum(x2[one], x2[other]) - x1[other]
        height = np.minimum(y2[one], y2[other]) - np.maximum(y1[one], y1[other])
        both = np.maximum(width, 0) * np.maximum(height, 0)
        areas = (x2 - x1) * (y2 - y1)
        alike_boxes = near & (both >= NEARLY * (areas[one] + areas[other] - both))
        for image in images[order[one]][alike_boxes]:
            issues.warn(
                f"boxes are nearly those of another (same image and class, IoU of at least {NEARLY})",
                samples[image].path,
            )


def _note_crowded(boxes: np.ndarray, images: np.ndarray, samples: List[Sample], issues: Issues) -> None:
    classes = int(boxes[:, 4].max()) + 1
    groups, numbers = np.unique(images * classes + boxes[:, 4], return_counts=True)
    for group, number in zip(groups[numbers > MOST_DETECTIONS], numbers[numbers > MOST_DETECTIONS]):
        issues.warn(
            f"images with more than {MOST_DETECTIONS} boxes of one class (evaluation counts {MOST_DETECTIONS} "
            f"detections per image and class, so its recall stays below 1)",
            f"{samples[group // classes].path} ({number})",
        )


def _note_form(boxes, images, sizes, samples: List[Sample], form: str, issues: Issues) -> None:
    """Note another order of the four numbers if it fits nearly all boxes and the stated one does not."""
    y1, x1, y2, x2 = boxes[:, :4].T.astype(np.int64)
    # a pixel more: corners may be rounded, or counted from 1
    height, width = sizes.T.astype(np.int64) + 1
    beyond = (y2 > height) | (x2 > width)
    if beyond.mean() < BEYOND:
        _note_single_corners(boxes, images, sizes, samples, form, issues)
        return
    readings = []
    if form == "xywh":
        right, lower = x2 - x1, y2 - y1
        corners = (right > x1) & (lower > y1) & (right <= width) & (lower <= height)
        readings.append((corners, "all boxes look like corners x1, y1, x2, y2, where x, y, width, height is expected"))
    readings.append(((y2 <= width) & (x2 <= height), "all boxes look as if x and y were swapped"))
    for fits, words in readings:
        if fits.mean() >= FITS:
            for image in images[beyond]:
                issues.warn(f"boxes leave their image: {words}", samples[image].path)
            return


def _note_single_corners(boxes, images, sizes, samples: List[Sample], form: str, issues: Issues) -> None:
    """Note single boxes that leave their image by far, and fit as corners."""
    if form != "xywh":
        return
    y1, x1, y2, x2 = boxes[:, :4].T.astype(np.int64)
    height, width = sizes.T
    beyond = (y2 > height * (1 + BEYOND_IMAGE)) | (x2 > width * (1 + BEYOND_IMAGE))
    corners = (x2 - x1 > x1) & (y2 - y1 > y1) & (x2 - x1 <= width + 1) & (y2 - y1 <= height + 1)
    for image in images[beyond & corners]:
        issues.warn(f"boxes leave their image by more than {BEYOND_IMAGE:.0%}, {CORNERS}", samples[image].path)


def note_reversed(reversed_boxes: int, boxes: int, where: str, issues: Issues) -> None:
    """Corners x1, y1, x2, y2 of a file: many reversed ones mean that the numbers are x, y, width, height.

    Args:
        reversed_boxes: number of boxes with x2 < x1 or y2 < y1; boxes: number of all boxes.
    """
    if boxes >= LEAST_BOXES and reversed_boxes >= BEYOND * boxes:
        issues.warn(
            f"file has reversed corners in {reversed_boxes} of {boxes} boxes: they look like x, y, width, height, "
            f"where corners x1, y1, x2, y2 are expected",
            where,
        )


class Normalized:
    """Boxes whose numbers lie between 0 and 1: fractions of the image instead of pixels. Add each box, then `note`."""

    def __init__(self):
        self.boxes, self.number, self.places = 0, 0, []

    def add(self, values: Sequence[float], place: object) -> None:
        """Add a box's four numbers as written; for a correct file this costs one comparison."""
        self.boxes += 1
        if values[2] <= 1 and values[3] <= 1 and max(values) <= 1 and min(values) >= 0 and any(v % 1 for v in values):
            self.number += 1
            self.places.append(place)

    def note(self, issues: Issues) -> None:
        """Note them: an error if all boxes are such, since then none can be used."""
        note = issues.error if self.number == self.boxes else issues.warn
        for place in self.places:
            note("boxes have coordinates between 0 and 1 (fractions of the image), where pixels are expected", place)


def note_images(samples: Sequence[Sample], issues: Issues) -> None:
    """Note images of suspicious size or shape."""
    for sample in samples:
        small, large = sorted((sample.width, sample.height))
        if small < SMALLEST_SIDE:
            issues.warn(
                f"images are smaller than {SMALLEST_SIDE} pixels", f"{sample.path} ({sample.width} x {sample.height})"
            )
        elif large > MOST_ELONGATED * small:
            issues.warn(
                f"images are more than {MOST_ELONGATED} times as long as wide (resizing distorts them)",
                f"{sample.path} ({sample.width} x {sample.height})",
            )


def alike(name: str, names: Sequence[str]) -> str:
    """The entry of `names` that differs from `name` only in case, spaces, "-" or "_"; "" if there is none."""
    simple = _simple(name)
    return next((other for other in names if _simple(other) == simple), "")


def _simple(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
