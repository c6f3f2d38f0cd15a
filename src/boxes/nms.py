"""Greedy non-maximum suppression (docs/reference.md, "Post-processing"), lazy: it sorts no more than it must.

Boxes are compared in blocks, and a few at a time are sorted. With `src/boxes/postprocess.py` an image takes a sixth to
a tenth of the time that the loop over boxes takes, of an untrained network a thirtieth (`scripts/benchmark.py
postprocessing`).

To remove: the body of `nms` becomes `_nms` of `benchmarks/baselines.py`, which keeps the same boxes.
"""

from __future__ import annotations

import numpy as np

# Boxes compared at a time. A block costs BLOCK x BLOCK overlaps, so it should hold little more than what is usually
# kept (of a trained network a few, of others up to max_boxes); 64 to 96 are equally fast, 32 and 160 slower.
BLOCK = 80


def nms(boxes_px, scores, threshold: float, max_boxes: int) -> np.ndarray:
    """Keep the best boxes that do not overlap a better kept one by more than `threshold`.

    Args:
        boxes_px: [K, 4] y1, x1, y2, x2 in pixels. Computed in float64.
        scores: [K]. A box whose score is NaN is never kept.
        threshold: a box whose IoU with a kept box is above this goes. Widths, heights and thus areas and
            intersections are counted with + 1 pixel.
        max_boxes: at most this many are kept.

    Returns:
        int64 indices of the kept boxes in order of descending score; of equal scores the lower index first.
        The same as the full greedy algorithm gives.
    """
    boxes = np.asarray(boxes_px, np.float64).reshape(-1, 4)
    scores = np.asarray(scores).reshape(-1)
    if len(boxes) != len(scores):
        raise ValueError(f"{len(boxes)} boxes but {len(scores)} scores")
    if len(boxes) <= BLOCK and max_boxes > 0:  # a class of a trained network
        order = descending(scores)
        return order[_suppress_block(boxes.take(order, axis=0), threshold)][:max_boxes]
    kept = np.empty(0, np.int64)
    if max_boxes < 1:
        return kept
    for ordered in _score_batches(scores, first=2 * BLOCK):
        start = 0
        while start < len(ordered):
            # While few boxes are kept, it is cheap to compare many with them: a crowd of boxes on one object.
            size = max(BLOCK, BLOCK * BLOCK // len(kept)) if len(kept) else BLOCK
            queue, start = ordered[start : start + size], start + size
            new = kept
            while len(queue):
                if len(new):
                    queue = queue[~_overlaps(boxes[new], boxes[queue], threshold).any(axis=0)]
                block, queue = queue[:BLOCK], queue[BLOCK:]
                new = block[_suppress_block(boxes[block], threshold)]
                kept = np.concatenate([kept, new])
                if len(kept) >= max_boxes:
                    return kept[:max_boxes]
    return kept


def _score_batches(scores: np.ndarray, first: int):
    """Yield index arrays that, put together, are all of `scores` sorted; only what is asked for is sorted.

    The first array holds at least `first` indices, each further one four times as many. Equal scores are
    never parted over two arrays, so that a stable sort inside each is a stable sort of all.
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
        yield group[descending(values)]
        size *= 4


def descending(values: np.ndarray) -> np.ndarray:
    """Indices by descending value, of equal ones the lower first; NaN left out."""
    order = np.argsort(-values, kind="stable")  # NaN comes last
    return order[: len(values) - int(np.isnan(values).sum())]


def _overlaps(first: np.ndarray, second: np.ndarray, threshold: float) -> np.ndarray:
    """bool [M, K]: the IoU of `first` [M, 4] and `second` [K, 4] is above the threshold."""
    return iou_px(first, second) > threshold


def iou_px(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU [M, K] of boxes in pixels, float64 [M, 4] and [K, 4], with + 1; not finite where a union is 0."""
    y1, x1, y2, x2 = first.T[:, :, None]
    v1, u1, v2, u2 = second.T[:, None, :]
    shared = _overlap_1d(y1, y2, v1, v2)
    shared *= _overlap_1d(x1, x2, u1, u2)
    union = (y2 - y1 + 1) * (x2 - x1 + 1) + (v2 - v1 + 1) * (u2 - u1 + 1)
    union -= shared
    # Divided, not multiplied out: a ratio next to the threshold must round as the published one did.
    with np.errstate(divide="ignore", invalid="ignore"):  # a union of 0: only boxes of reversed corners
        return np.divide(shared, union, out=union)


def _overlap_1d(low, high, other_low, other_high) -> np.ndarray:
    """Pixels that two intervals share, both ends included, 0 for none. In place: this is the inner loop."""
    length = np.minimum(high, other_high)
    length -= np.maximum(low, other_low)
    length += 1
    return np.maximum(length, 0, out=length)


def _suppress_block(boxes: np.ndarray, threshold: float) -> np.ndarray:
    """Full greedy suppression of a few boxes [B, 4], best first: the indices of those that stay."""
    # a row of overlaps as the bits of one Python integer: a box is decided upon in two operations
    rows = np.packbits(_overlaps(boxes, boxes, threshold), axis=1, bitorder="little")
    gone, kept = 0, []
    for index, row in enumerate(rows):
        if not gone >> index & 1:
            kept.append(index)
            gone |= int.from_bytes(row.tobytes(), "little")
    return np.array(kept, np.int64)
