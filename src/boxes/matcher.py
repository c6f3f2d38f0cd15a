"""Which ground truth each default box is trained on, SPEC section 3."""

from __future__ import annotations

import numpy as np

from src.boxes.ops import area, iou

UNMATCHED = -1
_FORCED = 2.0  # above every IoU, so that a forced match is never taken away


def match(gt_yxyx: np.ndarray, default_yxyx: np.ndarray, threshold: float) -> np.ndarray:
    """Match ground truths [M, 4] to default boxes [N, 4], both yxyx in the same unit.

    Ground truths are taken in order. Each forces its best default box; besides, it takes every box whose
    IoU is above `threshold` and above the score that the box holds already. Of two ground truths forced
    onto one box the first keeps it.

    Returns:
        int64 [N]: row of the ground truth, or `UNMATCHED`.
    """
    matched = np.full(len(default_yxyx), UNMATCHED, np.int64)
    held = np.zeros(len(default_yxyx), np.float32)
    areas = area(default_yxyx)
    for row, box in enumerate(gt_yxyx):
        score = iou(default_yxyx, box, areas)
        score[np.argmax(score)] = _FORCED
        taken = (score > threshold) & (score > held)
        matched[taken] = row
        held = np.maximum(held, score)
    return matched
