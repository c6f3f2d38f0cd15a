"""COCO metrics of boxes, computed on arrays: matching, precision over recall, the 12 metrics.

All values equal those of pycocotools to the last bit (`tests/evaluation/test_scoring.py`): the same floating-point
operations in the same order, the same stable sorting, the same choice between equal overlaps. Unlike pycocotools, this
does not loop over images. Detections without an IoU of 0.5, which match at no threshold, are dropped first; the others
are matched rank by rank, for all images and categories at once.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)
"""Maximum numbers of detections per image and category."""
AREAS = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
"""Smallest and largest area, both included, in square pixels: all, small, medium, large."""
PAIRS_AT_ONCE = 1 << 18


class Truth(NamedTuple):
    """Ground truth in the order of the file: indices of image [G] and category [G], boxes [G, 4] x, y, width, height,
    area [G], crowd [G] bool."""

    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    crowd: np.ndarray


class Detections(NamedTuple):
    """Detections, grouped by image: indices of image [D] and category [D], boxes [D, 4] x, y, width, height,
    scores [D]."""

    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class Scores(NamedTuple):
    """precision [T, R, K, A, M] and recall [T, K, A, M] as in pycocotools: T IoU thresholds, R recalls, K categories,
    A areas, M maximum numbers of detections; -1 without ground truth."""

    precision: np.ndarray
    recall: np.ndarray


class Matching(NamedTuple):
    """Which detections match a ground truth, for every area and IoU threshold.

    Detections are sorted by category and descending score: image, category [D]; rank [D] within image and category;
    in_area [A, D]. Candidates are detections with an IoU of at least 0.5 with a ground truth of their image and
    category: candidates [C] are their indices; matched [A, T, C]; counts [A, T, C]: matched with a ground truth that is
    not ignored. Ground truth: truth_image, truth_category [G] and truth_ignored [A, G]. scores [D] of the detections.
    """

    categories: int
    image: np.ndarray
    category: np.ndarray
    rank: np.ndarray
    in_area: np.ndarray
    candidates: np.ndarray
    matched: np.ndarray
    counts: np.ndarray
    truth_image: np.ndarray
    truth_category: np.ndarray
    truth_ignored: np.ndarray
    scores: np.ndarray


def match(truth: Truth, found: Detections, categories: int) -> Matching:
    """Match the detections of every image and category, at most 100 each, by descending score."""
    images = 1 + max(truth.image.max(initial=-1), found.image.max(initial=-1))
    # sort ground truth and detections by category and image (stable)
    key = truth.category.astype(np.int64) * images + truth.image
    order = np.argsort(key, kind="stable")
    truth, truth_key = Truth(*(column[order] for column in truth)), key[order]
    key = found.category.astype(np.int64) * images + found.image
    order = np.lexsort((-found.scores, key))
    key = key[order]
    rank = np.arange(len(key)) - np.searchsorted(key, key)
    order, key, rank = (column[rank < MAX_DETECTIONS[-1]] for column in (order, key, rank))
    boxes = found.boxes[order]

    truth_ignored = truth.crowd | _outside(truth.area)
    detection, other, overlap = overlapping_pairs(key, boxes, truth_key, truth)
    candidates, matched, counts = _assign(key, detection, other, overlap, truth, truth_ignored)

    # sort by category and score; equal scores keep the order of their images
    category, scores = found.category[order], found.scores[order]
    by_score = np.lexsort((-scores, category))
    index = np.empty_like(by_score)
    index[by_score] = np.arange(len(by_score))
    index = index[candidates]
    back = np.argsort(index)
    return Matching(
        categories,
        found.image[order][by_score],
        category[by_score],
        rank[by_score],
        ~_outside(boxes[:, 2] * boxes[:, 3])[:, by_score],
        index[back],
        matched[..., back],
        counts[..., back],
        truth.image,
        truth.category,
        truth_ignored,
        scores[by_score],
    )


def _outside(area: np.ndarray) -> np.ndarray:
    """bool [A, N]: whether an area [N] is outside each range of `AREAS`."""
    return (area < AREAS[:, :1]) | (area > AREAS[:, 1:])


def overlapping_pairs(
    key: np.ndarray, boxes: np.ndarray, truth_key: np.ndarray, truth: Truth, least: float = OVERLAPS[0]
) -> Tuple[np.ndarray, ...]:
    """Pairs of the same key with an IoU of at least `least`: (detection [P], ground truth [P], IoU [P]), by detection
    and ground truth.

    Args:
        key, truth_key: what a pair must share (image, or image and category) of each detection and ground truth; the
            latter ascending.
        boxes: of the detections [D, 4] x, y, width, height.
    """
    first = np.searchsorted(truth_key, key, "left")
    count = np.searchsorted(truth_key, key, "right") - first
    compared = np.flatnonzero(count)
    ends = np.cumsum(count[compared])
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    start = 0
    while start < len(compared):  # in blocks of limited size, of at least one detection
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, "right")))
        rows, number = compared[start:stop], count[compared[start:stop]]
        detection = np.repeat(rows, number)
        other = np.arange(ends[stop - 1] - before) + np.repeat(
            first[rows] - (ends[start:stop] - number - before), number
        )
        overlap = _overlap(boxes[detection], truth.boxes[other], truth.crowd[other])
        near = overlap >= least
        parts.append((detection[near], other[near], overlap[near]))
        start = stop
    return tuple(np.concatenate(columns) for columns in zip(*parts))


def _overlap(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU [P] of boxes [P, 4] x, y, width, height; for a crowd the share of the box inside it. The operations have the
    order of pycocotools' bbIou, because the last bit depends on it."""
    x, y, w, h = boxes.T
    other_x, other_y, other_w, other_h = others.T
    width = np.minimum(w + x, other_w + other_x) - np.maximum(x, other_x)
    height = np.minimum(h + y, other_h + other_y) - np.maximum(y, other_y)
    both = width * height
    area = w * h
    union = np.where(crowd, area, area + other_w * other_h - both)
    return np.divide(both, union, out=np.zeros_like(both), where=(width > 0) & (height > 0))


