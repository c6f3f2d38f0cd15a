"""Boxes and scores of one image -> its detections in pixels; docs/reference.md, "Post-processing"."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from src.boxes.nms import nms
from src.boxes.soft_nms import soft_nms


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
    rows, labels = np.divmod(np.flatnonzero(above), above.shape[1])
    # an untrained network has four million pairs: 16 bits are sorted four times as fast as 64
    order = np.argsort(labels.astype(np.uint16), kind="stable")
    rows, labels = rows.take(order), labels.take(order)
    of_pair = scores[rows, labels]
    starts = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
    kept = [np.empty(0, np.int64)]
    for start, end in zip(starts, starts[1:]):
        boxes_px = boxes_norm.take(rows[start:end], axis=0) * sides
        if soft:
            taken, lowered = soft_nms(boxes_px, of_pair[start:end], min_score, max_boxes)
            of_pair[start + taken] = lowered
        else:
            taken = nms(boxes_px, of_pair[start:end], nms_threshold, max_boxes)
        kept.append(start + taken)
    kept = np.concatenate(kept)
    return boxes_norm.take(rows.take(kept), axis=0) * sides, of_pair.take(kept), labels.take(kept)
