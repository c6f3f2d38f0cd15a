"""The convolution with a gradient of its own, against MindSpore's operator and against sums written out."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.models.layers import BatchNorm2d, conv


def gradients(cell, x, sens):
    weights = list(cell.trainable_params())
    gradient = ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)(cell, weights)
    (to_x,), to_weights = gradient(Tensor(x), Tensor(sens))
    return [to_x.asnumpy(), *(value.asnumpy() for value in to_weights)]


@pytest.mark.parametrize(
    "sizes", [(3, 5, 3, 1, (7, 6)), (4, 2, 3, 2, (8, 8)), (4, 6, 1, 1, (5, 4)), (2, 3, 5, 1, (6, 9))]
)
@pytest.mark.parametrize("has_bias", [True, False])
def test_convolution_and_its_gradients_are_those_of_the_operator(cfg256, sizes, has_bias):
    channels_in, channels_out, kernel, stride, (height, width) = sizes
    rng = np.random.default_rng(1)
    ours = conv(channels_in, channels_out, kernel, stride, has_bias)
    theirs = nn.Conv2d(channels_in, channels_out, kernel, stride, "same", has_bias=has_bias)
    weight = rng.standard_normal((channels_out, channels_in, kernel, kernel)).astype(np.float32)
    for cell in (ours, theirs):
        cell.weight.set_data(Tensor(weight))
        if has_bias:
            cell.bias.set_data(Tensor(np.arange(channels_out, dtype=np.float32)))
    x = rng.standard_normal((2, channels_in, height, width)).astype(np.float32)
    out = theirs(Tensor(x)).asnumpy()
    np.testing.assert_allclose(ours(Tensor(x)).asnumpy(), out, atol=1e-5)
    sens = rng.standard_normal(out.shape).astype(np.float32)
    for got, want in zip(gradients(ours, x, sens), gradients(theirs, x, sens)):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_gradient_to_x_is_the_sum_over_taps(cfg256):
    rng = np.random.default_rng(2)
    cell = conv(2, 3, 3)
    weight = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    cell.weight.set_data(Tensor(weight))
    x, sens = rng.standard_normal((1, 2, 4, 5)), rng.standard_normal((1, 3, 4, 5))
    want = np.zeros((2, 6, 7))
    for row, column, i, j in np.ndindex(4, 5, 3, 3):
        want[:, row + i, column + j] += weight[:, :, i, j].T @ sens[0, :, row, column]
    got = gradients(cell, x.astype(np.float32), sens.astype(np.float32))[0]
    np.testing.assert_allclose(got[0], want[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_mindspores(cfg256, training):
    ours, theirs = BatchNorm2d(4, eps=1e-3, momentum=0.9), nn.BatchNorm2d(4, eps=1e-3, momentum=0.9)
    x = Tensor(np.random.default_rng(3).normal(1, 2, (2, 4, 5, 5)).astype(np.float32))
    for cell in (ours, theirs):
        cell.set_train(training)
    np.testing.assert_array_equal(ours(x).asnumpy(), theirs(x).asnumpy())
    for got, want in zip(ours.get_parameters(), theirs.get_parameters()):
        np.testing.assert_array_equal(got.asnumpy(), want.asnumpy())
