"""What the 12 figures do not say: confusions, images that went well or badly, and why there is nothing."""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

import numpy as np

from src.boxes.ops import area, intersection

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


def without_ignored(one: ImageResult, crowds: np.ndarray, crowd_labels: np.ndarray) -> ImageResult:
    """The result without the detections that are neither right nor wrong, as in the COCO figures: at least half of such
    a detection lies in a crowd of its class, and it matches no ground truth of its class.

    Args:
        crowds: [K, 4] y1, x1, y2, x2 in pixels; crowd_labels: [K].
    """
    low = np.maximum(one.found[:, None, :2], crowds[None, :, :2])
    high = np.minimum(one.found[:, None, 2:], crowds[None, :, 2:])
    inter = np.maximum(high - low, 0).prod(axis=2)
    areas = (one.found[:, 2:] - one.found[:, :2]).prod(axis=1)
    inside = (inter >= MATCH_IOU * areas[:, None]) & (one.found_labels[:, None] == crowd_labels)
    keep = ~inside.any(axis=1)
    keep[[row for row, _ in match_detections(one, -np.inf, same_class=True)]] = True
    return one._replace(found=one.found[keep], found_labels=one.found_labels[keep], scores=one.scores[keep])


def match_detections(one: ImageResult, min_score: float, same_class: bool) -> list:
    """Pairs (detection, ground truth) with an IoU of at least 0.5: each detection, the surest first, takes the ground
    truth it overlaps most of those left; with `same_class` only one of its class."""
    pairs = []
    rows = np.flatnonzero(one.scores >= min_score)
    overlap = _overlaps(one, rows, same_class)
    for place in np.flatnonzero((overlap >= MATCH_IOU).any(axis=1)):
        best = int(np.argmax(overlap[place]))
        if overlap[place, best] >= MATCH_IOU:
            overlap[:, best] = 0  # taken
            pairs.append((int(rows[place]), best))
    return pairs


def _overlaps(one: ImageResult, rows: np.ndarray, same_class: bool) -> np.ndarray:
    """IoU [R, M] of some detections with the ground truth; with `same_class` 0 where the classes differ."""
    found = one.found[rows]
    inter = intersection(one.truth, found.T[:, :, None])
    union = area(one.truth) + area(found)[:, None] - inter
    overlap = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return overlap * (one.found_labels[rows, None] == one.labels) if same_class else overlap


def confusion_matrix(images: Sequence[ImageResult], classes: int, min_score: float) -> np.ndarray:
    """int [C, C]: ground truth (row) found as (column); column 0: not found, row 0: found where there is nothing."""
    table = np.zeros((classes, classes), np.int64)
    for one in images:
        pairs = np.array(match_detections(one, min_score, same_class=False), np.int64).reshape(-1, 2)
        as_what = np.zeros(len(one.truth), np.int64)
        as_what[pairs[:, 1]] = one.found_labels[pairs[:, 0]]
        np.add.at(table, (one.labels, as_what), 1)
        alone = one.scores >= min_score
        alone[pairs[:, 0]] = False
        np.add.at(table, (0, one.found_labels[alone]), 1)
    return table


def f1_score(one: ImageResult, min_score: float) -> float:
    """2 TP / (2 TP + FP + FN) of an image at IoU 0.5; 1 where there is nothing and nothing was found."""
    total = len(one.truth) + int((one.scores >= min_score).sum())
    return 2 * len(match_detections(one, min_score, same_class=True)) / total if total else 1.0


def best_f1_threshold(images: Sequence[ImageResult], min_score: float) -> float:
    """The score from which on a detection is drawn and counted: the one of the best F1 over all images, `min_score`
    where there is no detection."""
    scores = np.concatenate([np.empty(0), *(one.scores for one in images)])
    if len(scores) == 0:
        return min_score
    # shares of the detections: where objects are few, the best threshold leaves only a hundredth of them
    candidates = np.unique(np.quantile(scores, 1 - np.geomspace(1 / len(scores), 1, 40)))
    sample = images[:: max(1, len(images) // 200)]
    # a pair depends on surer detections only: those of a higher threshold are the first ones of a lower one
    right = [one.scores[row] for one in sample for row, _ in match_detections(one, candidates[0], same_class=True)]
    found = np.concatenate([one.scores for one in sample])
    right, found = (len(part) - np.searchsorted(np.sort(part), candidates) for part in (np.array(right), found))
    total = found + sum(len(one.truth) for one in sample)
    return float(candidates[np.argmax(np.where(total > 0, 2 * right / np.maximum(total, 1), 1))])


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
    labels = np.concatenate([np.empty(0, np.int64), *(one.found_labels for one in images)])
    per_class = np.bincount(labels, minlength=len(classes))[1:].tolist()
    most = sorted(zip(classes[1:], per_class), key=lambda item: -item[1])[:5]
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
    return float(_overlaps(one, np.arange(len(one.found)), same_class).max(initial=0))
