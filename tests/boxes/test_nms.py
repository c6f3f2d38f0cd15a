import numpy as np
import pytest

from src.boxes.nms import nms
from tests.oracles import nms as oracle_nms


@pytest.mark.parametrize("number", range(8))
def test_published_choices(reference, number):
    published = reference("nms.npz")
    kept = nms(
        published[f"boxes{number}"],
        published[f"scores{number}"],
        float(published[f"thres{number}"]),
        int(published[f"max{number}"]),
    )
    np.testing.assert_array_equal(kept, published[f"keep{number}"])


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 700))
    corner = rng.uniform(0, 300, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 120, (count, 2))], 1)
    scores = np.round(rng.uniform(0, 1, count), 2).astype(np.float32)  # many equal scores
    most = int(rng.integers(1, 150))
    assert nms(boxes, scores, 0.6, most).tolist() == oracle_nms(boxes, scores.tolist(), 0.6, most)


def test_equal_scores_keep_the_lower_index_and_nothing_gives_nothing():
    box = np.array([[0, 0, 10, 10]] * 3, float)
    assert nms(box, np.array([0.5, 0.5, 0.5]), 0.6, 10).tolist() == [0]
    assert nms(np.zeros((0, 4)), np.zeros(0), 0.6, 10).tolist() == []


def test_three_boxes_by_hand():
    # Three boxes of 10 x 10 pixels, each moved to the right; corners belong to the box, so that a width is x2 - x1 + 1:
    #
    #   box  y1, x1, y2, x2  score   IoU with A             IoU with B
    #   A     0,  0,  9,  9   0.9
    #   B     0,  2,  9, 11   0.8    80 / 120 = 0.667
    #   C     0,  4,  9, 13   0.7    60 / 140 = 0.429       80 / 120 = 0.667
    #
    # Above 0.6, A suppresses B. B, which is suppressed, suppresses nothing, so that C stays.
    boxes, scores = np.array([[0, 4, 9, 13], [0, 0, 9, 9], [0, 2, 9, 11]], float), np.array([0.7, 0.9, 0.8])
    assert nms(boxes, scores, 0.6, 10).tolist() == [1, 0]  # A, C: by descending score
    assert nms(boxes, scores, 0.4, 10).tolist() == [1]  # A suppresses C too
    assert nms(boxes, scores, 0.7, 10).tolist() == [1, 2, 0]
    assert nms(boxes, scores, 0.7, 2).tolist() == [1, 2]


def test_pixels_are_counted_with_plus_one():
    # areas 2 x 2 = 4, intersection 1 x 2 = 2: IoU 2 / 6 with the +1, 0 without
    boxes = np.array([[0, 0, 1, 1], [0, 1, 1, 2]], float)
    assert nms(boxes, np.array([0.9, 0.8]), 0.3, 10).tolist() == [0]
    assert nms(boxes, np.array([0.9, 0.8]), 0.34, 10).tolist() == [0, 1]


@pytest.mark.parametrize("scores", ["different", "equal", "few values"])
@pytest.mark.parametrize("most", [3, 100])
def test_many_boxes_on_few_objects_equal_the_slow_loop(scores, most):
    # few boxes are kept, so that every sorted group and every block is used
    rng = np.random.default_rng(5)
    count = 4000
    corner = rng.uniform(0, 400, (12, 2))[rng.integers(0, 12, count)] + rng.normal(0, 3, (count, 2))
    boxes = np.concatenate([corner, corner + 90 + rng.normal(0, 3, (count, 2))], 1)
    values = {"different": rng.uniform(0, 1, count), "equal": np.full(count, 0.5)}.get(scores)
    values = np.round(rng.uniform(0, 1, count), 1) if values is None else values
    kept = nms(boxes, values.astype(np.float32), 0.6, most)
    assert kept.tolist() == oracle_nms(boxes.tolist(), values.astype(np.float32).tolist(), 0.6, most)


def test_scattered_boxes_beyond_the_first_group_equal_the_slow_loop():
    rng = np.random.default_rng(6)
    corner = rng.uniform(0, 3000, (3000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 60, (3000, 2))], 1)
    scores = rng.uniform(0, 1, 3000)
    assert nms(boxes, scores, 0.2, 700).tolist() == oracle_nms(boxes.tolist(), scores.tolist(), 0.2, 700)


def test_nothing_asked_for_and_scores_that_are_no_numbers():
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [90, 90, 99, 99]], float)
    assert nms(boxes, np.array([0.5, 0.6, 0.7]), 0.6, 0).tolist() == []
    assert nms(boxes, np.array([0.5, np.nan, 0.7]), 0.6, 10).tolist() == [2, 0]
    with pytest.raises(ValueError, match="3 boxes but 2 scores"):
        nms(boxes, np.array([0.5, 0.6]), 0.6, 10)


def test_input_is_left_alone():
    boxes, scores = np.array([[0, 0, 10, 10], [1, 1, 11, 11]], float), np.array([0.5, 0.6])
    before = boxes.copy(), scores.copy()
    nms(boxes, scores, 0.1, 10)
    np.testing.assert_array_equal(boxes, before[0])
    np.testing.assert_array_equal(scores, before[1])