def _assign(key, detection, other, overlap, truth: Truth, truth_ignored: np.ndarray) -> Tuple[np.ndarray, ...]:
    """(the detections [C] that occur in pairs, ascending; matched [A, T, C]; counts [A, T, C]), see `Matching`.

    A detection matches the ground truth of the highest IoU among those that are not matched yet (a crowd can be matched
    many times), the last one if IoUs are equal. It matches an ignored one only if there is no other.
    """
    candidates, of_pair = np.unique(detection, return_inverse=True)
    rank = _rank(key[candidates])
    # sort pairs by rank of their detection, then detection, then IoU: the best choice of a detection is its last pair
    order = np.lexsort((other, overlap, of_pair, rank[of_pair]))
    of_pair, other, overlap = of_pair[order], other[order], overlap[order]
    choice = 1 + _rank(of_pair)  # the pairs of a detection are adjacent: 1 is its worst choice
    preferred = 1 + int(choice.max(initial=0))
    reached = np.minimum(OVERLAPS, 1 - 1e-10)
    crowd = truth.crowd[other]
    matched = np.zeros((len(AREAS), len(OVERLAPS), len(candidates)), bool)
    counts, used = np.zeros_like(matched), np.zeros((len(AREAS), len(OVERLAPS), len(truth.image)), bool)
    rounds = np.searchsorted(rank[of_pair], np.arange(rank.max(initial=-1) + 2))
    for start, stop in zip(rounds, rounds[1:]):  # the n-th detection of every image and category
        which, starts = np.unique(of_pair[start:stop], return_index=True)
        these = other[start:stop]
        enough = overlap[start:stop] >= reached[:, None]
        for area in range(len(AREAS)):
            weight = choice[start:stop] + np.where(truth_ignored[area, these], 0, preferred)
            best = np.where(enough & ~used[area][:, these], weight, 0)
            best = np.maximum.reduceat(best, starts, axis=1)
            matched[area][:, which], counts[area][:, which] = best > 0, best >= preferred
            row, column = np.nonzero(best)
            pair = start + starts[column] + best[row, column] % preferred - 1
            once = ~crowd[pair]
            used[area, row[once], other[pair[once]]] = True
    return candidates, matched, counts


