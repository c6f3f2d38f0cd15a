"""Offsets between ground truth and default boxes; docs/reference.md, "Encoding"."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from src.boxes.ops import cyxhw_to_yxyx


class BoxCoder:
    """Encode and decode box offsets; `prior_scaling` = (centre, size), by default (0.1, 0.2).

    Law: `decode(encode(b, d), d)` is the corner form of b.
    """

    def __init__(self, prior_scaling: Sequence[float]):
        self.centre, self.size = (float(value) for value in prior_scaling)

    def encode(self, gt_cyxhw: np.ndarray, default_cyxhw: np.ndarray) -> np.ndarray:
        """[N, 4] and [N, 4], both cyxhw in the same unit, to offsets [N, 4]."""
        gt, default = np.asarray(gt_cyxhw), np.asarray(default_cyxhw)
        if gt.shape != default.shape:
            gt, default = np.broadcast_arrays(gt, default)
        # column by column: NumPy is slow where the last axis is short
        gt, default = gt.T.copy(), default.T.copy()
        centre = (gt[:2] - default[:2]) / (default[2:] * self.centre)
        # the ratio has a floor: log of a box without area would be -inf
        size = np.log(np.maximum(gt[2:] / default[2:], 1e-6)) / self.size
        return np.concatenate([centre, size]).T

    def decode(self, loc: np.ndarray, default_cyxhw: np.ndarray) -> np.ndarray:
        """Offsets [N, 4] to corners yxyx [N, 4], not clipped."""
        loc, default = np.asarray(loc), np.asarray(default_cyxhw)
        centre = loc[..., :2] * self.centre * default[..., 2:] + default[..., :2]
        size = np.exp(loc[..., 2:] * self.size) * default[..., 2:]
        return cyxhw_to_yxyx(np.concatenate([centre, size], axis=-1))
