"""The network's outputs for an image mirrored left to right; docs/reference.md, "Soft-NMS and mirrored images"."""

from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np


def mirror_permutation(layout: Sequence[Sequence[int]]) -> np.ndarray:
    """int64 [N]: entry i is the row of the default box that mirrors that of row i: in each row of cells, column j and
    the last but j change places.

    Args:
        layout: (rows, columns, boxes per cell) of each level, see `src.boxes.default_boxes.grid_layout`.
    """
    start, parts = 0, [np.empty(0, np.int64)]
    for shape in layout:
        level = start + np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
        parts.append(level[:, ::-1].ravel())
        start += level.size
    return np.concatenate(parts)


def average_with_mirrored(
    boxes: np.ndarray, scores: np.ndarray, mirrored_boxes: np.ndarray, mirrored_scores: np.ndarray, rows: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Mean of the outputs for images and for their mirror images, box by box.

    Args:
        boxes, scores: [B, N, 4] y1, x1, y2, x2 in [0, 1] and [B, N, C].
        mirrored_boxes, mirrored_scores: the same of the mirror images, as the network gives them.
        rows: from `mirror_permutation`.
    """
    if boxes.shape[1] != len(rows):
        raise ValueError(f"a layout of {len(rows)} default boxes, but {boxes.shape[1]} boxes")
    # in place: scores of a batch take hundreds of megabytes
    mean_boxes, mean_scores = mirrored_boxes[:, rows], mirrored_scores[:, rows]
    mean_boxes[..., [1, 3]] = 1 - mean_boxes[..., [3, 1]]
    for mean, other in ((mean_boxes, boxes), (mean_scores, scores)):
        mean += other
        mean /= 2
    return mean_boxes, mean_scores
