"""Metrics of resamples equal pycocotools' on the resampled set; intervals are those of a known distribution."""

import json

import numpy as np
import pytest

from src.evaluation.bootstrap import draw_weights, interval, resampled_metrics
from src.evaluation.coco_evaluator import CocoEvaluator
from src.evaluation.scoring import Detections, Truth, accumulate, coco_metrics, match
from tests.helpers.scored_sets import IMAGES, pycocotools, random_set, resampled, without_ties_in_an_image


@pytest.mark.parametrize(
    "options", [{}, {"grid": False}, {"crowds": 0.6}, {"weak": 260}, {"most": 40, "categories": 2}]
)
def test_resamples_are_pycocotools_on_the_resampled_set(options):
    categories = options.get("categories", 4)
    truth, found = random_set(7, **options)
    found = without_ties_in_an_image(found)
    weights = draw_weights(IMAGES, 5, seed=3)
    samples = resampled_metrics(match(truth, found, categories), weights)
    for number, row in enumerate(weights):
        expected = pycocotools(resampled(truth, row), resampled(found, row), categories)
        precision = expected.eval["precision"][:, :, :, 0, 2]
        assert samples.map[number] == pytest.approx(expected.stats[0], abs=1e-12)
        assert samples.map50[number] == pytest.approx(expected.stats[1], abs=1e-12)
        for category in range(categories):
            values = precision[:, :, category]
            if values.max() < 0:
                assert np.isnan(samples.category[number, category])
            else:
                assert samples.category[number, category] == pytest.approx(values.mean(), abs=1e-12)
                assert samples.category50[number, category] == pytest.approx(values[0].mean(), abs=1e-12)


def test_each_image_once_is_the_set_itself():
    truth, found = random_set(2)
    matching = match(truth, found, 4)
    samples = resampled_metrics(matching, np.ones((3, IMAGES), np.uint8))
    want = coco_metrics(accumulate(matching))
    np.testing.assert_allclose(samples.map, want[0], atol=1e-12)
    np.testing.assert_allclose(samples.map50, want[1], atol=1e-12)


def test_blocks_change_nothing(monkeypatch):
    truth, found = random_set(4)
    matching, weights = match(truth, found, 4), draw_weights(IMAGES, 40)
    one = resampled_metrics(matching, weights)
    monkeypatch.setattr("src.evaluation.bootstrap._AT_ONCE", 1)
    for first, second in zip(one, resampled_metrics(matching, weights)):
        np.testing.assert_allclose(first, second, rtol=1e-14)


def test_interval_of_a_share():
    """One object per image, found in 60 of 100 images and nothing else: AP50 is close to the share that is found. Its
    interval is that of a binomial distribution: 0.6 +- 1.96 * sqrt(0.6 * 0.4 / 100)."""
    images, box = 100, np.array([[10.0, 10, 50, 50]])
    truth = Truth(
        np.arange(images),
        np.zeros(images, int),
        box.repeat(images, 0),
        np.full(images, 2500.0),
        np.zeros(images, bool),
    )
    hits = np.arange(60)
    found = Detections(hits, np.zeros(60, int), box.repeat(60, 0), np.linspace(0.9, 0.5, 60))
    samples = resampled_metrics(match(truth, found, 1), draw_weights(images))
    low, high = interval(samples.map50)
    assert low == pytest.approx(0.6 - 0.096, abs=0.02) and high == pytest.approx(0.6 + 0.096, abs=0.02)


def test_weights_are_seeded_draws_with_replacement():
    weights = draw_weights(50, 200)
    assert (weights.sum(1) == 50).all() and weights.max() > 2
    np.testing.assert_array_equal(weights, draw_weights(50, 200))
    assert abs((weights == 0).mean() - np.exp(-1)) < 0.02
    assert interval(np.array([np.nan])) is None


def test_the_evaluator_gives_intervals(tmp_path):
    content = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": 100, "width": 100} for k in range(6)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": k + 1, "image_id": k, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
            for k in range(6)
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    evaluator = CocoEvaluator(str(path), ["background", "cat", "dog"])
    assert evaluator.summarize() and evaluator.intervals() == {}
    for k in range(6):
        shift = 0 if k % 2 else 8
        evaluator.add(k, np.array([[10.0, 10 + shift, 30, 30 + shift]]), np.array([0.9 - k / 10]), np.array([1]))
    result, intervals = evaluator.summarize(), evaluator.intervals()
    assert (intervals["level"], intervals["resamples"], intervals["seed"]) == (0.95, 1000, 1)
    assert set(intervals["classes"]) == {"cat"}  # no ground truth of dog
    low, high = intervals["mAP"]
    assert low < result["mAP"] < high and intervals["classes"]["cat"]["AP"] == intervals["mAP"]
    json.dumps(intervals)
