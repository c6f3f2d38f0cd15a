"""Convolution, normalisation and initialiser; docs/reference.md, "Network" and "Initial weights".

Layers are written for MindSpore's compiler, which takes most of the first start: one graph per cell, per branch of an
`if` and its continuation, per loop iteration, per Python operator and index.

To remove: `nn.Conv2d` and `nn.BatchNorm2d` in place of the classes of these names, as in `benchmarks/start_baseline.py`
(of `BatchNorm2d`, `freeze` stays).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops.functional import tuple_getitem

from src.data.transforms import MEAN, STD
from src.models.parameter_names import is_predictor

SIGMA = np.float32(0.02)


class NormalizePixels(nn.Cell):
    """Pixels uint8 RGB [B, H, W, 3] -> normalised float32 [B, 3, H, W]; anything else passes as it is.

    A quarter of the bytes go to the device, which normalises them in a negligible part of a step.
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


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` without code after its `if`."""

    def construct(self, x):
        if self.has_bias:
            return self.bias_add(self.conv2d(x, self.weight), self.bias)
        return self.conv2d(x, self.weight)


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` of [B, C, H, W] without its checks of the shape, of which the 98 of ResNet50-FPN took a
    second to compile.

    `frozen`: it uses its running statistics in training too, and does not update them.
    """

    frozen = False

    def freeze(self) -> None:
        """Set `frozen`. Before the network is compiled."""
        self.frozen = True
        self.bn_train = self.bn_infer
        # MindSpore compiles all cells of one class and these arguments as the first one that it meets
        self.cell_init_args += "frozen"

    def construct(self, x):
        if self.training:
            return tuple_getitem(self.bn_train(x, self.gamma, self.beta, self.moving_mean, self.moving_variance), 0)
        return tuple_getitem(self.bn_infer(x, self.gamma, self.beta, self.moving_mean, self.moving_variance), 0)


def conv(
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int = 1,
    has_bias: bool = False,
    symmetric: bool = False,
    *,
    group: int = 1,
    dilation: int = 1,
    padding: Optional[int] = None,
) -> Conv2d:
    """A "same" convolution, or with `symmetric` one that pads both sides alike (PyTorch's), by half a kernel.

    `padding`: pixels on each side in place of that. The bias is zero: 2.10 draws it at random, 1.10 does not.
    """
    if symmetric and padding is None:
        padding = kernel // 2
    return Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        pad_mode="same" if padding is None else "pad",
        padding=padding or 0,
        dilation=dilation,
        group=group,
        has_bias=has_bias,
        weight_init="zeros",  # `init_weights` draws them: MindSpore's own drawing takes seconds for 32 million
        bias_init="zeros",
    )


def conv_bn_relu6(
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int = 1,
    symmetric: bool = False,
    *,
    group: int = 1,
    eps: float = 1e-5,
    momentum: float = 0.9,
) -> nn.SequentialCell:
    """Convolution without bias, BN, ReLU6; names `0.weight`, `1.*`. The defaults are those of the FPN's necks."""
    return nn.SequentialCell(
        [
            conv(channels_in, channels_out, kernel, stride, symmetric=symmetric, group=group),
            BatchNorm2d(channels_out, eps=eps, momentum=momentum),
            nn.ReLU6(),
        ]
    )


class ConvBnRelu6(nn.Cell):
    """`conv_bn_relu6` with the BN of the SSD300 networks (eps 1e-3, momentum 0.97); names `features.0.weight`, ..."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, **options):
        super().__init__()
        self.features = conv_bn_relu6(channels_in, channels_out, kernel, stride, eps=1e-3, momentum=0.97, **options)

    def construct(self, x):
        return self.features(x)


def init_weights(model: nn.Cell, initializer: str = "normal") -> None:
    """A normal of sigma 0.02 for trainable parameters but beta, gamma, bias; docs/reference.md, "Initial weights".

    The published `TruncatedNormal(0.02)` is cut at -2 and 2, a hundred sigma: a normal. Seeded by `mindspore.set_seed`.

    Args:
        initializer: "he" draws with sigma sqrt(2 / inputs) (He et al. 2015, arXiv:1502.01852) all but the predictors.
    """
    seed = mindspore.get_seed() or 0
    drawn = [
        parameter
        for parameter in model.trainable_params()
        if not any(part in parameter.name for part in ("beta", "gamma", "bias"))
    ]

    def draw(number: int) -> np.ndarray:
        parameter = drawn[number]
        inputs = int(np.prod(parameter.shape[1:]))  # of one output: channels of a group x height x width
        sigma = math.sqrt(2 / inputs) if initializer == "he" and not is_predictor(parameter.name) else SIGMA
        return np.float32(sigma) * np.random.default_rng([seed, number]).standard_normal(parameter.shape, np.float32)

    with ThreadPoolExecutor() as pool:  # NumPy lets go of the interpreter while it draws
        for parameter, values in zip(drawn, pool.map(draw, range(len(drawn)))):
            parameter.set_data(Tensor(values, parameter.dtype))
