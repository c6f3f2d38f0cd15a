"""The matcher compares few boxes; the result must equal that of a comparison with all boxes."""

import numpy as np
import pytest

from src.boxes.candidates import find_grids
from src.boxes.default_boxes import default_boxes, ssd300_default_boxes
from src.boxes.matcher import Matcher
from src.boxes.ops import iou


def match_all(gt, defaults, threshold):
    """docs/reference.md, "Matching", implemented literally over all default boxes: {default box: ground truth}."""
    best_score, owner = np.zeros(len(defaults), np.float32), {}
    for row, box in enumerate(gt):
        score = iou(defaults, box)
        score[np.argmax(score)] = 2.0
        for index in np.flatnonzero((score > threshold) & (score > best_score)):
            owner[int(index)] = row
        best_score = np.maximum(best_score, score)
    return owner


# Worked example, in eighths of the image, rows [y1, x1, y2, x2]; every area is 16, that of G0 20:
#
#   D0 [0, 0, 4, 4]    D1 [0, 1, 4, 5]    D2 [4, 4, 8, 8]    G0 [0, 0, 4, 5]    G1 [3, 3, 7, 7]
#
#   IoU                  D0                     D1                     D2
#   G0        16 / 20 = 0.8          16 / 20 = 0.8         0 / 36 = 0
#   G1         1 / 31 = 0.032         2 / 30 = 0.067       9 / 23 = 0.391
#
# G0 forces D0, the first of its two best; D1 also matches G0 if 0.8 is above the threshold. G1 is nowhere above the
# threshold and forces its best box, D2.
DEFAULTS = np.array([[0, 0, 4, 4], [0, 1, 4, 5], [4, 4, 8, 8]], np.float32) / 8
DEFAULTS_CYXHW = np.array([[2, 2, 4, 4], [2, 3, 4, 4], [6, 6, 4, 4]], np.float32) / 8
GROUND_TRUTHS = np.array([[0, 0, 4, 5], [3, 3, 7, 7]], np.float32) / 8


def test_iou_by_hand():
    expected = [[16 / 20, 16 / 20, 0], [1 / 31, 2 / 30, 9 / 23]]
    np.testing.assert_allclose([iou(DEFAULTS, gt) for gt in GROUND_TRUTHS], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "threshold, matches", [(0.5, {0: 0, 1: 0, 2: 1}), (0.85, {0: 0, 2: 1}), (0.05, {0: 0, 1: 0, 2: 1})]
)
def test_matching_by_hand(threshold, matches):
    """{default box: ground truth}; at 0.05 D1 stays with G0, because 0.067 is not above 0.8."""
    boxes, rows = Matcher(DEFAULTS_CYXHW, DEFAULTS, threshold)(GROUND_TRUTHS)
    assert dict(zip(boxes.tolist(), rows.tolist())) == matches


def test_a_forced_match_wins_over_a_higher_iou():
    # G2 [0, 2, 4, 5], area 12: 8 / 20 = 0.4 with D0, 12 / 16 = 0.75 with D1. It forces D1, which has 0.8 with G0.
    gt = np.array([[0, 0, 4, 5], [0, 2, 4, 5]], np.float32) / 8
    boxes, rows = Matcher(DEFAULTS_CYXHW, DEFAULTS, 0.5)(gt)
    assert dict(zip(boxes.tolist(), rows.tolist())) == {0: 0, 1: 1}


def random_boxes(rng, count, shape, kind):
    """[M, 4]: of any size; with integer corners; of few pixels; long and thin; beyond the image; the same again."""
    low = {"tiny": 0.002, "thin": 0.004}.get(kind, 0.01)
    size = np.exp(rng.uniform(np.log(low), np.log(0.02 if kind == "tiny" else 0.95), (count, 2)))
    if kind == "thin":
        size[:, 0] = 0.006
    centre = rng.uniform(-0.2, 1.2, (count, 2)) if kind == "beyond" else rng.uniform(0, 1, (count, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], 1)
    if kind != "beyond":
        boxes = np.clip(boxes, 0, 1)
    if kind == "pixels":
        sides = np.array([*shape, *shape])
        boxes = np.round(boxes * sides) / sides
    if kind == "again":
        boxes = boxes[rng.integers(0, count, count)]
    return boxes.astype(np.float32)


