"""The score to show detections from: the threshold with the best F1 at IoU 0.5, over all classes and for each class."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import numpy as np

from src.evaluation.scoring import Matching


def score_thresholds(matching: Matching, names: Sequence[str], least: float) -> dict:
    """The best thresholds; docs/reference.md, "Score thresholds".

    Args:
        names: class of each category.
        least: the score that all detections are above.

    Returns:
        {"overall": row, "classes": {name: row}} with rows {"threshold", "F1", "precision", "recall"}; without the
        classes of which no object is found, {} if there are none.
    """
    right, counted = judged(matching)
    positives = np.bincount(matching.truth_category[~matching.truth_ignored[0]], minlength=matching.categories)
    order = np.argsort(-matching.scores, kind="stable")
    overall = _best(matching.scores[order], right[order], counted[order], int(positives.sum()), least)
    if overall is None:
        return {}
    classes, begins = {}, np.searchsorted(matching.category, np.arange(matching.categories + 1))
    for index, name in enumerate(names):
        rows = slice(begins[index], begins[index + 1])
        best = _best(matching.scores[rows], right[rows], counted[rows], int(positives[index]), least)
        if best is not None:
            classes[name] = best
    return {"overall": overall, "classes": classes}


def judged(matching: Matching) -> Tuple[np.ndarray, np.ndarray]:
    """bool [D], bool [D]: the detections that are right at IoU 0.5, and those that count: others match a crowd."""
    right, counted = np.zeros(len(matching.scores), bool), np.ones(len(matching.scores), bool)
    right[matching.candidates] = matching.counts[0, 0]
    counted[matching.candidates] = matching.counts[0, 0] | ~matching.matched[0, 0]
    return right, counted


def _best(scores: np.ndarray, right: np.ndarray, counted: np.ndarray, positives: int, least: float) -> Optional[dict]:
    """The row of detections by descending score; None if none of them is right.

    The threshold lies in the middle between the lowest score that is shown and the next one.
    """
    if not right.any():
        return None
    true, shown = np.cumsum(right), np.cumsum(counted)
    ends = np.flatnonzero(np.r_[scores[1:] < scores[:-1], True])  # equal scores are shown together
    f1 = 2 * true[ends] / (shown[ends] + positives)
    best = ends[np.argmax(f1)]
    following = scores[best + 1] if best + 1 < len(scores) else min(least, scores[best])
    return {
        "threshold": float((scores[best] + following) / 2),
        "F1": float(f1.max()),
        "precision": float(true[best] / shown[best]),
        "recall": float(true[best] / positives),
    }
