import numpy as np
import pytest

from src.boxes.default_boxes import default_boxes, ssd300_default_boxes
from src.utils.errors import UserError


@pytest.mark.parametrize("size, name, every", [(128, "128", 1), (320, "320", 1), (640, "640_every50", 50)])
def test_published_grid(reference, size, name, every):
    published = reference("default_boxes.npz")
    cyxhw, yxyx = default_boxes((size, size))
    np.testing.assert_allclose(cyxhw[::every], published[f"cyxhw_{name}"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(yxyx[::every], published[f"yxyx_{name}"], atol=1e-6, rtol=0)


def test_count_and_type_at_640():
    cyxhw, yxyx = default_boxes((640, 640))
    assert len(cyxhw) == len(yxyx) == 38400 + 9600 + 2400 + 600 + 150
    assert cyxhw.dtype == yxyx.dtype == np.float32


def test_first_cell_by_hand():
    # stride 8: base 32, centre 4; ratio 2 is wide: h = 32 / sqrt 2, w = 32 * sqrt 2
    cyxhw, _ = default_boxes((256, 128))
    root = 2**0.5
    sizes = [(32, 32), (32 * root, 32 * root), (32 / root, 32 * root), (32, 64), (32 * root, 32 / root), (64, 32)]
    expected = [[4 / 256, 4 / 128, h / 256, w / 128] for h, w in sizes]
    np.testing.assert_allclose(cyxhw[:6], expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(300, 300), (640, 600), (0, 128), (100, 128)])
def test_sizes_that_do_not_divide_are_refused(shape):
    with pytest.raises(UserError, match="128"):
        default_boxes(shape)


def test_ssd300_layout_by_hand():
    # scales 0.2, 0.95; level 0: (0.1, 0.1), (w, h), (h, w) of ratio 2
    cyxhw, _ = ssd300_default_boxes((2, 2), [1, 1], [2, 2], [3, 4], [[], [2]], 0.2, 0.95)
    root = 2**0.5
    expected = [
        (0.1, 0.1),
        (0.2 / root, 0.2 * root),
        (0.2 * root, 0.2 / root),
        (0.95, 0.95),
        (0.95 / root, 0.95 * root),
        (0.95 * root, 0.95 / root),
        (0.95**0.5, 0.95**0.5),
    ]
    np.testing.assert_allclose(cyxhw[:, 2:], expected, rtol=1e-6)
    np.testing.assert_allclose(cyxhw[:, :2], 0.5)
