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
    """Replace every BN's moving mean and variance by averages over `steps` batches; nothing else changes. Frozen BN
    keeps its own.

    Args:
        images: batches [B, 3, H, W] as in training.

    Returns:
        The number of batches there were.
    """
    norms = [cell for _, cell in model.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    norms = [norm for norm in norms if not getattr(norm, "frozen", False)]
    averages = [parameter for norm in norms for parameter in (norm.moving_mean, norm.moving_variance)]
    before = [parameter.asnumpy().copy() for parameter in averages]
    for parameter in averages:
        parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
    model.set_train()
    done = 0
    for batch in islice(images, steps):
        model(batch)[0].asnumpy()
        done += 1
    for index, parameter in enumerate(averages):
        # started at zero, an average over n batches holds 1 - keep^n of the truth; the Cell stores 1 - keep
        share = 1 - (1 - float(norms[index // 2].momentum)) ** done
        parameter.set_data(Tensor(parameter.asnumpy() / np.float32(share) if done else before[index]))
    return done
