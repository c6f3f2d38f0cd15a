"""From the network's boxes and scores of one image to its detections in pixels (SPEC 8)."""

from __future__ import annotations

from typing import Iterator, Tuple

import numpy as np

from src.boxes.nms import nms_of_rows


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
    all_px = boxes_norm * np.array([height, width, height, width], np.float64)

    above = scores > min_score  # the one pass over all scores; False for NaN
    above[:, :1] = False
    if not np.isfinite(all_px).all():
        above[~np.isfinite(all_px).all(axis=1)] = False
    boxes_px, best, labels = [np.empty((0, 4))], [np.empty(0, scores.dtype)], [np.empty(0, np.int64)]
    for label, rows in _rows_by_class(above):
        of_class = scores[rows, label]
        kept = nms_of_rows(all_px, rows, of_class, nms_threshold, max_boxes)
        boxes_px.append(all_px[rows[kept]])
        best.append(of_class[kept])
        labels.append(np.full(len(kept), label, np.int64))
    return np.concatenate(boxes_px), np.concatenate(best), np.concatenate(labels)


def _rows_by_class(above: np.ndarray) -> Iterator[Tuple[int, np.ndarray]]:
    """Columns of `above` [N, C] bool that hold a True, rising, each with its rows, rising."""
    if np.count_nonzero(above) > len(above):  # an untrained network: nearly every pair
        for label in np.flatnonzero(above.any(axis=0)):
            yield label, np.flatnonzero(above[:, label])
        return
    rows, labels = np.divmod(np.flatnonzero(above), above.shape[1])
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    for label, of_label in zip(present, np.split(rows[order], starts[1:])):
        yield label, of_label
