import numpy as np

from src.boxes.coder import BoxCoder
from src.boxes.ops import cyxhw_to_yxyx, iou, yxyx_to_cyxhw


def random_boxes(count, seed):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(0, 1, (count, 2)), rng.uniform(0.05, 0.9, (count, 2))], 1)


def test_decode_inverts_encode():
    coder, gt, default = BoxCoder((0.1, 0.2)), random_boxes(50, 1), random_boxes(50, 2)
    np.testing.assert_allclose(coder.decode(coder.encode(gt, default), default), cyxhw_to_yxyx(gt), atol=1e-12)


def test_encode_by_hand():
    # centre half a default box lower: 0.1 / (0.2 * 0.1) = 5; twice as wide: log 2 / 0.2
    offsets = BoxCoder((0.1, 0.2)).encode(np.array([[0.6, 0.5, 0.2, 0.8]]), np.array([[0.5, 0.5, 0.2, 0.4]]))
    np.testing.assert_allclose(offsets, [[5, 0, 0, np.log(2) / 0.2]], atol=1e-12)


def test_a_box_without_height_is_floored():
    offsets = BoxCoder((0.1, 0.2)).encode(np.array([[0.5, 0.5, 0.0, 0.4]]), np.array([[0.5, 0.5, 0.2, 0.4]]))
    np.testing.assert_allclose(offsets[0, 2], np.log(1e-6) / 0.2)


def test_corner_and_centre_forms_are_inverse():
    boxes = random_boxes(20, 3)
    np.testing.assert_allclose(yxyx_to_cyxhw(cyxhw_to_yxyx(boxes)), boxes, atol=1e-12)


def test_iou_by_hand_and_symmetric():
    a, b = np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 1.0, 3.0, 3.0]])
    np.testing.assert_allclose(iou(a, b[0]), 1 / 7)
    np.testing.assert_allclose(iou(b, a[0]), 1 / 7)
    np.testing.assert_allclose(iou(a, a[0]), 1)
    assert iou(np.zeros((1, 4)), np.zeros(4))[0] == 0
