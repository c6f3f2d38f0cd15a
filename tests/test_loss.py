"""The loss of one matched and one background box, computed by hand."""

import math

import numpy as np
import pytest

from src.loss import MultiBoxLoss

# One image, two default boxes, two columns (background, object). Logits of ln 3, -ln 3 and 0 are the probabilities
# 3/4, 1/4 and 1/2. Focal loss, gamma 2, alpha 0.25: -alpha_t * (1 - p_t) ** 2 * ln(p_t).
#
#   box  label  column  logit   t   p     p_t   alpha_t  focal
#   D0     1       0    -ln 3   0   1/4   3/4    0.75    0.75 * (1/4)^2 * 0.2876821 = 0.0134851
#   D0     1       1     0      1   1/2   1/2    0.25    0.25 * (1/2)^2 * 0.6931472 = 0.0433217
#   D1     0       0     ln 3   1   3/4   3/4    0.25    0.25 * (1/4)^2 * 0.2876821 = 0.0044950
#   D1     0       1    -ln 3   0   1/4   3/4    0.75    0.75 * (1/4)^2 * 0.2876821 = 0.0134851
#                                                        sum                          0.0747869
#
# Smooth L1, 0.5 * d^2 below 1, else |d| - 0.5, of matched boxes only:
#
#   box  pred_loc - gt_loc     smooth L1
#   D0   0.5, 0, -1, 3         0.125 + 0 + 0.5 + 2.5 = 3.125
#   D1   9, 9, 9, 9            background: 0
#
#   num_match                  1                  2
#   loss                       3.1997869          1.5998935
LN3 = math.log(3)
LOGITS = [[-LN3, 0.0], [LN3, -LN3]]
LABELS = [1, 0]
FOCAL = [[0.0134851, 0.0433217], [0.0044950, 0.0134851]]
GT_LOC = [[0.5, 1.0, -1.0, 2.0], [0.0, 0.0, 0.0, 0.0]]
PRED_LOC = [[1.0, 1.0, -2.0, 5.0], [9.0, 9.0, 9.0, 9.0]]
SMOOTH_L1 = [[0.125, 0.0, 0.5, 2.5], [8.5, 8.5, 8.5, 8.5]]


def batch(num_match):
    """The arguments of the loss for the one image."""
    from mindspore import Tensor

    floats = [np.array([rows], np.float32) for rows in (PRED_LOC, LOGITS, GT_LOC)]
    return [Tensor(part) for part in (*floats, np.array([LABELS], np.int32), np.array([[num_match]], np.float32))]


def test_terms_by_hand(cfg256):
    loss, (pred_loc, logits, gt_loc, labels, _) = MultiBoxLoss(num_classes=2), batch(1)
    np.testing.assert_allclose(loss.focal(logits, labels).asnumpy()[0], FOCAL, rtol=1e-5)
    np.testing.assert_allclose(loss.smooth_l1(pred_loc, gt_loc).asnumpy()[0], SMOOTH_L1, rtol=1e-6)


@pytest.mark.parametrize("num_match, value", [(1, 3.1997869), (2, 1.5998935)])
def test_loss_by_hand(cfg256, num_match, value):
    loss, arguments = MultiBoxLoss(num_classes=2), batch(num_match)
    classification, location = loss.parts(*arguments).asnumpy()
    assert classification == pytest.approx(0.0747869 / num_match, rel=1e-5)
    assert location == pytest.approx(3.125 / num_match, rel=1e-6)
    assert float(loss(*arguments).asnumpy()) == pytest.approx(value, rel=1e-6)
