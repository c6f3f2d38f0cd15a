"""Sparse targets, scattered on the device, equal those of `encode_targets`."""

import numpy as np
import pytest

from src.boxes.default_boxes import default_boxes
from src.boxes.matcher import Matcher
from src.data.targets import MIN_ROWS, ScatterTargets, batch_to_device, pack_matches
from src.data.transforms import encode_matches, encode_targets


def random_gt(rng, count):
    size = rng.uniform(0.05, 0.6, (count, 2))
    low = rng.uniform(0, 1 - size)
    return np.concatenate([low, low + size, rng.integers(1, 81, (count, 1))], 1).astype(np.float32)


@pytest.mark.parametrize("counts", [(3, 0, 7), (0, 0), (1,), (300, 2)])
def test_dense_again(cfg256, counts):
    defaults, rng = default_boxes((256, 256)), np.random.default_rng(4)
    boxes = [random_gt(rng, count) for count in counts]
    matches = encode_matches(boxes, Matcher(*defaults, 0.5), (0.1, 0.2))
    images = rng.integers(0, 255, (len(counts), 4, 4, 3)).astype(np.uint8)
    ids = np.arange(len(counts), dtype=np.int32)[:, None]
    got = [part.asnumpy() for part in batch_to_device(ScatterTargets(len(defaults[0])), images, matches, ids)]
    np.testing.assert_array_equal(got[0], images)
    np.testing.assert_array_equal(got[4], ids)
    for row, gt in enumerate(boxes):
        loc, label, num_match = encode_targets(gt, *defaults, 0.5, (0.1, 0.2))
        np.testing.assert_array_equal(got[1][row], loc)
        np.testing.assert_array_equal(got[2][row], label)
        assert got[3][row].tolist() == [num_match]
    assert got[1].dtype == np.float32 and got[2].dtype == np.int32


def test_few_bytes_and_as_many_rows_as_needed():
    defaults = default_boxes((640, 640))
    (few,) = encode_matches([random_gt(np.random.default_rng(1), 8)], Matcher(*defaults, 0.5), (0.1, 0.2))
    parts = pack_matches([few])
    assert 640 * 640 * 3 + sum(part.nbytes for part in parts) < 1.3e6 and parts[0].shape == (1, MIN_ROWS, 2)
    many = tuple(np.resize(part, (5 * MIN_ROWS, *part.shape[1:])) for part in few)
    place, loc, label = pack_matches([few, many])
    assert place.shape == (2, 8 * MIN_ROWS, 2)
    assert (place[1, : 5 * MIN_ROWS, 1] == many[0]).all() and not loc[1, 5 * MIN_ROWS :].any()
    assert (label[0, len(few[0]) :] == 0).all() and (loc[0, : len(few[0])] == few[1]).all()
