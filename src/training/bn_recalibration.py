"""BN running statistics re-estimated from a few batches, for runs too short for the published momentum.

The backbone's running statistics move by 0.3 % per step: after 400 steps a third of them is still the initial
value, and evaluation sees a different network from training (Wu and Johnson 2021, arXiv:2105.07576).
"""

from __future__ import annotations

from itertools import islice
from typing import Iterator

import numpy as np
from mindspore import Tensor, nn

from src.models.parameter_values import get_values, set_values


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
    # A step leaves keep * old + (1 - keep) * new; the Cell stores 1 - keep. From zeros, that is a known fraction of the
    # batch's statistics, whatever the momentum: with 0.9 a moving average would forget all but the last ten batches.
    fractions = [np.float32(norm.momentum) for norm in norms for _ in range(2)]
    sums = [np.zeros(parameter.shape, np.float64) for parameter in statistics]
    zeros, before = [np.zeros(parameter.shape, np.float32) for parameter in statistics], get_values(statistics)
    model.set_train()
    done = 0
    for batch in islice(images, steps):
        set_values(statistics, zeros)
        model(batch)[0].asnumpy()
        for total, parameter, fraction in zip(sums, statistics, fractions):
            total += parameter.asnumpy() / fraction
        done += 1
    set_values(statistics, [(total / done).astype(np.float32) for total in sums] if done else before)
    return done
