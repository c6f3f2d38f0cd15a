"""Convolution and normalisation with SPEC's settings, and the initialiser of SPEC section 4."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from src.data.transforms import MEAN, STD
from src.models.convolution import convolution

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


def conv(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, has_bias: bool = False, symmetric: bool = False
) -> nn.Conv2d:
    """A "same" convolution, or with `symmetric` one that pads both sides alike (PyTorch's).

    The bias is zero: 2.10 draws it at random, 1.10 does not.
    """
    layer = nn.Conv2d(
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
    # without a stride both ways of padding are the same
    if stride == 1 and mindspore.get_context("device_target") == "CPU":
        layer.conv2d = convolution(channels_in, channels_out, kernel)
    return layer


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
    seed = mindspore.get_seed() or 0
    drawn = [
        parameter
        for parameter in model.trainable_params()
        if not any(part in parameter.name for part in ("beta", "gamma", "bias"))
    ]

    def draw(number: int) -> np.ndarray:
        return SIGMA * np.random.default_rng([seed, number]).standard_normal(drawn[number].shape, np.float32)

    with ThreadPoolExecutor() as pool:  # NumPy lets go of the interpreter while it draws
        for parameter, values in zip(drawn, pool.map(draw, range(len(drawn)))):
            parameter.set_data(Tensor(values, parameter.dtype))
