"""Convolution and normalisation with SPEC's settings, and the initialiser of SPEC section 4."""

from __future__ import annotations

from mindspore import nn
from mindspore.common.initializer import TruncatedNormal, initializer


def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, has_bias: bool = False) -> nn.Conv2d:
    """A "same" convolution. The bias is zero: 2.10 draws it at random, 1.10 does not."""
    return nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        pad_mode="same",
        has_bias=has_bias,
        weight_init="normal",
        bias_init="zeros",
    )


def conv_bn_relu6(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.SequentialCell:
    """The block of both necks: convolution without bias, BN (eps 1e-5, momentum 0.9), ReLU6."""
    return nn.SequentialCell(
        [
            conv(channels_in, channels_out, kernel, stride),
            nn.BatchNorm2d(channels_out, eps=1e-5, momentum=0.9),
            nn.ReLU6(),
        ]
    )


def initialize(model: nn.Cell) -> None:
    """Truncated normal, sigma 0.02, for every trainable parameter that is no beta, gamma or bias."""
    for parameter in model.trainable_params():
        if not any(part in parameter.name for part in ("beta", "gamma", "bias")):
            parameter.set_data(initializer(TruncatedNormal(0.02), parameter.shape, parameter.dtype))
