"""Analysis beyond the 12 COCO metrics: confusion matrix, best and worst images, and causes of a mAP close to zero."""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

import numpy as np

from src.boxes.ops import area, intersection

MATCH_IOU = 0.5


class ImageResult(NamedTuple):
    """Ground truth and detections of an image; boxes are y1, x1, y2, x2 in pixels.

    truth, labels: boxes [M, 4] and classes [M] of the ground truth; found, found_labels, scores: boxes [D, 4], classes
    [D] and scores [D] of the detections, by descending score.
    """

    image_id: object
    truth: np.ndarray
    labels: np.ndarray
    found: np.ndarray
    found_labels: np.ndarray
    scores: np.ndarray


def without_ignored(result: ImageResult, crowds: np.ndarray, crowd_labels: np.ndarray) -> ImageResult:
    """The result without ignored detections, which the COCO metrics count neither as right nor as wrong: at least half
    of the detection lies in a crowd of its class, and it matches no ground truth of its class.

    Args:
        crowds: [K, 4] y1, x1, y2, x2 in pixels; crowd_labels: [K].
    """
    low = np.maximum(result.found[:, None, :2], crowds[None, :, :2])
    high = np.minimum(result.found[:, None, 2:], crowds[None, :, 2:])
    inter = np.maximum(high - low, 0).prod(axis=2)
    areas = (result.found[:, 2:] - result.found[:, :2]).prod(axis=1)
    inside = (inter >= MATCH_IOU * areas[:, None]) & (result.found_labels[:, None] == crowd_labels)
    keep = ~inside.any(axis=1)
    keep[[row for row, _ in match_detections(result, -np.inf, same_class=True)]] = True
    return result._replace(found=result.found[keep], found_labels=result.found_labels[keep], scores=result.scores[keep])


def match_detections(result: ImageResult, min_score: float, same_class: bool) -> list:
    """Pairs of indices (detection, ground truth) with an IoU of at least 0.5.

    Detections choose by descending score, each the unmatched ground truth of the highest IoU; with `same_class` only
    one of their class.
    """
    pairs = []
    rows = np.flatnonzero(result.scores >= min_score)
    overlap = _overlaps(result, rows, same_class)
    for index in np.flatnonzero((overlap >= MATCH_IOU).any(axis=1)):
        best = int(np.argmax(overlap[index]))
        if overlap[index, best] >= MATCH_IOU:
            overlap[:, best] = 0  # matched
            pairs.append((int(rows[index]), best))
    return pairs


def _overlaps(result: ImageResult, rows: np.ndarray, same_class: bool) -> np.ndarray:
    """IoU [R, M] of the detections `rows` with the ground truth; with `same_class` 0 where the classes differ."""
    found = result.found[rows]
    inter = intersection(result.truth, found.T[:, :, None])
    union = area(result.truth) + area(found)[:, None] - inter
    overlap = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return overlap * (result.found_labels[rows, None] == result.labels) if same_class else overlap


def confusion_matrix(images: Sequence[ImageResult], classes: int, min_score: float) -> np.ndarray:
    """int [C, C]: counts of true class (row) and predicted class (column). Class 0 is the background: column 0 counts
    missed objects, row 0 detections without an object."""
    table = np.zeros((classes, classes), np.int64)
    for result in images:
        pairs = np.array(match_detections(result, min_score, same_class=False), np.int64).reshape(-1, 2)
        predicted = np.zeros(len(result.truth), np.int64)
        predicted[pairs[:, 1]] = result.found_labels[pairs[:, 0]]
        np.add.at(table, (result.labels, predicted), 1)
        unmatched = result.scores >= min_score
        unmatched[pairs[:, 0]] = False
        np.add.at(table, (0, result.found_labels[unmatched]), 1)
    return table


def f1_score(result: ImageResult, min_score: float) -> float:
    """2 TP / (2 TP + FP + FN) of an image at IoU 0.5; 1 without ground truth and detections."""
    total = len(result.truth) + int((result.scores >= min_score).sum())
    return 2 * len(match_detections(result, min_score, same_class=True)) / total if total else 1.0


def best_and_worst(images: Sequence[ImageResult], min_score: float, count: int) -> tuple:
    """([(F1, result)] of the best images, the same of the worst): images with ground truth, by F1, then by number of
    boxes. No image is in both lists."""
    scored = [(f1_score(result, min_score), result) for result in images if len(result.truth)]
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
    """Why the mAP is close to zero, one line per finding, the most likely cause first.

    Args:
        unmapped: classes of the configuration that the annotation file lacks.
        highest: the highest score of any box, also below `min_score`.
        of_training: causes that follow from how the network was trained (`likely_causes`). They come first, unless the
            boxes are right and only the classes wrong.
    """
    found = sum(len(result.found) for result in images)
    lines = [f"highest score of any box: {highest:.4f}, min_score is {min_score:g}"]
    if highest <= min_score:
        lines.append(
            "no box is above min_score: the network is not trained yet, or its weights were not loaded; check the loss "
            "in the training's log_0.txt and 'parameters loaded' above; a smaller --min_score shows more boxes"
        )
    labels = np.concatenate([np.empty(0, np.int64), *(result.found_labels for result in images)])
    per_class = np.bincount(labels, minlength=len(classes))[1:].tolist()
    most = sorted(zip(classes[1:], per_class), key=lambda item: -item[1])[:5]
    lines.append(f"detections: {found} on {len(images)} images; most of " + ", ".join(f"{n} ({c})" for n, c in most))
    if unmapped:
        lines.append(f"classes that the annotation file lacks: {', '.join(unmapped)}; is their spelling the same?")
    any_class = [
        _best_overlap(result, same_class=False) for result in images if len(result.truth) and len(result.found)
    ]
    of_class = [_best_overlap(result, same_class=True) for result in images if len(result.truth) and len(result.found)]
    if any_class:
        any_class, of_class = float(np.mean(any_class)), float(np.mean(of_class))
        lines.append(f"best IoU of a detection, mean over images: {any_class:.2f}, of the right class {of_class:.2f}")
        if any_class < 0.3:
            lines.append(
                "boxes are misplaced: another img_shape or prior_scaling than in training, or x and y swapped?"
            )
        elif any_class - of_class > 0.3:
            lines.append("boxes are right, classes wrong: another order of `classes` than in training?")
            return [*lines, *of_training]
    return [*of_training, *lines]


def _best_overlap(result: ImageResult, same_class: bool) -> float:
    return float(_overlaps(result, np.arange(len(result.found)), same_class).max(initial=0))
