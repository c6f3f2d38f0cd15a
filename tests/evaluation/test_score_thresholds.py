"""The best thresholds equal a search over all scores, with pycocotools' matches."""

import numpy as np
import pytest

from src.evaluation.score_thresholds import score_thresholds
from src.evaluation.scoring import Detections, Truth, match
from tests.helpers.scored_sets import pycocotools, random_set

NAMES, LEAST = ["a", "b", "c", "d"], 0.0


def judged(truth, found):
    """(rows (category, score, right) of the detections that count, objects of each category) by pycocotools."""
    run = pycocotools(truth, found, len(NAMES))
    rows, objects = [], [0] * len(NAMES)
    for one in run.evalImgs:
        if one is None or one["aRng"] != run.params.areaRng[0]:
            continue
        category = one["category_id"] - 1
        objects[category] += sum(not ignored for ignored in one["gtIgnore"])
        for score, matched, ignored in zip(one["dtScores"], one["dtMatches"][0], one["dtIgnore"][0]):
            if not ignored:
                rows.append((category, score, matched > 0))
    return rows, objects


def best_f1(rows, objects):
    return max(
        2 * sum(right for _, score, right in rows if score >= least) / (sum(s >= least for _, s, _ in rows) + objects)
        for least in {score for _, score, _ in rows}
    )


def at(rows, objects, threshold):
    shown = [right for _, score, right in rows if score > threshold]
    return sum(shown) / len(shown), sum(shown) / objects, 2 * sum(shown) / (len(shown) + objects)


@pytest.mark.parametrize("options", [{}, {"grid": False}, {"crowds": 0.6}, {"weak": 150}])
def test_equals_a_search(options):
    truth, found = random_set(5, **options)
    thresholds = score_thresholds(match(truth, found, len(NAMES)), NAMES, LEAST)
    rows, objects = judged(truth, found)
    assert set(thresholds["classes"]) == {"a", "b", "c"}  # d has no ground truth
    parts = [(thresholds["overall"], rows, sum(objects))]
    for index, name in enumerate(NAMES[:3]):
        parts.append((thresholds["classes"][name], [row for row in rows if row[0] == index], objects[index]))
    for got, part, number in parts:
        assert got["F1"] == pytest.approx(best_f1(part, number), abs=1e-12)
        want = at(part, number, got["threshold"])
        assert (got["precision"], got["recall"], got["F1"]) == pytest.approx(want, abs=1e-12)


def test_the_threshold_is_in_the_middle_and_nothing_right_has_none():
    box = np.array([[0.0, 0, 10, 10]])
    truth = Truth(np.zeros(1, int), np.zeros(1, int), box, np.array([100.0]), np.zeros(1, bool))
    boxes = np.concatenate([box, box + [50, 0, 0, 0]])
    found = Detections(np.zeros(2, int), np.zeros(2, int), boxes, np.array([0.9, 0.5]))
    assert score_thresholds(match(truth, found, 1), ["a"], 0.1)["overall"]["threshold"] == pytest.approx(0.7)
    alone = Detections(*(column[:1] for column in found))
    assert score_thresholds(match(truth, alone, 1), ["a"], 0.1)["overall"]["threshold"] == pytest.approx(0.5)
    wrong = Detections(*(column[1:] for column in found))
    assert score_thresholds(match(truth, wrong, 1), ["a"], 0.1) == {}
