"""Convolutions with custom gradients, against MindSpore's operator and against explicit sums."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.models.cpu_conv import INPUT, OUTPUT, TAPS, CpuConv, CpuConv3x3, use_builtin_conv, use_cpu_conv
from src.models.layers import conv, conv_bn_relu6


def gradients(cell, x, sens):
    weights = list(cell.trainable_params())
    gradient = ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)(cell, weights)
    (to_x,), to_weights = gradient(Tensor(x), Tensor(sens))
    return [to_x.asnumpy(), *(value.asnumpy() for value in to_weights)]


def pair(sizes, has_bias=False, symmetric=False):
    """Our layer and that of MindSpore with the same random weights, and an input."""
    channels_in, channels_out, kernel, stride, (height, width) = sizes
    rng = np.random.default_rng(1)
    ours = conv(channels_in, channels_out, kernel, stride, has_bias, symmetric)
    use_cpu_conv(ours)
    assert isinstance(ours.conv2d, CpuConv) == (stride == 1)
    pad = ("pad", kernel // 2) if symmetric else ("same", 0)
    theirs = nn.Conv2d(channels_in, channels_out, kernel, stride, *pad, has_bias=has_bias)
    weight = rng.standard_normal((channels_out, channels_in, kernel, kernel)).astype(np.float32)
    for cell in (ours, theirs):
        cell.weight.set_data(Tensor(weight))
        if has_bias:
            cell.bias.set_data(Tensor(np.arange(channels_out, dtype=np.float32)))
    return ours, theirs, rng.standard_normal((2, channels_in, height, width)).astype(np.float32)


# the last three are large enough for the custom gradient
SIZES = [(3, 5, 3, 1, (7, 6)), (4, 2, 3, 2, (8, 8)), (4, 6, 1, 1, (5, 4)), (2, 3, 5, 1, (6, 9)), (4, 6, 1, 2, (6, 4))]
SIZES += [(3, 5, 3, 1, (21, 20)), (4, 6, 1, 1, (20, 25)), (2, 3, 5, 1, (23, 18))]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_convolution_and_its_gradients_are_those_of_the_operator(cfg256, sizes, has_bias, symmetric):
    ours, theirs, x = pair(sizes, has_bias, symmetric)
    out = theirs(Tensor(x)).asnumpy()
    np.testing.assert_allclose(ours(Tensor(x)).asnumpy(), out, atol=1e-5)
    sens = np.random.default_rng(4).standard_normal(out.shape).astype(np.float32)
    for got, want in zip(gradients(ours, x, sens), gradients(theirs, x, sens)):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(64, 64, 3, 1, (5, 40)), (70, 96, 3, 1, (40, 44)), (96, 65, 3, 1, (1, 80))])
def test_winograd_and_its_gradients_are_those_of_the_operator(cfg256, sizes):
    ours, theirs, x = pair(sizes)
    out = theirs(Tensor(x)).asnumpy()
    sens = np.random.default_rng(4).standard_normal(out.shape).astype(np.float32)
    got, want = ([cell(Tensor(x)).asnumpy(), *gradients(cell, x, sens)] for cell in (ours, theirs))
    for ours_, theirs_ in zip(got, want):
        np.testing.assert_allclose(ours_, theirs_, atol=1e-5 * np.abs(theirs_).max())
        assert not np.array_equal(ours_, theirs_), "this size does not use Winograd's algorithm"


def test_winograd_is_the_sum_over_taps(cfg256):
    """Integer inputs, against the explicit sum over taps in NumPy integers."""
    rng = np.random.default_rng(5)
    x, weight = rng.integers(-3, 4, (1, 64, 3, 40)), rng.integers(-50, 51, (64, 64, 3, 3))
    want, padded = np.zeros((64, 3, 40), np.int64), np.pad(x[0], ((0, 0), (1, 1), (1, 1)))
    for i, j in np.ndindex(3, 3):
        want += np.einsum("dc,chw->dhw", weight[:, :, i, j], padded[:, i : i + 3, j : j + 40])
    cell = CpuConv3x3(64, 64)
    got = cell(Tensor(x.astype(np.float32)), Tensor(weight.astype(np.float32))).asnumpy()
    np.testing.assert_array_equal(np.rint(got[0]), want)
    np.testing.assert_allclose(got[0], want, atol=0.01)


def test_winograd_matrices_multiply_polynomials():
    """F(4, 3): OUTPUT @ ((TAPS @ g) * (INPUT @ d)) is the sliding product of g over d, for any g and d."""
    rng = np.random.default_rng(6)
    for _ in range(100):
        taps, inputs = rng.standard_normal(3), rng.standard_normal(6)
        want = [taps @ inputs[start : start + 3] for start in range(4)]
        np.testing.assert_allclose(OUTPUT @ ((TAPS @ taps) * (INPUT @ inputs)), want, atol=1e-5)


@pytest.mark.parametrize("rows, columns", [(4, 5), (20, 21)], ids=["MindSpore's", "ours"])
def test_gradient_to_x_is_the_sum_over_taps(cfg256, rows, columns):
    rng = np.random.default_rng(2)
    cell = conv(2, 3, 3)
    use_cpu_conv(cell)
    weight = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    cell.weight.set_data(Tensor(weight))
    x, sens = rng.standard_normal((1, 2, rows, columns)), rng.standard_normal((1, 3, rows, columns))
    want = np.zeros((2, rows + 2, columns + 2))
    for row, column, i, j in np.ndindex(rows, columns, 3, 3):
        want[:, row + i, column + j] += weight[:, :, i, j].T @ sens[0, :, row, column]
    got = gradients(cell, x.astype(np.float32), sens.astype(np.float32))[0]
    np.testing.assert_allclose(got[0], want[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)


def test_use_operators_leaves_mindspores_convolution(cfg256):
    ours, theirs, x = pair((64, 64, 3, 1, (5, 40)))
    assert isinstance(ours.conv2d, CpuConv)
    use_builtin_conv(ours)
    assert isinstance(ours.conv2d, ops.Conv2D)
    np.testing.assert_array_equal(ours(Tensor(x)).asnumpy(), theirs(Tensor(x)).asnumpy())


def two_blocks():
    return nn.SequentialCell([conv_bn_relu6(64, 64, 3), conv_bn_relu6(64, 64, 3), nn.Conv2d(64, 8, 3, dilation=2)])


def test_switched_off_the_network_computes_the_same(cfg256, monkeypatch):
    """SSD_PLAIN_CONV=1: MindSpore's operators, and up to rounding the same outputs, gradients and BN averages."""
    fast, plain = two_blocks(), two_blocks()
    rng = np.random.default_rng(7)
    for one, other in zip(fast.get_parameters(), plain.get_parameters()):
        if one.name.endswith("weight"):
            one.set_data(Tensor(rng.normal(0, 0.06, one.shape).astype(np.float32)))
        other.set_data(one)
    use_cpu_conv(fast)
    monkeypatch.setenv("SSD_PLAIN_CONV", "1")
    use_cpu_conv(plain)
    kinds = [
        [type(layer.conv2d) for _, layer in net.cells_and_names() if isinstance(layer, nn.Conv2d)]
        for net in (fast, plain)
    ]
    assert kinds == [[CpuConv3x3, CpuConv3x3, ops.Conv2D], [ops.Conv2D] * 3]
    assert [parameter.name for parameter in fast.get_parameters()] == [one.name for one in plain.get_parameters()]
    x = rng.standard_normal((2, 64, 40, 40)).astype(np.float32)
    sens = rng.standard_normal((2, 8, 40, 40)).astype(np.float32)
    found = []
    for net in (fast, plain):
        net.set_train()
        averages = [one.asnumpy() for one in net.get_parameters() if "moving" in one.name]
        found.append([net(Tensor(x)).asnumpy(), *gradients(net, x, sens), *averages])
    for got, want in zip(*found):
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    assert not np.array_equal(found[0][0], found[1][0])


def test_layers_of_equal_sizes_share_a_cell_within_a_network_only(cfg256):
    networks = two_blocks(), two_blocks()
    for network in networks:
        use_cpu_conv(network)
    (first, second, _), (other, *_) = (
        [layer.conv2d for _, layer in network.cells_and_names() if isinstance(layer, nn.Conv2d)] for network in networks
    )
    assert first is second and first is not other


@pytest.mark.parametrize(
    "arguments",
    [
        dict(kernel_size=3, stride=2),
        dict(kernel_size=3, dilation=2),
        dict(kernel_size=3, group=4),
        dict(kernel_size=2),
        dict(kernel_size=(1, 3)),
        dict(kernel_size=3, pad_mode="valid"),
        dict(kernel_size=3, pad_mode="pad", padding=0),
    ],
    ids=str,
)
def test_other_convolutions_keep_mindspores_operator(cfg256, arguments):
    layer = nn.Conv2d(4, 4, **arguments)
    use_cpu_conv(layer)
    assert isinstance(layer.conv2d, ops.Conv2D)