KINDS = ("any", "pixels", "tiny", "thin", "beyond", "again")
LAYOUTS = {
    "640": lambda: default_boxes((640, 640)),
    "128": lambda: default_boxes((128, 128)),
    "384x256": lambda: default_boxes((384, 256)),
    "strides": lambda: default_boxes((240, 480), (4, 10, 24), base_scale=3.0, aspect_ratios=(1.0, 3.0, 0.3)),
    "320": lambda: default_boxes((320, 320)),
    "ssd300": lambda: ssd300_default_boxes(
        (300, 300),
        [38, 19, 10, 5, 3, 1],
        [8, 16, 32, 64, 100, 300],
        [3, 6, 6, 6, 4, 4],
        [[], [2, 3], [2, 3], [2, 3], [2], [2]],
        0.2,
        0.95,
    ),
}
SHAPES = {"640": (640, 640), "384x256": (384, 256)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_chooses_as_a_comparison_with_all(layout, kind):
    cyxhw, yxyx = LAYOUTS[layout]()
    rng = np.random.default_rng([KINDS.index(kind), sorted(LAYOUTS).index(layout)])
    for threshold in (0.5, 0.35, 0.7):
        matcher = Matcher(cyxhw, yxyx, threshold)
        for _ in range(12 if layout == "640" else 40):
            gt = random_boxes(rng, int(rng.integers(1, 20)), SHAPES.get(layout, (300, 300)), kind)
            boxes, rows = matcher(gt)
            assert (np.diff(boxes) > 0).all()
            assert dict(zip(boxes.tolist(), rows.tolist())) == match_all(gt, yxyx, threshold)


def test_exhaustive_matching_chooses_the_same():
    """The look-up switched off: equal arrays, in equal order, of a batch of several images."""
    cyxhw, yxyx = default_boxes((256, 256))
    rng, image = np.random.default_rng(9), np.repeat(np.arange(5), 8)
    fast, exhaustive = Matcher(cyxhw, yxyx, 0.5), Matcher(cyxhw, yxyx, 0.5, exhaustive=True)
    for kind in KINDS:
        gt = random_boxes(rng, 40, (256, 256), kind)
        for got, want in zip(fast(gt, image), exhaustive(gt, image)):
            np.testing.assert_array_equal(got, want)
    assert len(fast._candidates(gt)[0]) < len(gt) * len(yxyx)


def test_images_of_a_batch_do_not_compete():
    cyxhw, yxyx = default_boxes((128, 128))
    rng = np.random.default_rng(8)
    images = [random_boxes(rng, count, (300, 300), kind) for count, kind in ((9, "any"), (0, "any"), (5, "tiny"))]
    images += [images[0][::-1], np.array([[0.5, 0.2, 0.5, 0.9]], np.float32)]
    image = np.repeat(np.arange(len(images)), [len(gt) for gt in images])
    boxes, rows = Matcher(cyxhw, yxyx, 0.5)(np.concatenate(images), image)
    starts = np.searchsorted(image, np.arange(len(images)))
    for number, gt in enumerate(images):
        of_image = image[rows] == number
        assert dict(zip(boxes[of_image].tolist(), (rows[of_image] - starts[number]).tolist())) == match_all(
            gt, yxyx, 0.5
        )
        assert (np.diff(boxes[of_image]) > 0).all()


def test_few_boxes_are_looked_at():
    """The other tests use the fast path: fewer than 1 % of 51150 boxes are candidates of a ground truth."""
    cyxhw, yxyx = default_boxes((640, 640))
    grids = find_grids(cyxhw)
    assert len(grids) == 30 and sum(grid.cells[0] * grid.cells[1] for grid in grids) == 51150
    matcher = Matcher(cyxhw, yxyx, 0.5)
    gt = random_boxes(np.random.default_rng(0), 200, (640, 640), "pixels")
    gt = gt[(gt[:, 2:] > gt[:, :2]).all(axis=1)]
    rows, boxes = matcher._candidates(gt)
    assert len(np.unique(rows)) == len(gt) and len(boxes) < 0.01 * 51150 * len(gt)


def test_boxes_that_cannot_be_looked_up():
    """Boxes without area, reversed, not finite, far too large or far away are compared with all default boxes."""
    cyxhw, yxyx = default_boxes((128, 128))
    odd = np.array(
        [
            [0.5, 0.5, 0.5, 0.5],
            [0.5, 0.2, 0.5, 0.9],
            [0.6, 0.6, 0.4, 0.4],
            [0.3, 0.3, 0.3001, 0.3001],
            [-3, -3, 4, 4],
            [5, 5, 6, 6],
            [0.1, 0.1, 0.6, 0.5],
        ],
        np.float32,
    )
    boxes, rows = Matcher(cyxhw, yxyx, 0.5)(odd)
    assert dict(zip(boxes.tolist(), rows.tolist())) == match_all(odd, yxyx, 0.5)


def test_boxes_on_no_grid():
    rng = np.random.default_rng(2)
    centre, size = rng.uniform(0, 1, (300, 2)), rng.uniform(0.1, 0.4, (300, 2))
    cyxhw = np.concatenate([centre, size], 1).astype(np.float32)
    cyxhw[:4, 2:] = 0.25  # of one size, anywhere
    yxyx = np.concatenate([cyxhw[:, :2] - cyxhw[:, 2:] / 2, cyxhw[:, :2] + cyxhw[:, 2:] / 2], 1)
    assert find_grids(cyxhw) is None
    gt = random_boxes(rng, 12, (300, 300), "any")
    boxes, rows = Matcher(cyxhw, yxyx, 0.5)(gt)
    assert dict(zip(boxes.tolist(), rows.tolist())) == match_all(gt, yxyx, 0.5)


def test_nothing_to_match():
    cyxhw, yxyx = default_boxes((128, 128))
    assert [len(part) for part in Matcher(cyxhw, yxyx, 0.5)(np.zeros((0, 4), np.float32))] == [0, 0]
