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
_AT_ONCE = 1 << 22  # numbers of a block of resamples


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
    number, categories = len(weights), matching.categories
    category, category50 = (np.full((number, categories), np.nan) for _ in range(2))
    columns = np.ascontiguousarray(weights.T)  # [I, N]: sums over images are then sums of rows, which are fast
    judged = ~matching.truth_ignored[0]
    begins = np.searchsorted(matching.category, np.arange(categories + 1))
    for index in range(categories):
        images_of_truth = matching.truth_image[judged & (matching.truth_category == index)]
        if not len(images_of_truth):
            continue
        rows = slice(*begins[index : index + 2])
        size = max(rows.stop - rows.start, len(images_of_truth), 1)
        step = max(1, _AT_ONCE // size)
        for start in range(0, number, step):
            block = np.ascontiguousarray(columns[:, start : start + step])
            positives = block[images_of_truth].sum(0, dtype=np.int64)
            values = _precisions(matching, block, rows, positives)
            values[:, positives == 0] = np.nan
            category[start : start + step, index] = values.mean(0)
            category50[start : start + step, index] = values[0]
    present = np.maximum((~np.isnan(category)).sum(1), 1)
    return Samples(np.nansum(category, 1) / present, np.nansum(category50, 1) / present, category, category50)


def _precisions(matching: Matching, weights: np.ndarray, rows: slice, positives: np.ndarray) -> np.ndarray:
    """Mean precision over the recalls [T, N] of a category.

    Precision is computed at true positives only, because it falls from one to the next.

    Args:
        weights: [I, N]; rows: its detections; positives: number of its objects [N].
    """
    part = slice(*np.searchsorted(matching.candidates, (rows.start, rows.stop)))
    candidates = matching.candidates[part]
    inside, images = matching.in_area[0, candidates], matching.image[candidates]
    needed = _needed(positives)
    drawn = weights[matching.image[rows]] * matching.in_area[0, rows, None]
    before = np.cumsum(drawn, 0, dtype=np.int32)[candidates - rows.start]  # detections up to each candidate
    result = np.zeros((len(OVERLAPS), weights.shape[1]))
    for threshold in range(len(OVERLAPS)):
        counts, matched = matching.counts[0][threshold, part], matching.matched[0][threshold, part]
        true = np.flatnonzero(counts)
        if not len(true):
            continue
        right = np.cumsum(weights[images[true]], 0, dtype=np.int32)
        false = before[true] - right
        # not counted: matched with a crowd; true positives outside the area were not among `before`
        for others, sign in ((matched & inside & ~counts, -1), (counts & ~inside, 1)):
            if others.any():
                sums = np.cumsum(weights[images[others]], 0, dtype=np.int32)
                place = np.searchsorted(np.flatnonzero(others), true, side="right")
                false += sign * np.concatenate([np.zeros_like(sums[:1]), sums])[place]
        precision = right / (false.astype(np.float64) + right + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        result[threshold] = _at(precision, right, needed).mean(0)
    return result


def _needed(positives: np.ndarray) -> np.ndarray:
    """int64 [R, N]: the smallest number of true positives, at least 1, that reaches each recall."""
    total = np.maximum(positives, 1)
    needed = np.maximum(np.floor(RECALLS[:, None] * total).astype(np.int64) - 1, 0)
    for _ in range(3):  # the quotient decides, as in pycocotools: the product may be rounded to the other side
        needed += needed / total < RECALLS[:, None]
    return np.maximum(needed, 1)


def _at(precision: np.ndarray, right: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Precision [R, N] at the first row with `needed` [R, N] true positives; 0 where there are never as many.

    Args:
        precision, right: [C, N]; right never falls.
    """
    count, number = right.shape
    offset = np.arange(number) * (max(int(right[-1].max()), int(needed.max())) + 1)
    # one sorted list of all columns
    place = np.searchsorted((right.T + offset[:, None]).ravel(), (needed + offset).ravel(), side="left")
    place = place.reshape(needed.shape) - np.arange(number) * count
    found = np.take_along_axis(precision, np.minimum(place, count - 1), 0)
    return np.where(place < count, found, 0)


def interval(values: np.ndarray) -> Optional[Tuple[float, float]]:
    """The middle 95 % of the values that are not NaN, None where there are none."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
