"""Greedy non-maximum suppression of SPEC 8, lazy: it looks no further than it must."""

from __future__ import annotations

import numpy as np

# Boxes compared at a time. A block costs BLOCK x BLOCK overlaps, so it should hold little more than what
# is usually kept (max_boxes 100).
BLOCK = 128


def nms(boxes_px, scores, threshold: float, max_boxes: int) -> np.ndarray:
    """Keep the best boxes that do not overlap a better kept one by more than `threshold`.

    Args:
        boxes_px: [K, 4] y1, x1, y2, x2 in pixels. Computed in float64.
        scores: [K]. A box whose score is NaN is never kept.
        threshold: a box whose IoU with a kept box is above this goes. Widths, heights and thus areas and
            intersections are counted with + 1 pixel.
        max_boxes: at most this many are kept.

    Returns:
        int64 indices of the kept boxes in order of falling score; of equal scores the lower index first.
        The same as the full greedy algorithm gives.
    """
    boxes = np.asarray(boxes_px, np.float64).reshape(-1, 4)
    scores = np.asarray(scores).reshape(-1)
    if len(boxes) != len(scores):
        raise ValueError(f"{len(boxes)} boxes but {len(scores)} scores")
    kept = np.empty(0, np.int64)
    for ordered in _by_falling_score(scores, first=2 * BLOCK):
        for start in range(0, len(ordered), BLOCK):
            if len(kept) >= max_boxes:
                return kept[: max(max_boxes, 0)]
            block = ordered[start : start + BLOCK]
            if len(kept):
                block = block[~_overlaps(boxes[kept], boxes[block], threshold).any(axis=0)]
            kept = np.concatenate([kept, block[_greedy(boxes[block], threshold)]])
    return kept[: max(max_boxes, 0)]


def _by_falling_score(scores: np.ndarray, first: int):
    """Yield index arrays that, put together, are all of `scores` sorted; only what is asked for is sorted.

    The first array holds at least `first` indices, each further one four times as many. Equal scores are
    never parted over two arrays, so that a stable sort inside each is a stable sort of the whole.
    """
    rest, size = np.flatnonzero(~np.isnan(scores)), first
    while len(rest):
        values = scores[rest]
        if len(rest) > 2 * size:
            cut = np.partition(values, len(values) - size)[len(values) - size]
            above = values >= cut
            group, values, rest = rest[above], values[above], rest[~above]
        else:
            group, rest = rest, rest[:0]
        # Sorted from the back twice: falling values, yet equal ones with the lower index first.
        yield group[len(group) - 1 - np.argsort(values[::-1], kind="stable")[::-1]]
        size *= 4


def _overlaps(first: np.ndarray, second: np.ndarray, threshold: float) -> np.ndarray:
    """bool [M, K]: the IoU (with + 1) of `first` [M, 4] and `second` [K, 4] is above the threshold."""
    y1, x1, y2, x2 = first.T[:, :, None]
    v1, u1, v2, u2 = second.T[:, None, :]
    height = np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1) + 1, 0)
    width = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1) + 1, 0)
    shared = height * width
    union = (y2 - y1 + 1) * (x2 - x1 + 1) + (v2 - v1 + 1) * (u2 - u1 + 1) - shared
    # Divided, not multiplied out: a ratio next to the threshold must round as the published one did.
    with np.errstate(divide="ignore", invalid="ignore"):  # a union of 0: only boxes of reversed corners
        return shared / union > threshold


def _greedy(boxes: np.ndarray, threshold: float) -> np.ndarray:
    """Full greedy suppression of a few boxes [B, 4], best first: bool [B], True for those that stay."""
    over = np.triu(_overlaps(boxes, boxes, threshold), k=1)
    alive = np.ones(len(boxes), bool)
    for index in np.flatnonzero(over.any(axis=1)):  # only these can remove a later one
        if alive[index]:
            alive &= ~over[index]
    return alive
