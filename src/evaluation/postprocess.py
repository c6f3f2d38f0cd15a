"""From the network's boxes and scores of one image to its detections in pixels (SPEC 8)."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from src.boxes.nms import nms


def postprocess(
    boxes_norm, scores, image_shape, min_score: float = 0.1, nms_threshold: float = 0.6, max_boxes: int = 100
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections of one image: scores above `min_score`, NMS per class. Column 0 is the background.

    Args:
        boxes_norm: [N, 4] y1, x1, y2, x2 in [0, 1], one box for all classes.
        scores: [N, C] in [0, 1].
        image_shape: (height, width) of the original image in pixels.
        min_score: a pair of box and class counts when its score is above this.
        nms_threshold, max_boxes: see `src.boxes.nms.nms`; at most `max_boxes` are kept a class.

    Returns:
        boxes_px [D, 4] float64 (y1, x1, y2, x2), scores [D], labels [D] int64: class by class, and within
        a class by falling score. Rows that are not finite numbers are left out.
    """
    boxes_norm, scores = np.asarray(boxes_norm), np.asarray(scores)
    if boxes_norm.ndim != 2 or boxes_norm.shape[1] != 4 or scores.ndim != 2 or len(scores) != len(boxes_norm):
        raise ValueError(f"boxes [N, 4] and scores [N, C] wanted, got {boxes_norm.shape} and {scores.shape}")
    height, width = np.asarray(image_shape).reshape(-1)[:2].tolist()
    # float64 from here on: the published scripts scaled float32 boxes by Python integers.
    scale = np.array([height, width, height, width], np.float64)

    above = scores > min_score  # the one pass over all scores; False for NaN
    above[:, 0] = False
    boxes_px, best, labels = [np.empty((0, 4))], [np.empty(0, scores.dtype)], [np.empty(0, np.int64)]
    for label in np.flatnonzero(above.any(axis=0)):
        rows = np.flatnonzero(above[:, label])
        boxes = boxes_norm[rows] * scale
        finite = np.isfinite(boxes).all(axis=1)
        if not finite.all():
            rows, boxes = rows[finite], boxes[finite]
        of_class = scores[rows, label]
        kept = nms(boxes, of_class, nms_threshold, max_boxes)
        boxes_px.append(boxes[kept])
        best.append(of_class[kept])
        labels.append(np.full(len(kept), label, np.int64))
    return np.concatenate(boxes_px), np.concatenate(best), np.concatenate(labels)
