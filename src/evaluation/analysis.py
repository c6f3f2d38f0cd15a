"""What the 12 figures do not say: confusions, images that went well or badly, and why there is nothing."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence

import numpy as np

from src.boxes.ops import iou

MATCH_IOU = 0.5


class ImageResult(NamedTuple):
    """Ground truth and detections of an image; boxes are y1, x1, y2, x2 in pixels.

    truth, labels: [M, 4], [M]; found, found_labels, scores: [D, 4], [D], [D], by falling score.
    """

    image_id: object
    truth: np.ndarray
    labels: np.ndarray
    found: np.ndarray
    found_labels: np.ndarray
    scores: np.ndarray


def pair_up(one: ImageResult, min_score: float, same_class: bool) -> list:
    """Pairs (detection, ground truth) with an IoU of at least 0.5: each detection, the surest first, takes the ground
    truth it overlaps most of those left; with `same_class` only one of its class."""
    pairs, free = [], np.ones(len(one.truth), bool)
    for row in np.flatnonzero(one.scores >= min_score):
        overlap = iou(one.truth, one.found[row]) if len(one.truth) else np.empty(0)
        overlap = np.where(free & ((one.labels == one.found_labels[row]) | (not same_class)), overlap, -1)
        if len(overlap) and overlap.max() >= MATCH_IOU:
            best = int(np.argmax(overlap))
            free[best] = False
            pairs.append((int(row), best))
    return pairs


def confusion(images: Sequence[ImageResult], classes: int, min_score: float) -> np.ndarray:
    """int [C, C]: ground truth (row) found as (column); column 0: not found, row 0: found where there is nothing."""
    table = np.zeros((classes, classes), np.int64)
    for one in images:
        pairs = pair_up(one, min_score, same_class=False)
        for row, best in pairs:
            table[one.labels[best], one.found_labels[row]] += 1
        detected, matched = {row for row, _ in pairs}, {best for _, best in pairs}
        for best in set(range(len(one.truth))) - matched:
            table[one.labels[best], 0] += 1
        for row in set(np.flatnonzero(one.scores >= min_score).tolist()) - detected:
            table[0, one.found_labels[row]] += 1
    return table


def f1_score(one: ImageResult, min_score: float) -> float:
    """2 TP / (2 TP + FP + FN) of an image at IoU 0.5; 1 where there is nothing and nothing was found."""
    return pooled_f1([one], min_score)


def pooled_f1(images: Sequence[ImageResult], min_score: float) -> float:
    """`f1_score` of several images together."""
    right = sum(len(pair_up(one, min_score, same_class=True)) for one in images)
    total = sum(len(one.truth) + int((one.scores >= min_score).sum()) for one in images)
    return 2 * right / total if total else 1.0


def showing_score(images: Sequence[ImageResult], min_score: float) -> float:
    """The score from which on a detection is drawn and counted: the one of the best F1 over all images, `min_score`
    where there is no detection."""
    scores = np.concatenate([np.empty(0), *(one.scores for one in images)])
    if len(scores) == 0:
        return min_score
    # shares of the detections: where objects are few, the best threshold leaves only a hundredth of them
    candidates = np.unique(np.quantile(scores, 1 - np.geomspace(1 / len(scores), 1, 40)))
    sample = images[:: max(1, len(images) // 200)]
    return float(max(candidates, key=lambda least: pooled_f1(sample, float(least))))


def best_and_worst(images: Sequence[ImageResult], min_score: float, count: int) -> tuple:
    """([(F1, image)] of the best, [(F1, image)] of the worst): images with ground truth, by F1, then those with more
    boxes; none is in both."""
    scored = [(f1_score(one, min_score), one) for one in images if len(one.truth)]
    scored.sort(key=lambda pair: (-pair[0], -len(pair[1].truth)))
    best = scored[: min(count, (len(scored) + 1) // 2)]
    worst = scored[len(best) :][::-1][:count]
    worst.sort(key=lambda pair: (pair[0], -len(pair[1].truth)))
    return best, worst


def diagnosis(
    images: Sequence[ImageResult],
    classes: Sequence[str],
    unmapped: Sequence[str],
    highest: float,
    min_score: float,
    of_training: Sequence[str] = (),
) -> List[str]:
    """Why the mAP is close to zero, one line per finding, the likeliest cause first.

    Args:
        of_training: causes that follow from how the network was trained (`likely_causes`). They come first unless its
            boxes are right.
        unmapped: classes of the configuration that the annotation file lacks.
        highest: the highest score that any box got, whatever `min_score` is.
    """
    found = sum(len(one.found) for one in images)
    lines = [f"highest score of any box: {highest:.4f}, min_score is {min_score:g}"]
    if highest <= min_score:
        lines.append(
            "no box is above min_score: the network is not trained yet, or its weights did not load; look at the loss, "
            "and at 'parameters loaded' above; a smaller --min_score shows what there is"
        )
    per_class: Dict[str, int] = {name: 0 for name in classes[1:]}
    for one in images:
        for label in one.found_labels:
            per_class[classes[label]] += 1
    most = sorted(per_class.items(), key=lambda item: -item[1])[:5]
    lines.append(f"detections: {found} on {len(images)} images; most of " + ", ".join(f"{n} ({c})" for n, c in most))
    if unmapped:
        lines.append(f"classes that the annotation file lacks: {', '.join(unmapped)}; are names spelt alike?")
    any_class = [_best_overlap(one, same_class=False) for one in images if len(one.truth) and len(one.found)]
    of_class = [_best_overlap(one, same_class=True) for one in images if len(one.truth) and len(one.found)]
    if any_class:
        any_class, of_class = float(np.mean(any_class)), float(np.mean(of_class))
        lines.append(f"best IoU of a detection, mean over images: {any_class:.2f}, of the right class {of_class:.2f}")
        if any_class < 0.3:
            lines.append("boxes lie elsewhere: another img_shape or prior_scaling than in training, or boxes as y, x?")
        elif any_class - of_class > 0.3:
            lines.append("boxes are right and classes wrong: another order of `classes` than in training?")
            return [*lines, *of_training]
    return [*of_training, *lines]


def _best_overlap(one: ImageResult, same_class: bool) -> float:
    best = 0.0
    for box, label in zip(one.found, one.found_labels):
        overlap = iou(one.truth, box)
        if same_class:
            overlap = np.where(one.labels == label, overlap, 0)
        best = max(best, float(overlap.max()))
    return best
