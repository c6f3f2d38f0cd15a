"""Exponential moving average (EMA) of a network's parameters (Polyak and Juditsky 1992); docs/reference.md,
"Training options"."""

from __future__ import annotations

import contextlib
from typing import Iterator

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from src.models.parameter_names import AVERAGE
from src.models.parameter_values import get_values, set_values, temporary_values

_move = ops.MultitypeFuncGraph("move")
_add, _multiply, _subtract, _assign = ops.Add(), ops.Mul(), ops.Sub(), ops.Assign()


@_move.register("Tensor", "Tensor", "Tensor")
def _move_tensor(share, average, value):
    return _assign(average, _add(average, _multiply(_subtract(value, average), share)))


class WeightAverage(nn.Cell):
    """`average = average + (1 - d) * (parameter - average)` after every step, of weights and BN statistics.

    d is `decay`, and less in the first steps, in which there is little to average: `min(decay, (1 + t) / (10 + t))`
    with t steps done before. The averages are parameters with the prefix `ema.`, saved with the run.
    """

    def __init__(self, network: nn.Cell, decay: float):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.live = ParameterTuple(network.get_parameters())
        self.averages = self.live.clone(prefix=AVERAGE.rstrip("."), init="same")
        self.map = ops.HyperMap()

    def construct(self, share):
        return self.map(ops.partial(_move, share), self.averages, self.live)

    def stepped(self, steps: int) -> None:
        """Average the parameters after a step. steps: done before it, since the start of the run."""
        self(Tensor(np.float32(1 - min(self.decay, (1 + steps) / (10 + steps)))))

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside the block the network has the averages; what changes there (BN statistics) is kept as average."""
        with temporary_values(self.live, get_values(self.averages)):
            try:
                yield
            finally:
                set_values(self.averages, get_values(self.live))
