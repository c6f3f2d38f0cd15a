"""Boxes and scores of one image -> its detections in pixels; docs/reference.md, "Post-processing"."""

from __future__ import annotations

from typing import Iterator, Tuple

import numpy as np

from src.boxes.nms import nms
from src.boxes.soft_nms import soft_nms

DENSE = 4  # classes above the threshold, per box on average: an untrained network has all of them in every box


def postprocess(
    boxes_norm,
    scores,
    image_shape,
    min_score: float = 0.1,
    nms_threshold: float = 0.6,
    max_boxes: int = 100,
    soft: bool = False,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections of one image: scores above `min_score`, NMS per class. Column 0 is the background.

    Args:
        boxes_norm: [N, 4] y1, x1, y2, x2 in [0, 1], one box for all classes.
        scores: [N, C] in [0, 1].
        image_shape: (height, width) of the original image in pixels.
        min_score: a pair of box and class counts when its score is above this.
        nms_threshold, max_boxes: see `src.boxes.nms.nms`; at most `max_boxes` are kept per class.
        soft: soft-NMS (`src.boxes.soft_nms`) lowers scores in place of `nms_threshold`.

    Returns:
        boxes_px [D, 4] float64 (y1, x1, y2, x2), scores [D], labels [D] int64: class by class, and within
        a class by descending score. Rows that are not finite numbers are left out.
    """
    boxes_norm, scores = np.asarray(boxes_norm), np.asarray(scores)
    if boxes_norm.ndim != 2 or boxes_norm.shape[1] != 4 or scores.ndim != 2 or len(scores) != len(boxes_norm):
        raise ValueError(f"boxes [N, 4] and scores [N, C] wanted, got {boxes_norm.shape} and {scores.shape}")
    height, width = np.asarray(image_shape).reshape(-1)[:2].tolist()
    # float64 from here on: the published scripts scaled float32 boxes by Python integers
    sides = np.array([height, width, height, width], np.float64)
    above = scores > min_score  # the one pass over all scores; False for NaN
    above[:, :1] = False
    if not np.isfinite(boxes_norm).all():
        above[~np.isfinite(boxes_norm).all(axis=1)] = False
    found = [(np.empty((0, 4)), np.empty(0, scores.dtype), np.empty(0, np.int64))]
    for label, boxes_px, of_class in _classes(above, boxes_norm, sides, scores):
        if soft:
            kept, of_kept = soft_nms(boxes_px, of_class, min_score, max_boxes)
        else:
            kept = nms(boxes_px, of_class, nms_threshold, max_boxes)
            of_kept = of_class.take(kept)
        found.append((boxes_px.take(kept, axis=0), of_kept.astype(scores.dtype), np.full(len(kept), label, np.int64)))
    boxes_px, of_kept, labels = (np.concatenate(parts) for parts in zip(*found))
    return boxes_px, of_kept, labels


def _classes(above: np.ndarray, boxes_norm: np.ndarray, sides: np.ndarray, scores: np.ndarray) -> Iterator[tuple]:
    """(label, boxes in pixels [K, 4] float64, their scores [K]) of each class that has a row in `above` bool [N, C].

    Rows ascend. `sides` [4] scales `boxes_norm` [N, 4] to pixels.
    """
    if np.count_nonzero(above) > DENSE * len(above):
        # sorting four million pairs by class takes longer than a transposed copy
        boxes_px, of_class = boxes_norm * sides, np.ascontiguousarray(scores.T)
        for label, column in enumerate(np.ascontiguousarray(above.T)):
            rows = np.flatnonzero(column)
            if len(rows):
                yield label, boxes_px.take(rows, axis=0), of_class[label].take(rows)
        return
    rows, labels = np.divmod(np.flatnonzero(above), above.shape[1])
    order = np.argsort(labels.astype(np.uint16), kind="stable")  # 16 bits are sorted four times as fast as 64
    rows, labels = rows.take(order), labels.take(order)
    boxes_px, of_pair = boxes_norm.take(rows, axis=0) * sides, scores[rows, labels]
    ends = [*(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
    for start, end in zip([0, *ends], ends):
        if end > start:
            yield int(labels[start]), boxes_px[start:end], of_pair[start:end]
