"""A network with a few parameters."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn


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
