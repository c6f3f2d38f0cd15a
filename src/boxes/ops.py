"""Coordinate orders, written down once, and the arithmetic on them (NumPy only).

`yxyx`: corners `[y1, x1, y2, x2]`; `cyxhw`: centre and size `[cy, cx, h, w]`. A box array is
`[N, 4]` in one of these orders, normalised to the image (`_norm`) or in pixels (`_px`).
"""

from __future__ import annotations

import numpy as np


def yxyx_to_cyxhw(boxes: np.ndarray) -> np.ndarray:
    """Corners [..., 4] to centre and size [..., 4], same dtype and unit."""
    boxes = np.asarray(boxes)
    first, last = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(first + last) / 2, last - first], axis=-1)


def cyxhw_to_yxyx(boxes: np.ndarray) -> np.ndarray:
    """Centre and size [..., 4] to corners [..., 4], same dtype and unit."""
    boxes = np.asarray(boxes)
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def area(boxes_yxyx: np.ndarray) -> np.ndarray:
    """Areas [...] of corner boxes [..., 4], without the +1 of pixel boxes."""
    return (boxes_yxyx[..., 2] - boxes_yxyx[..., 0]) * (boxes_yxyx[..., 3] - boxes_yxyx[..., 1])


def intersection(boxes_yxyx: np.ndarray, box_yxyx: np.ndarray) -> np.ndarray:
    """Intersection areas [N] of boxes [N, 4] with one box [4]."""
    height = np.minimum(boxes_yxyx[:, 2], box_yxyx[2]) - np.maximum(boxes_yxyx[:, 0], box_yxyx[0])
    width = np.minimum(boxes_yxyx[:, 3], box_yxyx[3]) - np.maximum(boxes_yxyx[:, 1], box_yxyx[1])
    return np.maximum(height, 0) * np.maximum(width, 0)


def iou(boxes_yxyx: np.ndarray, box_yxyx: np.ndarray, areas: np.ndarray | None = None) -> np.ndarray:
    """IoU [N] of boxes [N, 4] with one box [4]; 0 where both are without area."""
    inter = intersection(boxes_yxyx, box_yxyx)
    union = (area(boxes_yxyx) if areas is None else areas) + area(box_yxyx) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