def _rank(groups: np.ndarray) -> np.ndarray:
    """The index [N] of each element among equal elements, which must be adjacent."""
    if len(groups) == 0:
        return np.zeros(0, np.int64)
    begins = np.r_[True, groups[1:] != groups[:-1]]
    starts = np.flatnonzero(begins)
    return np.arange(len(groups)) - starts[np.cumsum(begins) - 1]


def accumulate(matching: Matching, images: Optional[np.ndarray] = None) -> Scores:
    """Precision and recall over all images, or over those where `images` [I] is True.

    False positives are counted at candidates only, because precision falls from one true positive to the next.
    """
    shape = (len(OVERLAPS), len(RECALLS), matching.categories, len(AREAS), len(MAX_DETECTIONS))
    scores = Scores(-np.ones(shape), -np.ones(shape[:1] + shape[2:]))
    chosen = np.ones(len(matching.image), bool) if images is None else images[matching.image]
    judged = ~matching.truth_ignored if images is None else ~matching.truth_ignored & images[matching.truth_image]
    categories = np.arange(matching.categories + 1)
    begins = np.searchsorted(matching.category, categories)
    slices = np.searchsorted(matching.candidates, begins)
    candidates = matching.candidates
    for area in range(len(AREAS)):
        positives = np.bincount(matching.truth_category[judged[area]], minlength=matching.categories)
        for most, limit in enumerate(MAX_DETECTIONS):
            allowed = chosen & (matching.rank < limit)
            inside = allowed & matching.in_area[area]
            before = np.r_[0, np.cumsum(inside)]
            inside, allowed = inside[candidates], allowed[candidates]
            for category in np.flatnonzero(positives):
                part = slice(slices[category], slices[category + 1])
                right = matching.counts[area][:, part] & allowed[part]
                # false positives: detections inside the area up to each candidate, minus the matched ones
                false = before[candidates[part] + 1] - before[begins[category]]
                false = false - np.cumsum(matching.matched[area][:, part] & inside[part], axis=1)
                precision, recall = _curve(right, false, int(positives[category]))
                scores.precision[:, :, category, area, most] = precision
                scores.recall[:, category, area, most] = recall
    return scores


def _curve(right: np.ndarray, false: np.ndarray, positives: int) -> Tuple[np.ndarray, np.ndarray]:
    """(precision [T, R], highest recall [T]) of a category.

    Args:
        right: [T, C] bool, whether a candidate is a true positive; by descending score.
        false: [T, C], number of false positives up to each candidate.
        positives: number of objects.
    """
    number = np.cumsum(right, axis=1)
    row, column = np.nonzero(right)
    true = number[row, column].astype(np.float64)
    curve = np.zeros((len(OVERLAPS), positives))  # precision at the first, second, ... true positive
    curve[row, number[row, column] - 1] = true / (false[row, column].astype(np.float64) + true + np.spacing(1))
    curve = np.maximum.accumulate(curve[:, ::-1], axis=1)[:, ::-1]
    needed = np.searchsorted(np.arange(positives + 1) / positives, RECALLS, side="left")
    recall = number[:, -1] / positives if number.shape[1] else np.zeros(len(OVERLAPS))
    return curve[:, np.maximum(needed, 1) - 1], recall


def coco_metrics(scores: Scores) -> list:
    """The 12 COCO metrics; -1 for an area without ground truth."""

    def mean(values: np.ndarray) -> float:
        values = values[values > -1]
        return float(np.mean(values)) if len(values) else -1.0

    precision, recall = scores
    averages = [precision[..., 0, -1], precision[OVERLAPS == 0.5][..., 0, -1], precision[OVERLAPS == 0.75][..., 0, -1]]
    averages += [precision[..., area, -1] for area in (1, 2, 3)]
    recalls = [recall[..., 0, most] for most in (0, 1, 2)] + [recall[..., area, -1] for area in (1, 2, 3)]
    return [mean(values) for values in averages + recalls]
