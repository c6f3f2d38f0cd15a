"""Zoom-out and scale jitter: windows and boxes by hand, pixels against a canvas, targets against the slow encoding."""

import cv2
import numpy as np
import pytest

from src.boxes.default_boxes import default_boxes
from src.boxes.matcher import Matcher
from src.config import load_config
from src.data import windows
from src.data.transforms import Augmentation, TrainTransform
from tests import oracles

MEAN_COLOUR = (124, 116, 104)


class Script:
    """A random stream that gives the listed numbers, and notes the limits that they were drawn between."""

    def __init__(self, *numbers):
        self.numbers, self.limits = list(numbers), []

    def random(self):
        return self.numbers.pop(0)

    def uniform(self, low, high):
        self.limits.append((low, high))
        return self.numbers.pop(0)


def test_zoom_out_by_hand():
    boxes = np.array([[10, 20, 50, 80, 1], [0, 0, 100, 200, 2]], np.int32)
    rng = Script(0.49, 2.5, 30.9, 50.2)
    window, moved = windows.draw_zoom_out(100, 200, boxes, 4.0, rng)
    # a canvas of 250 x 500; the image begins in row 30, column 50
    assert window == (-30, -50, 220, 450) and rng.limits == [(1, 4.0), (0, 150), (0, 300)]
    assert moved.tolist() == [[40, 70, 80, 130, 1], [30, 50, 130, 250, 2]] and moved.dtype == np.int32
    window, same = windows.draw_zoom_out(100, 200, boxes, 4.0, Script(0.5))
    assert window == (0, 0, 100, 200) and same is boxes


def test_scale_by_hand():
    boxes = np.array([[10, 20, 50, 80, 1], [60, 150, 90, 190, 2]], np.int32)
    rng = Script(2.0, 5.5, 12.25)
    window, kept = windows.draw_scale(100, 200, boxes, 0.5, 2.0, rng)
    # twice as large: a window of 50 x 100; the second box's centre (75, 170) is outside, the first box is cut
    assert window == (5, 12, 55, 112) and rng.limits == [(0.5, 2.0), (0, 50), (0, 100)]
    assert kept.tolist() == [[5, 8, 45, 68, 1]]
    # half as large: a window of 200 x 400 that contains the image
    rng = Script(0.5, -33.5, -200.0)
    window, kept = windows.draw_scale(100, 200, boxes, 0.5, 2.0, rng)
    assert window == (-34, -200, 166, 200) and rng.limits[1:] == [(-100, 0), (-200, 0)]
    assert kept.tolist() == [[44, 220, 84, 280, 1], [94, 350, 124, 390, 2]]
    # the window from row 30 has the first box's centre (30, 50) on its edge, which is outside: drawn again
    window, kept = windows.draw_scale(100, 200, boxes[:1], 0.5, 2.0, Script(2.0, 30.0, 0.0, 2.0, 0.0, 0.0))
    assert window == (0, 0, 50, 100) and kept.tolist() == [[10, 20, 50, 80, 1]]
    window, kept = windows.draw_scale(100, 200, boxes[:1], 0.5, 2.0, Script(*[2.0, 50.0, 100.0] * 50))
    assert window == (0, 0, 100, 200) and kept.tolist() == boxes[:1].tolist()
    window, kept = windows.draw_scale(100, 200, boxes[:0], 0.5, 2.0, Script(2.0, 50.0, 100.0))
    assert window == (50, 100, 100, 200) and len(kept) == 0


def test_order_and_sum_of_the_windows():
    """Zoom-out to a canvas of 200 x 400, of that the half-sized window, of that no crop."""
    boxes = np.array([[10, 20, 50, 80, 1]], np.int32)
    augmentation = Augmentation(crop_probability=0.0, zoom_out=4.0, scale_jitter=(0.5, 2.0))
    rng = Script(0.0, 2.0, 40.0, 60.0, 2.0, 10.0, 20.0, 0.3)
    window, kept = windows.draw_window(100, 200, boxes, augmentation, rng)
    assert window == (-30, -40, 70, 160) and kept.tolist() == [[40, 60, 80, 120, 1]] and not rng.numbers


