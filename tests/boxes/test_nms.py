import numpy as np
import pytest

from src.boxes.nms import nms
from tests.oracles import nms as oracle_nms


@pytest.mark.parametrize("number", range(8))
def test_published_choices(reference, number):
    figures = reference("nms.npz")
    kept = nms(
        figures[f"boxes{number}"],
        figures[f"scores{number}"],
        float(figures[f"thres{number}"]),
        int(figures[f"max{number}"]),
    )
    np.testing.assert_array_equal(kept, figures[f"keep{number}"])


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


def test_pixels_are_counted_with_plus_one():
    # areas 2 x 2 = 4, intersection 1 x 2 = 2: IoU 2 / 6 with the +1, 0 without
    boxes = np.array([[0, 0, 1, 1], [0, 1, 1, 2]], float)
    assert nms(boxes, np.array([0.9, 0.8]), 0.3, 10).tolist() == [0]
    assert nms(boxes, np.array([0.9, 0.8]), 0.34, 10).tolist() == [0, 1]
