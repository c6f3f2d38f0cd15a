"""95 % intervals of COCO metrics by the bootstrap over images.

A resample draws as many images as the set has, with replacement. It is scored from one matching: an image that is drawn
k times counts k times, so nothing is matched or sorted again. The values equal those of pycocotools on the resampled
set (`tests/evaluation/test_bootstrap.py`), apart from detections of one class with the same score in one image, which
are counted one after the other here, and copy by copy there.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np

from src.evaluation.scoring import OVERLAPS, RECALLS, Matching

RESAMPLES, SEED, LEVEL = 1000, 1, 0.95
_AT_ONCE = 1 << 20  # numbers of a block of resamples


class Samples(NamedTuple):
    """Metrics of resamples: mAP [N], AP50 [N]; by category AP [N, K] and AP50 [N, K], NaN for a resample without
    ground truth of the category."""

    map: np.ndarray
    map50: np.ndarray
    category: np.ndarray
    category50: np.ndarray


def draw_weights(images: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """uint8 [N, I]: how often each image is drawn in each resample."""
    rng, weights = np.random.default_rng(seed), np.empty((resamples, images), np.uint8)
    for row in weights:
        row[:] = np.bincount(rng.integers(images, size=images), minlength=images)
    return weights


def resampled_metrics(matching: Matching, weights: np.ndarray) -> Samples:
    """The metrics (all areas, 100 detections) for each row of `weights` [N, I]."""
    number = len(weights)
    category, category50 = (np.full((number, matching.categories), np.nan) for _ in range(2))
    judged = ~matching.truth_ignored[0]
    begins = np.searchsorted(matching.category, np.arange(matching.categories + 1))
    for index in range(matching.categories):
        images_of_truth = matching.truth_image[judged & (matching.truth_category == index)]
        if not len(images_of_truth):
            continue
        rows = slice(*begins[index : index + 2])
        part = slice(*np.searchsorted(matching.candidates, begins[index : index + 2]))
        size = max(rows.stop - rows.start, len(OVERLAPS) * (part.stop - part.start), len(images_of_truth), 1)
        step = max(1, _AT_ONCE // size)
        for start in range(0, number, step):
            block = weights[start : start + step].astype(np.int32)
            precision = _precision(matching, block, rows, part, images_of_truth)
            category[start : start + step][:, index] = precision.mean((1, 2))
            category50[start : start + step][:, index] = precision[:, 0].mean(1)
    with np.errstate(invalid="ignore"):
        present = np.maximum((~np.isnan(category)).sum(1), 1)
        return Samples(np.nansum(category, 1) / present, np.nansum(category50, 1) / present, category, category50)


def _precision(matching: Matching, weights: np.ndarray, rows: slice, part: slice, images_of_truth) -> np.ndarray:
    """Precision [N, T, R] of a category, NaN for resamples without ground truth of it.

    Args:
        weights: [N, I]; rows: its detections; part: its candidates; images_of_truth: image of each object.
    """
    number = len(weights)
    positives = weights[:, images_of_truth].sum(1)
    candidates = matching.candidates[part]
    inside = weights[:, matching.image[rows]] * matching.in_area[0, rows]
    before = np.cumsum(inside, 1)[:, candidates - rows.start]  # detections up to each candidate
    drawn = weights[:, matching.image[candidates]]
    right = np.cumsum(drawn[:, None] * matching.counts[0][None, :, part], 2, dtype=np.int64)
    matched = np.cumsum(
        drawn[:, None] * (matching.matched[0][:, part] & matching.in_area[0, candidates]), 2, dtype=np.int64
    )
    false = before[:, None] - matched
    precision = right / (false.astype(np.float64) + right + np.spacing(1))
    # a candidate that is no true positive has a lower precision than the true positive before it, or 0
    precision = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    precision = np.concatenate([precision, np.zeros((number, len(OVERLAPS), 1))], 2)
    result = np.full((number, len(OVERLAPS), len(RECALLS)), np.nan)
    for value in np.unique(positives[positives > 0]):
        chosen = np.flatnonzero(positives == value)
        needed = np.maximum(np.searchsorted(np.arange(value + 1) / value, RECALLS, side="left"), 1)
        result[chosen] = _at(precision[chosen], right[chosen], needed)
    return result


def _at(precision: np.ndarray, right: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Precision [N, T, R] at the first candidate with `needed` [R] true positives; 0 where there are never as many.

    Args:
        precision: [N, T, C + 1], the last is 0; right: [N, T, C], never falls.
    """
    count = right.shape[2]
    flat = right.reshape(-1, count)
    step = max(int(flat.max(initial=0)), int(needed.max())) + 1
    offset = np.arange(len(flat))[:, None] * step
    place = np.searchsorted((flat + offset).ravel(), (needed + offset).ravel(), side="left")
    place = place.reshape(len(flat), -1) - np.arange(len(flat))[:, None] * count
    picked = np.take_along_axis(precision.reshape(-1, count + 1), np.minimum(place, count), 1)
    return picked.reshape(*right.shape[:2], -1)


def interval(values: np.ndarray) -> Optional[Tuple[float, float]]:
    """The middle 95 % of the values that are not NaN, None where there are none."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
