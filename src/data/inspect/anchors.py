"""Default boxes that suit a data set: values of `anchor_scale`, `anchor_octaves` and `anchor_ratios` (NumPy only)."""

from __future__ import annotations

from typing import List, NamedTuple

import numpy as np
from easydict import EasyDict

from src.data.inspect.statistics import best_iou

SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
OCTAVES = (2, 3)
MOST_BOXES = 20_000  # a sample of this size gives the cover to 0.5 %
WORTH = 0.005  # cover that a change must bring: published values are kept if they are nearly as good


class Cover(NamedTuple):
    """Values of the three keys and what they reach.

    uncovered: fraction of the ground truths that no default box overlaps by more than `match_threshold`; mean_iou: mean
    IoU of a ground truth with the default box that covers it best.
    """

    anchor_scale: float
    anchor_octaves: int
    anchor_ratios: List[float]
    uncovered: float
    mean_iou: float

    @property
    def options(self) -> str:
        """As options of a command line."""
        ratios = ",".join(f"{ratio:g}" for ratio in self.anchor_ratios)
        return f"--anchor_scale={self.anchor_scale:g} --anchor_octaves={self.anchor_octaves} --anchor_ratios=[{ratios}]"


def suggest_anchors(boxes: np.ndarray, cfg) -> tuple:
    """(cover with the values of `cfg`, best cover found), the same object where nothing is clearly better.

    Tried: `SCALES`, `OCTAVES`, and as ratios those of `cfg` or the middles of three equal parts of the set's aspect
    ratios.

    Args:
        boxes: ground truths [M, 5] normalised, M > 0, from `normalized_boxes`.
        cfg: a configuration with `use_anchor_generator` True.
    """
    if len(boxes) > MOST_BOXES:
        boxes = boxes[np.random.default_rng(0).permutation(len(boxes))[:MOST_BOXES]]
    aspect = np.log((boxes[:, 3] - boxes[:, 1]) * cfg.img_shape[1] / ((boxes[:, 2] - boxes[:, 0]) * cfg.img_shape[0]))
    thirds = np.exp(np.quantile(aspect, [1 / 6, 1 / 2, 5 / 6]))
    of_set = sorted({float(f"{ratio:.2g}") for ratio in np.clip(thirds, 0.01, 100)})
    now = _cover(boxes, cfg, cfg.anchor_scale, cfg.anchor_octaves, list(cfg.anchor_ratios))
    tried = [
        _cover(boxes, cfg, scale, octaves, ratios)
        for octaves in OCTAVES
        for ratios in (list(cfg.anchor_ratios), of_set)
        for scale in SCALES
    ]
    # of covers that differ by less than what is worth a change, the one with the fewest boxes per cell
    least = min(cover.uncovered for cover in tried)
    near = [cover for cover in tried if cover.uncovered <= least + WORTH / 2]
    best = min(near, key=lambda cover: (cover.anchor_octaves * len(cover.anchor_ratios), -cover.mean_iou))
    return now, best if best.uncovered < now.uncovered - WORTH else now


def _cover(boxes: np.ndarray, cfg, scale: float, octaves: int, ratios: List[float]) -> Cover:
    trial = EasyDict(cfg, anchor_scale=scale, anchor_octaves=octaves, anchor_ratios=ratios)
    trial.num_default = [octaves * len(ratios)] * len(cfg.steps)
    overlaps = best_iou(boxes[:, :4], trial)
    return Cover(scale, octaves, ratios, float((overlaps <= cfg.match_threshold).mean()), float(overlaps.mean()))
