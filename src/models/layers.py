"""Convolution and normalisation with SPEC's settings, and the initialiser of SPEC section 4."""

from __future__ import annotations

import functools

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops.operations._grad_ops import Conv2DBackpropFilter

from src.data.transforms import MEAN, STD

SIGMA = np.float32(0.02)


class Pixels(nn.Cell):
    """Pixels uint8 RGB [B, H, W, 3] -> normalised float32 [B, 3, H, W]; anything else passes as it is.

    A quarter of the bytes go to the device, and it normalises them in no time.
    """

    def __init__(self):
        super().__init__()
        self.mean, self.std = Tensor(MEAN), Tensor(STD)
        self.cast, self.transpose = ops.Cast(), ops.Transpose()

    def construct(self, x):
        if x.dtype == mstype.uint8:
            x = self.transpose((self.cast(x, mstype.float32) - self.mean) / self.std, (0, 3, 1, 2))
        return x


class SymmetricPad(nn.Cell):
    """Zeros around [B, C, H, W], the same number on each side."""

    def __init__(self, width: int):
        super().__init__()
        self.pad = ops.Pad(((0, 0), (0, 0), (width, width), (width, width)))

    def construct(self, x):
        return self.pad(x)


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` of [B, C, H, W] without its checks of the shape: 98 of them took a second to compile."""

    def construct(self, x):
        if self.training:
            return self.bn_train(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]
        return self.bn_infer(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]


class _Convolve(nn.Cell):
    """(x [B, C, H, W], weight [D, C, k, k]) -> [B, D, H, W]: "same", stride 1, k odd.

    Its gradient to x is the convolution of the output's gradient with the kernel turned by half a circle. MindSpore's
    own operator for that holds on to a buffer for each of its calls on a CPU: 2 GiB for two images of 640 x 640.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__()
        self.forward = ops.Conv2D(channels_out, (kernel, kernel), pad_mode="same")
        self.to_x = ops.Conv2D(channels_in, (kernel, kernel), pad_mode="same")
        self.to_weight = Conv2DBackpropFilter(channels_out, (kernel, kernel), pad_mode="same")
        self.transpose, self.reshape, self.matmul, self.shape = (
            ops.Transpose(),
            ops.Reshape(),
            ops.MatMul(),
            ops.Shape(),
        )
        self.rows, self.turned = (-1, kernel * kernel), (channels_in, channels_out, kernel, kernel)
        # a product with this matrix turns the taps, much faster than ReverseV2 does
        self.half_circle = Tensor(np.eye(kernel * kernel, dtype=np.float32)[::-1].copy())

    def construct(self, x, weight):
        return self.forward(x, weight)

    def bprop(self, x, weight, out, dout):
        taps = self.reshape(self.transpose(weight, (1, 0, 2, 3)), self.rows)
        turned = self.reshape(self.matmul(taps, self.half_circle), self.turned)
        return self.to_x(dout, turned), self.to_weight(dout, x, self.shape(weight))


@functools.lru_cache(maxsize=None)
def _convolve(channels_in: int, channels_out: int, kernel: int) -> _Convolve:
    """One for all convolutions of the same sizes, as each takes its time to compile."""
    return _Convolve(channels_in, channels_out, kernel)


def conv(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, has_bias: bool = False, symmetric: bool = False
) -> nn.Conv2d:
    """A "same" convolution, or with `symmetric` one that pads both sides alike (PyTorch's).

    The bias is zero: 2.10 draws it at random, 1.10 does not.
    """
    convolution = nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        pad_mode="pad" if symmetric else "same",
        padding=kernel // 2 if symmetric else 0,
        has_bias=has_bias,
        weight_init="zeros",  # `initialize` draws them: MindSpore's own drawing takes seconds for 32 million
        bias_init="zeros",
    )
    if kernel > 1 and stride == 1 and not symmetric and mindspore.get_context("device_target") == "CPU":
        convolution.conv2d = _convolve(channels_in, channels_out, kernel)
    return convolution


def use_own_gradient(convolution: nn.Conv2d) -> None:
    """MindSpore's own gradient in place of `_Convolve`'s, which would leave the weight's in half precision."""
    if isinstance(convolution.conv2d, _Convolve):
        operator = convolution.conv2d.forward
        del convolution.conv2d
        convolution.conv2d = operator


def conv_bn_relu6(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.SequentialCell:
    """The block of both necks: convolution without bias, BN (eps 1e-5, momentum 0.9), ReLU6."""
    return nn.SequentialCell(
        [
            conv(channels_in, channels_out, kernel, stride),
            BatchNorm2d(channels_out, eps=1e-5, momentum=0.9),
            nn.ReLU6(),
        ]
    )


def initialize(model: nn.Cell) -> None:
    """A normal of sigma 0.02 for every trainable parameter that is no beta, gamma or bias; SPEC section 4.

    The published `TruncatedNormal(0.02)` is cut at -2 and 2, a hundred sigma: a normal. Seeded by `mindspore.set_seed`.
    """
    rng = np.random.default_rng(mindspore.get_seed() or 0)
    for parameter in model.trainable_params():
        if not any(part in parameter.name for part in ("beta", "gamma", "bias")):
            parameter.set_data(Tensor(SIGMA * rng.standard_normal(parameter.shape, np.float32), parameter.dtype))
