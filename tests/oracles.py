"""Slow loops written from docs/reference.md alone, to compare the code with."""

from __future__ import annotations

import math

import numpy as np


def iou(a, b) -> float:
    """IoU of two boxes (yxyx)."""
    h = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    w = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - h * w
    return h * w / union if union > 0 else 0.0


def giou(a, b) -> float:
    """GIoU of two boxes (yxyx), arXiv:1902.09630, algorithm 1."""
    h = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    w = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - h * w
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return h * w / union - (hull - union) / hull


def encode(gt, cyxhw, yxyx, threshold, scaling):
    """docs/reference.md, "Matching" and "Encoding", box by box: (loc, label, num_match)."""
    count = len(cyxhw)
    best_score, taker = [0.0] * count, [None] * count
    for row in gt:
        scores = [iou(box, row) for box in yxyx]
        best = max(range(count), key=lambda k: scores[k])
        scores[best] = 2.0
        for k in range(count):
            if scores[k] > threshold and scores[k] > best_score[k]:
                taker[k] = row
            best_score[k] = max(best_score[k], scores[k])
    loc, label = np.zeros((count, 4)), np.zeros(count, int)
    for k, row in enumerate(taker):
        if row is None or row[4] == 0:
            continue
        label[k] = int(row[4])
        cy, cx, h, w = (row[0] + row[2]) / 2, (row[1] + row[3]) / 2, row[2] - row[0], row[3] - row[1]
        dcy, dcx, dh, dw = cyxhw[k]
        loc[k] = [
            (cy - dcy) / (dh * scaling[0]),
            (cx - dcx) / (dw * scaling[0]),
            math.log(max(h / dh, 1e-6)) / scaling[1],
            math.log(max(w / dw, 1e-6)) / scaling[1],
        ]
    return loc, label, int((label > 0).sum())


def iou_px(a, b) -> float:
    """IoU of two boxes (yxyx) in pixels, one pixel more per side."""
    a, b = [float(v) for v in a], [float(v) for v in b]
    h = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    w = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    return h * w / ((a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - h * w)


def nms(boxes, scores, threshold, most):
    """docs/reference.md, "Post-processing": greedy, +1 areas, equal scores by the lower index."""
    left = sorted(range(len(boxes)), key=lambda k: (-scores[k], k))
    kept = []
    for k in left:
        if len(kept) == most:
            break
        if not any(iou_px(boxes[k], boxes[j]) > threshold for j in kept):
            kept.append(k)
    return kept


def soft_nms(boxes, scores, least, most):
    """docs/reference.md, "Soft-NMS and mirrored images": [(index, lowered score)] in the order of taking."""
    left, taken = {k: float(score) for k, score in enumerate(scores)}, []
    while left and len(taken) < most:
        best = max(left, key=lambda k: (left[k], scores[k], -k))
        if not left[best] > least:
            break
        taken.append((best, left.pop(best)))
        for k in left:
            left[k] *= math.exp(-(iou_px(boxes[k], boxes[best]) ** 2) / 0.5)
    return taken


def loss(pred_loc, logits, gt_loc, gt_label, num_match, gamma=2.0, alpha=0.25) -> float:
    """docs/reference.md, "Loss", in float64."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    t = np.eye(logits.shape[-1])[gt_label]
    focal = -(alpha * t * (1 - p) ** gamma * np.log(p) + (1 - alpha) * (1 - t) * p**gamma * np.log(1 - p))
    d = np.abs(pred_loc.astype(np.float64) - gt_loc)
    smooth = np.where(d < 1, 0.5 * d * d, d - 0.5)[gt_label > 0]
    return (focal.sum() + smooth.sum()) / max(num_match.sum(), 1)


def learning_rate(step, lr_init, lr_end, lr_max, warmup_epochs, total_epochs, steps_per_epoch) -> float:
    """docs/reference.md, "Learning rate", for one step."""
    warmup, total = warmup_epochs * steps_per_epoch, total_epochs * steps_per_epoch
    if step < warmup:
        return lr_init + (lr_max - lr_init) * step / warmup
    return lr_end + (lr_max - lr_end) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
