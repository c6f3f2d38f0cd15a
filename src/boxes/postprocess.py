"""Boxes and scores of one image -> its detections in pixels; docs/reference.md, "Post-processing"."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from src.boxes.nms import nms, nms_of_rows


def postprocess(
    boxes_norm, scores, image_shape, min_score: float = 0.1, nms_threshold: float = 0.6, max_boxes: int = 100
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections of one image: scores above `min_score`, NMS per class. Column 0 is the background.

    Args:
        boxes_norm: [N, 4] y1, x1, y2, x2 in [0, 1], one box for all classes.
        scores: [N, C] in [0, 1].
        image_shape: (height, width) of the original image in pixels.
        min_score: a pair of box and class counts when its score is above this.
        nms_threshold, max_boxes: see `src.boxes.nms.nms`; at most `max_boxes` are kept per class.

    Returns:
        boxes_px [D, 4] float64 (y1, x1, y2, x2), scores [D], labels [D] int64: class by class, and within
        a class by falling score. Rows that are not finite numbers are left out.
    """
    boxes_norm, scores = np.asarray(boxes_norm), np.asarray(scores)
    if boxes_norm.ndim != 2 or boxes_norm.shape[1] != 4 or scores.ndim != 2 or len(scores) != len(boxes_norm):
        raise ValueError(f"boxes [N, 4] and scores [N, C] wanted, got {boxes_norm.shape} and {scores.shape}")
    height, width = np.asarray(image_shape).reshape(-1)[:2].tolist()
    # float64 from here on: the published scripts scaled float32 boxes by Python integers
    sides = np.array([height, width, height, width], np.float64)
    above = scores > min_score  # the one pass over all scores; False for NaN
    above[:, :1] = False
    if np.count_nonzero(above) > len(above):  # an untrained network: nearly every pair
        return _of_many(boxes_norm * sides, scores, above, nms_threshold, max_boxes)
    rows, labels = np.divmod(np.flatnonzero(above), above.shape[1])
    order = np.argsort(labels, kind="stable")
    rows, labels = rows.take(order), labels.take(order)
    boxes_px, of_pair = boxes_norm.take(rows, axis=0) * sides, scores[rows, labels]
    finite = np.isfinite(boxes_px).all(axis=1)
    if not finite.all():
        boxes_px, of_pair, labels = boxes_px[finite], of_pair[finite], labels[finite]
    starts = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
    kept = [np.empty(0, np.int64)]
    for start, end in zip(starts, starts[1:]):
        kept.append(start + nms(boxes_px[start:end], of_pair[start:end], nms_threshold, max_boxes))
    kept = np.concatenate(kept)
    return boxes_px.take(kept, axis=0), of_pair.take(kept), labels.take(kept)


def _of_many(all_px: np.ndarray, scores: np.ndarray, above: np.ndarray, nms_threshold: float, max_boxes: int) -> tuple:
    """`postprocess` where copying the boxes of each class would cost more than all the rest."""
    above[~np.isfinite(all_px).all(axis=1)] = False
    boxes_px, best, labels = [np.empty((0, 4))], [np.empty(0, scores.dtype)], [np.empty(0, np.int64)]
    for label in np.flatnonzero(above.any(axis=0)):
        rows = np.flatnonzero(above[:, label])
        of_class = scores[rows, label]
        kept = nms_of_rows(all_px, rows, of_class, nms_threshold, max_boxes)
        boxes_px.append(all_px[rows[kept]])
        best.append(of_class[kept])
        labels.append(np.full(len(kept), label, np.int64))
    return np.concatenate(boxes_px), np.concatenate(best), np.concatenate(labels)
