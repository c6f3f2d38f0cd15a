"""A network with a few parameters."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


class Small(nn.Cell):
    """A few parameters, one of them a scalar."""

    def __init__(self, value=0.0):
        super().__init__()
        rng = np.random.default_rng(0)
        self.weight = Parameter(Tensor(rng.normal(size=(40, 30)).astype(np.float32) + value), name="a.weight")
        self.moment = Parameter(Tensor(np.full((7,), value, np.float32)), name="moments.a")
        self.steps = Parameter(Tensor(np.array([3 + int(value)], np.int32)), name="global_step")
        self.momentum = Parameter(Tensor(0.9, ms.float32), name="momentum")
        self.rates = Parameter(Tensor(np.full(5, value, np.float32)), name="learning_rate")


class TinyDetector(nn.Cell):
    """pixels uint8 [B, 32, 32, 3] or normalised float32 [B, 3, 32, 32] -> boxes [B, 256, 4], scores [B, 256, 3].

    Convolutions with BN, stacked branches, box decoding: the parts of an exported network, in a second.
    """

    def __init__(self, seed=0):
        super().__init__()
        from src.models.layers import NormalizePixels

        self.pixels = NormalizePixels()
        rng = np.random.default_rng(seed)

        def conv(channels_in, channels_out, stride=1):
            weight = rng.normal(0, (2 / (9 * channels_in)) ** 0.5, (channels_out, channels_in, 3, 3))
            weight = Tensor(weight.astype(np.float32))
            return nn.Conv2d(channels_in, channels_out, 3, stride, pad_mode="same", weight_init=weight)

        self.stem = nn.SequentialCell([conv(3, 16, 2), nn.BatchNorm2d(16, eps=1e-3), nn.ReLU()])
        self.left = nn.SequentialCell([conv(16, 16), nn.BatchNorm2d(16, eps=1e-3), nn.ReLU6()])
        self.right = nn.SequentialCell([conv(16, 16), nn.BatchNorm2d(16, eps=1e-3), nn.ReLU6()])
        for cell in (self.stem, self.left, self.right):
            cell[1].moving_mean.set_data(Tensor(rng.normal(0, 0.3, 16).astype(np.float32)))
            cell[1].moving_variance.set_data(Tensor(rng.uniform(0.5, 2, 16).astype(np.float32)))
        self.loc, self.cls = conv(32, 4), conv(32, 3)
        self.size = Tensor(np.full((1, 256, 2), 0.2, np.float32))
        self.centre = Tensor(rng.uniform(0.2, 0.8, (1, 256, 2)).astype(np.float32))
        self.stack, self.concat, self.exp, self.sigmoid = ops.Stack(1), ops.Concat(-1), ops.Exp(), ops.Sigmoid()
        self.reshape, self.transpose = ops.Reshape(), ops.Transpose()

    def construct(self, x):
        x = self.stem(self.pixels(x))
        batch = x.shape[0]
        x = self.reshape(self.stack((self.left(x), self.right(x))), (batch, 32, 16, 16))
        loc = self.reshape(self.transpose(self.loc(x), (0, 2, 3, 1)), (batch, -1, 4)) * 0.1
        cls = self.reshape(self.transpose(self.cls(x), (0, 2, 3, 1)), (batch, -1, 3))
        centre = loc[:, :, :2] * self.size + self.centre
        half = self.exp(loc[:, :, 2:]) * self.size * 0.5
        return self.concat((centre - half, centre + half)), self.sigmoid(cls)
