"""BN running statistics re-estimated from a few batches, for runs too short for the published momentum.

The backbone's running statistics move by 0.3 % per step: after 400 steps a third of them is still the initial
value, and evaluation sees a different network from training (Wu and Johnson 2021, arXiv:2105.07576).
"""

from __future__ import annotations

from itertools import islice
from typing import Iterator

import numpy as np
from mindspore import Tensor, nn


def recalibrate(model: nn.Cell, images: Iterator[Tensor], steps: int) -> int:
    """Replace moving mean and variance of every BN layer that is not frozen by averages over `steps` batches; nothing
    else changes.

    Args:
        images: batches [B, 3, H, W] as in training.

    Returns:
        The number of batches used, less than `steps` if `images` ends earlier.
    """
    norms = [cell for _, cell in model.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    norms = [norm for norm in norms if not getattr(norm, "frozen", False)]
    statistics = [parameter for norm in norms for parameter in (norm.moving_mean, norm.moving_variance)]
    before = [parameter.asnumpy().copy() for parameter in statistics]
    for parameter in statistics:
        parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
    model.set_train()
    done = 0
    for batch in islice(images, steps):
        model(batch)[0].asnumpy()
        done += 1
    for index, parameter in enumerate(statistics):
        # in a moving average that starts at zero, n batches have a total weight of 1 - keep^n; the Cell stores 1 - keep
        weight = 1 - (1 - float(norms[index // 2].momentum)) ** done
        parameter.set_data(Tensor(parameter.asnumpy() / np.float32(weight) if done else before[index]))
    return done
