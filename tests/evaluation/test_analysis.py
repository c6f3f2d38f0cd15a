"""Confusion matrix, best and worst images and diagnosis, computed by hand."""

import numpy as np
import pytest

from src.evaluation.analysis import (
    ImageResult,
    best_and_worst,
    confusion_matrix,
    diagnosis,
    f1_score,
    match_detections,
    without_ignored,
)
from tests.helpers.results import AWAY, CLASSES, LEFT, RIGHT, image


def test_pairs_by_hand():
    # the highest score matches LEFT; the second cannot match it again; [0, 0, 10, 4] has an IoU of only 0.4
    one = image(
        1, [(LEFT, 1), (RIGHT, 2)], [(LEFT, 2, 0.9), ([0, 0, 10, 9], 1, 0.8), (RIGHT, 2, 0.3), ([0, 0, 10, 4], 1, 0.2)]
    )
    assert match_detections(one, 0.0, same_class=False) == [(0, 0), (2, 1)]
    assert match_detections(one, 0.0, same_class=True) == [(1, 0), (2, 1)]
    assert match_detections(one, 0.5, same_class=True) == [(1, 0)]


def test_confusion_by_hand():
    images = [
        image(1, [(LEFT, 1), (RIGHT, 2)], [(LEFT, 2, 0.9), (RIGHT, 2, 0.8), (AWAY, 1, 0.7)]),
        image(2, [(LEFT, 1)], [(LEFT, 1, 0.4)]),
        image(3, [(AWAY, 2)], []),
        image(4, [], [(LEFT, 2, 0.95)]),
    ]
    # cat: once found as dog, once not found (0.4 is below 0.5); dog: once right, once not found
    assert confusion_matrix(images, 3, 0.5).tolist() == [[0, 1, 1], [1, 0, 1], [1, 0, 1]]


def test_best_and_worst():
    images = [
        image("all", [(LEFT, 1), (RIGHT, 2)], [(LEFT, 1, 0.9), (RIGHT, 2, 0.8)]),
        image("half", [(LEFT, 1), (RIGHT, 2)], [(LEFT, 1, 0.9)]),
        image("nothing", [(LEFT, 1)], []),
        image("empty", [], []),
    ]
    assert [round(f1_score(one, 0.5), 3) for one in images] == [1.0, 0.667, 0.0, 1.0]
    best, worst = best_and_worst(images, 0.5, 2)
    assert [one.image_id for _, one in best] == ["all", "half"] and [one.image_id for _, one in worst] == ["nothing"]


def text(*arguments):
    return " ".join(diagnosis(*arguments))


def test_diagnosis_of_each_kind():
    nothing = [image(1, [(LEFT, 1)], [])]
    assert "not trained yet, or its weights were not loaded" in text(nothing, CLASSES, [], 0.03, 0.1)
    swapped = [image(k, [(LEFT, 1), (RIGHT, 2)], [(LEFT, 2, 0.9), (RIGHT, 1, 0.8)]) for k in range(3)]
    assert "another order of `classes`" in text(swapped, CLASSES, [], 0.9, 0.1)
    assert "6 on 3 images; most of cat (3), dog (3)" in text(swapped, CLASSES, [], 0.9, 0.1)
    elsewhere = [image(1, [(LEFT, 1)], [(AWAY, 1, 0.9)])]
    assert "boxes are misplaced" in text(elsewhere, CLASSES, [], 0.9, 0.1)
    assert "lacks: dog; is their spelling the same" in text(elsewhere, CLASSES, ["dog"], 0.9, 0.1)


def overlap(one, two):
    inter = max(0, min(one[2], two[2]) - max(one[0], two[0])) * max(0, min(one[3], two[3]) - max(one[1], two[1]))
    union = (one[2] - one[0]) * (one[3] - one[1]) + (two[2] - two[0]) * (two[3] - two[1]) - inter
    return inter / union if union > 0 else 0.0


def slow_pairs(one, min_score, same_class):
    """A slow loop over detections and ground truth."""
    pairs, free = [], set(range(len(one.truth)))
    for row in range(len(one.found)):
        best = None
        for k in sorted(free):
            value = overlap(one.truth[k], one.found[row])
            if one.scores[row] >= min_score and value >= 0.5 and (best is None or value > best[0]):
                if not same_class or one.labels[k] == one.found_labels[row]:
                    best = (value, k)
        if best:
            free.remove(best[1])
            pairs.append((row, best[1]))
    return pairs


def crowded(seed, images=9):
    """Boxes on a coarse grid, some without area, scores with ties, images without objects or detections."""
    rng = np.random.default_rng(seed)

    def boxes(n):
        return np.hstack([np.zeros((n, 2)), rng.integers(0, 14, (n, 2))]) + rng.integers(0, 5, (n, 1))

    result = []
    for image_id in range(images):
        given, found = rng.integers(0, 6), rng.integers(0, 25)
        scores = np.sort(np.round(rng.uniform(0, 1, found), 1))[::-1]
        labels = rng.integers(1, 3, given), rng.integers(1, 3, found)
        result.append(ImageResult(image_id, boxes(given), labels[0], boxes(found), labels[1], scores))
    return result


@pytest.mark.parametrize("seed", range(5))
def test_pairs_equal_slow_loops(seed):
    images = crowded(seed)
    for one in images:
        for least in (0.0, 0.5):
            for same_class in (False, True):
                assert match_detections(one, least, same_class) == slow_pairs(one, least, same_class)


def test_detections_in_a_crowd_count_for_nothing():
    """A detection half inside a crowd of its class is removed, unless it matches a ground truth."""
    one = ImageResult(
        7,
        np.array([[0, 0, 10, 10]], float),
        np.array([1]),
        np.array([[0, 0, 10, 10], [20, 20, 30, 30], [20, 20, 30, 30], [20, 36, 30, 46], [20, 34, 30, 44]], float),
        np.array([1, 1, 2, 1, 1]),
        np.array([0.9, 0.8, 0.7, 0.6, 0.5]),
    )
    crowds = np.array([[0, 0, 40, 40]], float)  # the last two are inside by 0.4 and 0.6 of their area
    kept = without_ignored(one, crowds, np.array([1]))
    assert kept.scores.tolist() == [0.9, 0.7, 0.6] and kept.found_labels.tolist() == [1, 2, 1]
    assert kept.truth.tolist() == one.truth.tolist()
