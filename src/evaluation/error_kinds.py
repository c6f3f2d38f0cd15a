"""Errors of a detector by kind, and what each kind costs in AP50: TIDE (Bolya et al. 2020, arXiv:2008.08115).

The definitions are in docs/reference.md, "Errors by kind". The values equal those of the package tidecv on sets whose
categories all have ground truth (`tests/evaluation/test_error_kinds.py`).
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Optional

import numpy as np

from src.evaluation.scoring import Detections, Truth, overlapping_pairs

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU
MOST = 100  # detections per image, of all categories together
RECALLS = np.arange(101) / 100  # tidecv's; ten of pycocotools' are larger by one bit
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, NO_OBJECT, MISSED = range(6)
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


class Errors(NamedTuple):
    """Detections by image and descending score, at most `MOST` per image: category, scores [D]; right [D]: matches an
    object; ignored [D]: lies in a crowd; kind [D]: of `KINDS`, -1 for one that is right; fixed [D]: the category under
    which fixing its kind makes it right, -1 where fixing removes it. truth_category [G] of the objects without crowds;
    unmatched, missed [G].
    """

    category: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    kind: np.ndarray
    fixed: np.ndarray
    truth_category: np.ndarray
    unmatched: np.ndarray
    missed: np.ndarray


def find_errors(truth: Truth, found: Detections) -> Errors:
    """The kind of error of every detection, and the objects that are missed."""
    order = np.lexsort((-found.scores, found.image))
    image = found.image[order]
    kept = np.arange(len(order)) - np.searchsorted(image, image) < MOST
    order, image = order[kept], image[kept]
    category, scores = found.category[order], found.scores[order]
    order_of_truth = np.argsort(truth.image, kind="stable")
    truth = Truth(*(column[order_of_truth] for column in truth))
    detection, other, overlap = overlapping_pairs(image, found.boxes[order], truth.image, truth, BACKGROUND)
    same = category[detection] == truth.category[other]
    inside_crowd = truth.crowd[other]
    ignored = np.zeros(len(order), bool)
    ignored[detection[inside_crowd & same & (overlap > FOREGROUND)]] = True
    detection, other, overlap, same = (column[~inside_crowd] for column in (detection, other, overlap, same))

    by_overlap = np.lexsort((other, -overlap, detection))  # of equal overlaps the first object
    detection, other, overlap, same = (column[by_overlap] for column in (detection, other, overlap, same))
    own, own_object = _highest(len(order), detection[same], other[same], overlap[same])
    different, different_object = _highest(len(order), detection[~same], other[~same], overlap[~same])
    near = same & (overlap >= FOREGROUND)
    right, matched = np.zeros(len(order), bool), np.zeros(len(truth.image), bool)
    for row, column in zip(detection[near].tolist(), other[near].tolist()):
        if not right[row] and not matched[column]:
            right[row] = matched[column] = True
    ignored &= ~right

    kind = np.full(len(order), BOTH)
    kind[np.maximum(own, different) <= BACKGROUND] = NO_OBJECT
    kind[own >= FOREGROUND] = DUPLICATE
    kind[different >= FOREGROUND] = CLASSIFICATION
    kind[(own >= BACKGROUND) & (own <= FOREGROUND)] = LOCALISATION
    kind[right] = -1
    # only the first detection of an object can be made right, and only if none matches it already
    target = np.where(kind == LOCALISATION, own_object, np.where(kind == CLASSIFICATION, different_object, -1))
    fixable = np.flatnonzero(target >= 0)
    fixable = fixable[~matched[target[fixable]]]
    objects, first = np.unique(target[fixable], return_index=True)
    fixed = np.full(len(order), -1)
    fixed[fixable[first]] = truth.category[objects]
    judged, missed = ~truth.crowd, ~matched
    missed[objects] = False
    return Errors(
        category, scores, right, ignored, kind, fixed, truth.category[judged], ~matched[judged], missed[judged]
    )


def _highest(count: int, detection: np.ndarray, other: np.ndarray, overlap: np.ndarray) -> tuple:
    """(IoU [count], object [count]) of the first pair of each detection; 0 and -1 where it has none."""
    rows, first = np.unique(detection, return_index=True)
    value, index = np.zeros(count), np.full(count, -1)
    value[rows], index[rows] = overlap[first], other[first]
    return value, index


def cost_of_errors(errors: Errors, categories: int) -> Dict[str, object]:
    """AP50 and how much it rises when all errors of a kind are fixed.

    Returns:
        {"AP50", "kinds": {name: {"count", "dAP50"}}, "false_positives": dAP50 without any false positive,
        "false_negatives": dAP50 if objects without a match did not count}. The mean is over the categories with ground
        truth.
    """
    positives = np.bincount(errors.truth_category, minlength=categories)
    with_truth = positives > 0
    positions = np.arange(len(errors.scores))
    by_score = np.argsort(-errors.scores, kind="stable")
    # of equal scores, what is wrong comes first once something is fixed, as in tidecv
    wrong_first = np.lexsort((positions, errors.right, -errors.scores))
    counted = errors.right | ~errors.ignored

    def mean_ap(order, category, right, shown, positives) -> float:
        order = order[shown[order]]
        return _mean_ap(category[order], right[order], positives, with_truth)

    def minus(objects: np.ndarray) -> np.ndarray:
        return positives - np.bincount(errors.truth_category[objects], minlength=categories)

    before = mean_ap(by_score, errors.category, errors.right, counted, positives)
    kinds = {}
    for number, name in enumerate(KINDS):
        if number == MISSED:
            after = mean_ap(wrong_first, errors.category, errors.right, counted, minus(errors.missed))
            count = errors.missed.sum()
        else:
            of_kind = errors.kind == number
            now_right = of_kind & (errors.fixed >= 0)
            category = np.where(now_right, errors.fixed, errors.category)
            after = mean_ap(
                wrong_first, category, errors.right | now_right, (counted & ~of_kind) | now_right, positives
            )
            count = of_kind.sum()
        kinds[name] = {"count": int(count), "dAP50": max(after - before, 0.0)}
    only_right = mean_ap(by_score, errors.category, errors.right, errors.right, positives)
    fewer = mean_ap(wrong_first, errors.category, errors.right, counted, minus(errors.unmatched))
    return {
        "AP50": before,
        "kinds": kinds,
        "false_positives": only_right - before,
        "false_negatives": fewer - before,
    }


def _mean_ap(category: np.ndarray, right: np.ndarray, positives: np.ndarray, with_truth: np.ndarray) -> float:
    """Mean AP of the categories with ground truth; without one that has neither detections nor objects left.

    Args:
        category, right: [D] by descending score; positives: number of objects [K]; with_truth: bool [K].
    """
    order = np.argsort(category.astype(np.uint16), kind="stable")
    ends = np.searchsorted(category[order], np.arange(len(positives) + 1))
    right, values = right[order], []
    for index in np.flatnonzero(with_truth):
        rows = right[ends[index] : ends[index + 1]]
        if positives[index]:
            values.append(_average_precision(rows, int(positives[index])))
        elif len(rows):
            values.append(0.0)
    return float(np.mean(values)) if values else 0.0


def _average_precision(right: np.ndarray, positives: int) -> float:
    """The mean precision at 101 recalls."""
    places = np.flatnonzero(right)
    precision = np.zeros(positives)
    precision[: len(places)] = np.arange(1, len(places) + 1) / (places + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    needed = np.searchsorted(np.arange(positives + 1) / positives, RECALLS, side="left")
    return float(precision[np.maximum(needed, 1) - 1].mean())


MEANINGS = {
    "classification": "the box fits an object of another class",
    "localisation": "the right class, an IoU between 0.1 and 0.5",
    "both": "the wrong class, an IoU between 0.1 and 0.5",
    "duplicate": "fits an object that a detection with a higher score matches",
    "background": "no object with an IoU above 0.1",
    "missed": "objects without a detection, not even one of a wrong class or with a box that is off",
}
ADVICE = {
    "classification": "Boxes are right and classes wrong: the confusion matrix shows which classes are mixed up; check "
    "their labels, and add pictures of these classes",
    "localisation": "Classes are right and boxes off: train longer, with a larger img_shape or with box_loss giou; see "
    "whether the default boxes fit (check_data.py --suggest) and whether the annotated boxes are tight",
    "both": "Classes and boxes are off: usually too few pictures or too short a training; start from weights that were "
    "trained on more pictures",
    "duplicate": "Several boxes on one object: try a smaller nms_threshold, or nms soft",
    "background": "Boxes where nothing is annotated: look at the worst images for objects that lack an annotation; "
    "otherwise train longer, or add pictures of such background",
    "missed": "Objects without any box: AR small, medium and large say which sizes; a larger img_shape helps small "
    "ones, more pictures help classes with a low AR100, and a smaller min_score shows weak detections",
}
"""What usually helps against each kind."""


def error_report(truth: Truth, found: Detections, categories: int) -> Optional[dict]:
    """`cost_of_errors` with the largest kind and what usually helps; None without detections or objects."""
    if not len(found.scores) or truth.crowd.all():
        return None
    report = cost_of_errors(find_errors(truth, found), categories)
    largest = max(KINDS, key=lambda name: report["kinds"][name]["dAP50"])
    if report["kinds"][largest]["dAP50"] > 0:
        report.update(largest=largest, advice=ADVICE[largest])
    return dict(report, iou_foreground=FOREGROUND, iou_background=BACKGROUND, max_detections=MOST)
