"""Gaussian soft-NMS (docs/reference.md, "Soft-NMS and mirrored images"): scores of overlapping boxes are lowered."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from src.boxes.nms import descending, iou_px

SIGMA = 0.5
# Boxes whose scores are up to date at first. A score only falls, so that a box behind them is not needed before its own
# score is the highest: of an untrained network, 100 boxes are taken of thousands.
BLOCK = 256


def soft_nms(boxes_px, scores, min_score: float, max_boxes: int) -> Tuple[np.ndarray, np.ndarray]:
    """Take the box of the highest score, multiply the scores of the others by exp(-IoU^2 / SIGMA), and so on.

    Args:
        boxes_px: [K, 4] y1, x1, y2, x2 in pixels. Computed in float64, IoU with + 1 pixel as in `src.boxes.nms`.
        scores: [K]. A box whose score is NaN is never taken.
        min_score: ends when no score is above this.
        max_boxes: at most this many are taken.

    Returns:
        int64 indices of the boxes in the order in which they were taken, and their lowered scores float64, which are
        descending. Of equal scores the one that was higher at first is taken, then the lower index.
    """
    boxes = np.asarray(boxes_px, np.float64).reshape(-1, 4)
    scores = np.asarray(scores).reshape(-1)
    if len(boxes) != len(scores):
        raise ValueError(f"{len(boxes)} boxes but {len(scores)} scores")
    order = descending(scores)
    # column by column: NumPy is slow where the last axis is short
    boxes, left = np.asfortranarray(boxes.take(order, axis=0)), scores.take(order).astype(np.float64)
    taken, found, ready = [], [], min(BLOCK, len(order))
    while ready and len(taken) < max_boxes:
        best = int(left[:ready].argmax())
        score = float(left[best])
        if ready < len(order) and left[ready] > score:
            further = slice(ready, 2 * ready)
            for earlier in taken:  # one by one: products round as if they had been there from the start
                left[further] *= _factors(boxes[earlier], boxes[further])
            ready = min(2 * ready, len(order))
            continue
        if not score > min_score:
            break
        taken.append(best)
        found.append(score)
        left[:ready] *= _factors(boxes[best], boxes[:ready])
        left[best] = -np.inf
    return order.take(np.array(taken, np.int64)), np.array(found, np.float64)


def _factors(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What the scores of `others` [K, 4] are multiplied by after `box` [4] was taken: in [exp(-1 / SIGMA), 1]."""
    overlap = iou_px(box[None], others)[0]
    # fmax: boxes of reversed corners, whose IoU may be anything, overlap nothing
    overlap = np.fmin(np.fmax(overlap, 0, out=overlap), 1, out=overlap)
    overlap *= overlap
    overlap /= -SIGMA
    return np.exp(overlap, out=overlap)
