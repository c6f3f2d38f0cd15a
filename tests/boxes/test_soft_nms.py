"""Soft-NMS against a slow loop, and by hand."""

import math

import numpy as np
import pytest

from src.boxes.postprocess import postprocess
from src.boxes.soft_nms import BLOCK, soft_nms
from tests.oracles import soft_nms as oracle


def assert_equals_the_loop(boxes, scores, least, most):
    taken, lowered = soft_nms(boxes, scores, least, most)
    wanted = oracle(boxes.tolist(), scores.tolist(), least, most)
    assert taken.dtype == np.int64 and lowered.dtype == np.float64
    assert taken.tolist() == [index for index, _ in wanted]
    np.testing.assert_allclose(lowered, [score for _, score in wanted], rtol=1e-12)
    return taken


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 300))
    corner = rng.uniform(0, 200, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 120, (count, 2))], 1)
    boxes[count // 2 :] = boxes[: count - count // 2]  # pairs of equal boxes
    scores = np.round(rng.uniform(0, 1, count), 1).astype(np.float32)  # many equal scores
    assert_equals_the_loop(boxes, scores, float(rng.choice([0, 0.05, 0.3])), int(rng.integers(1, 150)))


@pytest.mark.parametrize("objects, least", [(3, 0.01), (60, 0.2), (2000, 0.0)])
def test_boxes_beyond_the_first_block_equal_the_slow_loop(objects, least):
    """A score beyond the block is the highest after the boxes before it were lowered."""
    rng = np.random.default_rng(objects)
    count = 5 * BLOCK
    corner = rng.uniform(0, 400, (objects, 2))[rng.integers(0, objects, count)] + rng.normal(0, 2, (count, 2))
    boxes = np.concatenate([corner, corner + 60 + rng.normal(0, 3, (count, 2))], 1)
    scores = np.round(rng.uniform(0.4, 0.6, count), 2).astype(np.float32)
    taken = assert_equals_the_loop(boxes, scores, least, 100)
    ranks = np.argsort(np.argsort(-scores, kind="stable"))
    assert (ranks[taken] >= BLOCK).any()


def test_two_boxes_by_hand():
    # areas 100 and 100, intersection 50 with + 1: IoU 1 / 3, the second score times exp(-(1 / 9) / 0.5) = 0.800737
    boxes, scores = np.array([[0, 5, 9, 14], [0, 0, 9, 9]], float), np.array([0.8, 0.9])
    taken, lowered = soft_nms(boxes, scores, 0.1, 10)
    assert taken.tolist() == [1, 0] and lowered[0] == 0.9
    assert lowered[1] == pytest.approx(0.8 * math.exp(-2 / 9), rel=1e-14) == pytest.approx(0.64059, abs=1e-5)
    assert soft_nms(boxes, scores, 0.65, 10)[0].tolist() == [1]  # lowered below the minimum
    assert soft_nms(boxes, scores, 0.1, 1)[0].tolist() == [1]
    assert soft_nms(boxes, scores, 0.9, 10)[0].tolist() == []  # above, not equal


def test_nothing_nan_and_reversed_corners():
    for most in (0, 10):
        taken, lowered = soft_nms(np.zeros((0, 4)), np.zeros(0), 0.1, most)
        assert len(taken) == len(lowered) == 0
    box = np.array([[0, 0, 9, 9]] * 3, float)
    assert soft_nms(box, np.array([np.nan, 0.5, np.nan]), 0.1, 10)[0].tolist() == [1]
    reversed_corners = np.array([[0, 0, 9, 9], [5, 5, 4, 4], [8, 8, 2, 2]], float)
    taken, lowered = soft_nms(reversed_corners, np.array([0.5, 0.4, 0.3]), 0.1, 10)
    assert taken.tolist() == [0, 1, 2] and lowered.tolist() == [0.5, 0.4, 0.3]
    with pytest.raises(ValueError, match="3 boxes but 2 scores"):
        soft_nms(box, np.zeros(2), 0.1, 10)


def test_post_processing_lowers_scores_class_by_class():
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 0.4, (80, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.5, (80, 2))], 1).astype(np.float32)
    scores = rng.uniform(0, 0.5, (80, 4)).astype(np.float32)
    before, least = scores.copy(), 0.2
    found_boxes, found_scores, found_labels = postprocess(boxes, scores, (90, 120), least, 0.6, 9, soft=True)
    assert found_scores.dtype == np.float32 and (scores == before).all()
    wanted = []
    for label in (1, 2, 3):
        (candidates,) = np.nonzero(scores[:, label] > least)
        pixels = boxes[candidates] * np.array([90, 120, 90, 120], np.float64)
        taken = oracle(pixels.tolist(), scores[candidates, label].tolist(), least, 9)
        wanted += [(label, score, *pixels[index]) for index, score in taken]
    np.testing.assert_allclose(np.column_stack([found_labels, found_scores, found_boxes]), wanted, rtol=1e-6)
    assert len(wanted) > 15 and found_scores.max() < 0.5
