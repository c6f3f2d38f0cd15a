"""Which ground truth each default box is trained on; docs/reference.md, "Matching".

A ground truth is compared with the default boxes near it (`src.boxes.candidates`), not with all (51150 in the FPN
networks at 640 x 640); the IoU of those is computed as it would be over all of them, to the last bit. This makes the
targets of an image 16 to 70 times as fast there (`scripts/benchmark.py matching`). `Matcher(..., exhaustive=True)`
compares with all default boxes.

To remove: let `_candidates` always call `_match_exhaustively`, and delete `src/boxes/candidates.py`.
"""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from src.boxes.candidates import CandidateIndex, find_grids
from src.boxes.ops import area, iou

_ZERO = np.zeros(1, np.int64)


class Matcher:
    """Match ground truths to the default boxes [N, 4] of a network, given as cyxhw and as yxyx, normalised.

    Building one takes half a second, so whoever matches image after image keeps it.

    Args:
        threshold: IoU above which a default box takes a ground truth.
        exhaustive: compare every ground truth with every default box, without the look-up; the result is the same.
    """

    def __init__(
        self, default_cyxhw: np.ndarray, default_yxyx: np.ndarray, threshold: float, *, exhaustive: bool = False
    ):
        self.default_cyxhw, self.default_yxyx = (np.asarray(a, np.float32) for a in (default_cyxhw, default_yxyx))
        self._table, self._threshold = _with_areas(self.default_yxyx), threshold
        grids = None if exhaustive else find_grids(self.default_cyxhw)
        self._index = None if grids is None else CandidateIndex(grids, threshold)

    def __call__(self, gt_yxyx: np.ndarray, image: Optional[np.ndarray] = None) -> Tuple[np.ndarray, np.ndarray]:
        """Ground truths float32 [M, 4] yxyx are taken in order. Each forces its best default box (the first of equal
        ones); besides, it takes every box whose IoU is above the threshold and above that of the ground truths before
        it. Of two ground truths forced onto one box the first keeps it.

        Args:
            image: int64 [M], ascending: which image each is from, of a batch; None where all are from one.

        Returns:
            int64 [K] each: the default boxes that are matched, ascending in each image, and the ground truth of each.
        """
        gt = np.asarray(gt_yxyx, np.float32).reshape(-1, 4)
        if len(gt) == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        rows, boxes = self._candidates(gt)
        scores = self._iou(gt, rows, boxes)
        if image is not None:  # every image has the default boxes to itself
            boxes = boxes + len(self._table) * image.take(rows)
        best = self._best_default_box(len(gt), rows, boxes, scores)
        # from the strongest claim to the weakest: forced, then by descending score, equal ones in the order of rows
        taken = np.flatnonzero(scores > self._threshold)
        taken = taken.take(np.argsort(-scores.take(taken), kind="stable"))
        claimed = np.concatenate([best, boxes.take(taken)])
        order = np.argsort(claimed, kind="stable")
        claimed = claimed.take(order)
        owners = np.concatenate([np.arange(len(gt)), rows.take(taken)]).take(order)
        first = np.flatnonzero(claimed[1:] != claimed[:-1]) + 1
        first = np.concatenate([_ZERO, first])
        return claimed.take(first) % len(self._table), owners.take(first)

    def _iou(self, gt: np.ndarray, rows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """`src.boxes.ops.iou` of pairs, operation by operation the same."""
        # `take` of complete rows is far faster than an index, and than columns one by one
        y1, x1, y2, x2, ours = self._table.take(boxes, axis=0).T
        v1, u1, v2, u2, theirs = _with_areas(gt).take(rows, axis=0).T
        height = np.minimum(y2, v2) - np.maximum(y1, v1)
        width = np.minimum(x2, u2) - np.maximum(x1, u1)
        inter = np.maximum(height, 0) * np.maximum(width, 0)
        union = ours + theirs - inter
        return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)

    @staticmethod
    def _best_default_box(count: int, rows: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The best default box of each ground truth; of equal ones the first. `rows` rise and leave none out."""
        starts = np.searchsorted(rows, np.arange(count))
        highest = np.maximum.reduceat(scores, starts).take(rows)
        return np.minimum.reduceat(np.where(scores == highest, boxes, np.iinfo(np.int64).max), starts)

    def _candidates(self, gt: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Pairs (row of the ground truth, ascending; default box) that hold every one with an IoU above the threshold,
        and the best of each ground truth."""
        if self._index is None:
            return self._match_exhaustively(gt, np.arange(len(gt)))
        usable = self._index.supports(gt)
        if usable.all():
            return self._index.candidates(gt, np.arange(len(gt)))
        parts = (
            self._index.candidates(gt, np.flatnonzero(usable)),
            self._match_exhaustively(gt, np.flatnonzero(~usable)),
        )
        rows, boxes = (np.concatenate(part) for part in zip(*parts))
        order = np.argsort(rows, kind="stable")
        return rows[order], boxes[order]

    def _match_exhaustively(self, gt: np.ndarray, rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """`_candidates` of some rows by comparison with every default box, row by row to save memory."""
        found = []
        for row in rows:
            scores = iou(self.default_yxyx, gt[row], self._table[:, 4])
            wanted = scores > self._threshold
            wanted[np.argmax(scores)] = True
            found.append(np.flatnonzero(wanted))
        return np.repeat(rows, [len(boxes) for boxes in found]), np.concatenate(found)


def _with_areas(yxyx: np.ndarray) -> np.ndarray:
    """[K, 4] -> [K, 5], the area after the corners."""
    return np.column_stack([yxyx, area(yxyx)])