def canvas_view(image, window, shape):
    """The same by an array of the window's size."""
    top, left, bottom, right = window
    canvas = np.full((bottom - top, right - left, 3), MEAN_COLOUR, np.uint8)
    rows, columns = range(max(top, 0), min(bottom, len(image))), range(max(left, 0), min(right, image.shape[1]))
    canvas[rows[0] - top : rows[-1] + 1 - top, columns[0] - left : columns[-1] + 1 - left] = image[
        rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1
    ]
    return cv2.resize(canvas, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize(
    "window", [(-30, -50, 226, 334), (-64, 0, 64, 96), (20, -7, 110, 60), (-200, -300, 200, 400), (10, 20, 70, 90)]
)
def test_view_is_a_resized_canvas(window):
    image = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (96, 128, 3)).astype(np.uint8), (0, 0), 3)
    got = windows.view(image, window, (64, 96))
    if window[0] < 0 or window[1] < 0:
        assert got.shape == (64, 96, 3)
    else:
        np.testing.assert_array_equal(got, image[10:70, 20:90])
    want = canvas_view(image, window, (64, 96)).astype(int)
    difference = np.abs(cv2.resize(got, (96, 64), interpolation=cv2.INTER_LINEAR).astype(int) - want)
    # OpenCV interpolates between 32 places within a pixel; at the canvas the colour may jump by 140
    assert difference.max() <= 5 and difference.mean() < 0.25


def test_boxes_lie_where_the_object_is_seen():
    """The white object of a black image is found again by its colour, in a hundred augmented images."""
    image, boxes = np.zeros((120, 160, 3), np.uint8), np.array([[40, 50, 80, 110, 1]], np.int32)
    image[40:80, 50:110] = 255
    augmentation = Augmentation(zoom_out=4.0, scale_jitter=(0.5, 2.0))
    transform = TrainTransform((256, 256), None, (0.1, 0.2), 3, 0, augmentation)
    smaller, larger, canvas = 0, 0, 0
    for image_id in range(100):
        seen, (box,) = transform.augment(image, boxes, image_id)
        (top, left, bottom, right), _ = transform.window(120, 160, boxes, image_id)
        smaller += bottom - top > 160
        larger += bottom - top < 80
        canvas += bool((seen[0] > 0).any())
        rows, columns = np.nonzero(seen[..., 1] > 0.88 * seen[..., 1].max())
        found = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        # a pixel of the image is up to 256 / (0.3 * 60) pixels wide, and its edge is blurred by the resize
        blur = np.array([256 / (bottom - top), 256 / (right - left)] * 2) + 1
        assert (np.abs(found - box[:4] * 256) <= blur).all(), image_id
    assert smaller > 20 and larger > 20 and canvas > 20


def test_targets_are_the_slow_encoding():
    defaults = default_boxes((128, 128))
    image = np.zeros((90, 120, 3), np.uint8)
    boxes = np.array([[10, 20, 50, 70, 1], [40, 60, 85, 110, 2], [3, 5, 30, 41, 1]], np.int32)
    augmentation = Augmentation(zoom_out=3.0, scale_jitter=(0.5, 2.0))
    transform = TrainTransform((128, 128), Matcher(*defaults, 0.5), (0.1, 0.2), 5, 1, augmentation)
    for image_id in range(6):
        _, rows, loc, label = transform(image, boxes, image_id)
        _, truth = transform.augment(image, boxes, image_id)
        assert ((truth[:, :4] >= 0) & (truth[:, :4] <= 1)).all() and (truth[:, 2:4] > truth[:, :2]).all()
        want_loc, want_label, _ = oracles.encode(truth.tolist(), *(d.tolist() for d in defaults), 0.5, (0.1, 0.2))
        np.testing.assert_array_equal(rows, np.flatnonzero(want_label))
        np.testing.assert_array_equal(label, np.array(want_label)[rows])
        np.testing.assert_allclose(loc, np.array(want_loc)[rows], atol=1e-4)


def test_off_draws_no_number():
    boxes = np.array([[10, 20, 50, 80, 1]], np.int32)
    for seed in range(20):
        first, second = np.random.default_rng(seed), np.random.default_rng(seed)
        window, kept = windows.draw_window(100, 200, boxes, Augmentation(), first)
        want = windows.draw_crop(100, 200, boxes, second)
        assert window == want[0] and kept.tolist() == want[1].tolist() and first.random() == second.random()


def test_options_of_a_configuration():
    assert Augmentation.of(load_config([])) == Augmentation()
    cfg = load_config(["--zoom_out=4", "--scale_jitter=[0.5, 2]", "--crop_probability=0.3"])
    assert Augmentation.of(cfg) == Augmentation(0.3, 0.0, 4.0, (0.5, 2.0))
