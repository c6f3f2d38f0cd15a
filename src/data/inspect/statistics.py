"""Statistics of a data set and its coverage by default boxes, before any augmentation (NumPy only)."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

from src.boxes.default_boxes import build_default_boxes, grid_layout
from src.boxes.ops import yxyx_to_cyxhw
from src.data.sample import Sample

SIZES = ("tiny (below 8)", "small (8 - 32)", "medium (32 - 96)", "large (above 96)")
_SIZE_EDGES = (8, 32, 96)
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def normalized_boxes(samples: Sequence[Sample]) -> np.ndarray:
    """Every box of every sample, y1, x1, y2, x2, label with corners in [0, 1]: float64 [M, 5].

    The samples need a size (`width`, `height` above 0).
    """
    parts = [
        sample.boxes / np.array([sample.height, sample.width, sample.height, sample.width, 1], np.float64)
        for sample in samples
    ]
    return np.concatenate(parts) if parts else np.zeros((0, 5))


def best_iou(gt_yxyx: np.ndarray, cfg) -> np.ndarray:
    """IoU of each ground truth [M, 4] with the default box that covers it best: float64 [M].

    Of all boxes of one shape the one whose centre is nearest in y and in x overlaps most, since areas are equal
    and the overlap falls with either distance: so one box per level and shape is enough.
    """
    gt = np.asarray(gt_yxyx, np.float64)
    best, start = np.zeros(len(gt)), 0
    cyxhw = build_default_boxes(cfg)[0].astype(np.float64)
    centres = yxyx_to_cyxhw(gt)[:, :2]
    areas = (gt[:, 2] - gt[:, 0]) * (gt[:, 3] - gt[:, 1])
    for rows, columns, shapes in grid_layout(cfg):
        level = cyxhw[start : start + rows * columns * shapes].reshape(rows, columns, shapes, 4)
        start += rows * columns * shapes
        y = level[_nearest(level[:, 0, 0, 0], centres[:, 0]), 0, 0, 0]
        x = level[0, _nearest(level[0, :, 0, 1], centres[:, 1]), 0, 1]
        for h, w in level[0, 0, :, 2:]:
            high = np.minimum(gt[:, 2], y + h / 2) - np.maximum(gt[:, 0], y - h / 2)
            wide = np.minimum(gt[:, 3], x + w / 2) - np.maximum(gt[:, 1], x - w / 2)
            inter = np.maximum(high, 0) * np.maximum(wide, 0)
            best = np.maximum(best, inter / (areas + h * w - inter))
    return best


def level_sizes(cfg) -> List[int]:
    """Number of default boxes of each level."""
    return [rows * columns * shapes for rows, columns, shapes in grid_layout(cfg)]


def _nearest(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of the nearest of equally spaced ascending numbers."""
    if len(ascending) == 1:
        return np.zeros(len(values), np.int64)
    indices = np.rint((values - ascending[0]) / (ascending[1] - ascending[0])).astype(np.int64)
    return np.clip(indices, 0, len(ascending) - 1)


def class_rows(boxes: np.ndarray, images: np.ndarray, uncovered: np.ndarray, classes: Sequence[str]) -> List[dict]:
    """One row per class: boxes, images with one, and the fraction of its boxes that no default box covers.

    Args:
        boxes: [M, 5], images: number of the image of each box [M], uncovered: bool [M].
    """
    rows = []
    for label, name in enumerate(classes):
        if label > 0:
            of_class = boxes[:, 4] == label
            number = int(of_class.sum())
            rows.append(
                {
                    "name": name,
                    "boxes": number,
                    "images": int(len(np.unique(images[of_class]))),
                    "uncovered": float(uncovered[of_class].mean()) if number else None,
                }
            )
    return rows


def shape_figures(boxes: np.ndarray, img_shape: Sequence[int]) -> dict:
    """Sizes (square root of the area, in pixels of the network's input) and aspect ratios (width / height).

    Args:
        boxes: [M, 5] normalised; img_shape: (H, W) of the input.

    Returns:
        {"size": {quantile: value}, "sizes": {name: number}, "aspect": {quantile: value}}; empty dicts for M = 0.
    """
    if len(boxes) == 0:
        return {"size": {}, "sizes": dict.fromkeys(SIZES, 0), "aspect": {}}
    high, wide = (boxes[:, 2] - boxes[:, 0]) * img_shape[0], (boxes[:, 3] - boxes[:, 1]) * img_shape[1]
    size, aspect = np.sqrt(high * wide), wide / high
    bins = np.bincount(np.digitize(size, _SIZE_EDGES), minlength=len(SIZES))
    return {
        "size": _quantiles(size),
        "sizes": dict(zip(SIZES, bins.tolist())),
        "aspect": _quantiles(aspect),
    }


def _quantiles(values: np.ndarray) -> dict:
    return {f"{q}%": round(float(np.percentile(values, q)), 4) for q in QUANTILES}
