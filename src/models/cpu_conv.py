"""Convolutions as a CPU computes them fastest: with a gradient of their own, and wide 3x3 ones by Winograd's algorithm.

What they bring is measured in docs/performance.md, "Speed tricks".
`use_cpu_conv` puts them into a network. On other devices and in half precision MindSpore's own operator stays, in
exported files too (`use_builtin_conv`), and everywhere with SSD_PLAIN_CONV=1 in the environment.

To remove: delete this file and its tests, the call of `use_cpu_conv` in `src/models/build.py` and that of
`use_builtin_conv` in `src/inference/exporter.py`. No checkpoint changes: these cells hold no parameters.
"""

from __future__ import annotations

import os

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.operations._grad_ops import Conv2DBackpropFilter

# Where Winograd's algorithm is faster (benchmark.py step): fewer channels or columns do not pay for the transforms.
LEAST_CHANNELS, LEAST_COLUMNS = 64, 40
# On smaller maps MindSpore's gradient needs little memory, and compiles in half the time
LEAST_AREA = 400
# F(4, 3), points 0, 1, -1, 2, -2 and infinity: 4 outputs of 3 taps from 6 inputs (Lavin and Gray 2015)
INPUT = np.float32(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
TAPS = np.float32([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / np.float32(24)
OUTPUT = np.float32([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


class ConvWithOwnGradient(nn.Cell):
    """(x [B, C, H, W], weight [D, C, k, k]) -> [B, D, H, W]: "same", stride 1, k odd.

    Its gradient to x is the convolution of the output's gradient with the kernel turned by half a circle. MindSpore's
    own operator for that holds on to a buffer for each of its calls on a CPU: 2 GiB for two images of 640 x 640.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__()
        self.operator = ops.Conv2D(channels_out, (kernel, kernel), pad_mode="same")
        self.to_x = ops.Conv2D(channels_in, (kernel, kernel), pad_mode="same")
        self.to_weight = Conv2DBackpropFilter(channels_out, (kernel, kernel), pad_mode="same")
        self.transpose, self.reshape, self.matmul = ops.Transpose(), ops.Reshape(), ops.MatMul()
        self.taps = kernel * kernel
        # a product with this matrix turns the taps, much faster than ReverseV2 does
        self.half_circle = Tensor(np.eye(self.taps, dtype=np.float32)[::-1].copy())

    def construct(self, x, weight):
        return self.operator(x, weight)

    def bprop(self, x, weight, out, dout):
        turned = self.transpose(weight, (1, 0, 2, 3))
        if self.taps > 1:
            turned = self.reshape(self.matmul(self.reshape(turned, (-1, self.taps)), self.half_circle), turned.shape)
        return self.to_x(dout, turned), self.to_weight(dout, x, weight.shape)


class WinogradConv3x3(nn.Cell):
    """(x [B, C, H, W], weight [D, C, 3, 3]) -> [B, D, H, W]: "same", stride 1, W a multiple of 4.

    Winograd's algorithm along the rows: 4 outputs side by side come from 6 products instead of 12, for each of the
    three rows of the kernel. The six products are six groups of one convolution of 3 x 1, half of the work of 3 x 3;
    its gradients are those of the three linear maps, one after the other. The result is that of the convolution but
    for rounding (2e-6 of the largest value).

    Source: Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.channels_out = channels_out
        self.to_tiles = ops.Conv2D(6, (1, 6), pad_mode="pad", pad=(0, 0, 1, 1), stride=(1, 4))
        self.from_tiles = ops.Conv2DBackpropInput(6, (1, 6), pad_mode="pad", pad=(0, 0, 1, 1), stride=(1, 4))
        self.multiply = ops.Conv2D(6 * channels_out, (3, 1), pad_mode="same", group=6)
        self.multiply_to_x = ops.Conv2D(6 * channels_in, (3, 1), pad_mode="same", group=6)
        self.multiply_to_weight = Conv2DBackpropFilter(6 * channels_out, (3, 1), pad_mode="same", group=6)
        self.rows_of, self.columns_of = ops.BatchMatMul(transpose_a=True), ops.BatchMatMul(transpose_b=True)
        self.matmul = ops.MatMul()
        self.matmul_of_columns, self.matmul_of_rows = ops.MatMul(transpose_a=True), ops.MatMul(transpose_b=True)
        self.transpose, self.reshape, self.tile = ops.Transpose(), ops.Reshape(), ops.Tile()
        self.input, self.output = Tensor(INPUT[:, None, None]), Tensor(OUTPUT.T[None].copy())
        self.taps = Tensor(TAPS)
        self.upside_down = Tensor(np.kron(np.eye(3)[::-1], np.eye(3)).astype(np.float32))

    def construct(self, x, weight):
        b, c, h, w = x.shape
        d = self.channels_out
        products = self.multiply(self._tiles(x), self._kernel(weight, d, c))
        products = self.reshape(products, (b, 6, d * h * w // 4))
        return self.reshape(self.rows_of(products, self.tile(self.output, (b, 1, 1))), (b, d, h, w))

    def bprop(self, x, weight, out, dout):
        b, c, h, w = x.shape
        d = self.channels_out
        rows = self.reshape(dout, (b, d * h * w // 4, 4))
        to_products = self.reshape(self.columns_of(self.tile(self.output, (b, 1, 1)), rows), (b, 6 * d, h, w // 4))
        turned = self.matmul(self.reshape(self.transpose(weight, (1, 0, 2, 3)), (c * d, 9)), self.upside_down)
        to_tiles = self.multiply_to_x(to_products, self._kernel(turned, c, d))
        to_tiles = self.reshape(to_tiles, (b, 6, c * h, w // 4))
        to_x = self.reshape(self.from_tiles(to_tiles, self.input, (b, 1, c * h, w)), (b, c, h, w))
        to_kernel = self.multiply_to_weight(to_products, self._tiles(x), (6 * d, c, 3, 1))
        to_weight = self.matmul_of_columns(self.reshape(to_kernel, (6, d * c * 3)), self.taps)
        return to_x, self.reshape(to_weight, (d, c, 3, 3))

    def _tiles(self, x):
        """[B, C, H, W] -> [B, 6 C, H, W / 4]."""
        b, c, h, w = x.shape
        return self.reshape(self.to_tiles(self.reshape(x, (b, 1, c * h, w)), self.input), (b, 6 * c, h, w // 4))

    def _kernel(self, weight, channels_out, channels_in):
        """[channels_out, channels_in, 3, 3] -> [6 channels_out, channels_in, 3, 1]."""
        kernel = self.matmul_of_rows(self.taps, self.reshape(weight, (-1, 3)))
        return self.reshape(kernel, (6 * channels_out, channels_in, 3, 1))


class CpuConv(nn.Cell):
    """(x [B, C, H, W], weight [D, C, k, k]) -> [B, D, H, W]: "same", stride 1, k odd, the fastest way."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__()
        self.direct = ConvWithOwnGradient(channels_in, channels_out, kernel)
        self.operator = self.direct.operator

    def construct(self, x, weight):
        _, _, rows, columns = x.shape
        if rows * columns >= LEAST_AREA:
            return self.direct(x, weight)
        return self.operator(x, weight)


class CpuConv3x3(CpuConv):
    """A `CpuConv` of 3x3 with channels enough for Winograd's algorithm, where the map is wide enough."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 3)
        self.winograd = WinogradConv3x3(channels_in, channels_out)

    def construct(self, x, weight):
        _, _, rows, columns = x.shape
        if columns >= LEAST_COLUMNS and columns % 4 == 0:
            return self.winograd(x, weight)
        if rows * columns >= LEAST_AREA:
            return self.direct(x, weight)
        return self.operator(x, weight)


def use_cpu_conv(network: nn.Cell) -> None:
    """Ours in place of MindSpore's operator for every convolution of a float32 network, on a CPU, that keeps its map's
    size. Layers of equal sizes share one cell, as each takes its time to compile. In half precision its gradient to the
    weights would be in half precision too.

    The environment variable SSD_PLAIN_CONV=1 leaves the network as it is.
    """
    if mindspore.get_context("device_target") != "CPU" or os.environ.get("SSD_PLAIN_CONV") == "1":
        return
    shared = {}
    for _, layer in list(network.cells_and_names()):
        if isinstance(layer, nn.Conv2d) and isinstance(layer.conv2d, ops.Conv2D) and _keeps_size(layer):
            sizes = layer.in_channels, layer.out_channels, layer.kernel_size[0]
            if sizes not in shared:
                wide = sizes[2] == 3 and min(sizes[:2]) >= LEAST_CHANNELS
                shared[sizes] = CpuConv3x3(*sizes[:2]) if wide else CpuConv(*sizes)
            layer.conv2d = shared[sizes]


def _keeps_size(layer: nn.Conv2d) -> bool:
    """A plain "same" convolution of stride 1 with a square kernel of an odd size, whichever way it is padded."""
    kernel = layer.kernel_size[0]
    plain = layer.group == 1 and all(set(sides) == {1} for sides in (layer.stride, layer.dilation))
    padded = layer.pad_mode == "same" or (layer.pad_mode == "pad" and layer.padding == kernel // 2)
    return plain and padded and kernel % 2 == 1 and set(layer.kernel_size) == {kernel}


def use_builtin_conv(network: nn.Cell) -> None:
    """MindSpore's operator for every convolution of a network, in place of ours: for exported files, which other
    devices run."""
    for _, layer in network.cells_and_names():
        if isinstance(layer, nn.Conv2d) and isinstance(layer.conv2d, CpuConv):
            operator = layer.conv2d.operator
            del layer.conv2d
            layer.conv2d = operator
