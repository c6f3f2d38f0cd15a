"""The float16 training step: a dynamic loss scale, and steps that overflow are skipped.

The largest float16 is 65504, so a gradient multiplied by the loss scale overflows now and then. Such a step only
lowers the scale and moves on to the next learning rate (Micikevicius et al. 2018, arXiv:1710.03740).
"""

from __future__ import annotations

import contextlib
from typing import List

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from src.training.lean_cell import LeanCell
from src.training.reduction import averaged_on_host
from src.utils.distributed import Communicator

GROWS_AFTER = 2000  # good steps
SMALLEST = 1.0
MOST_IN_A_ROW = 20

_multiply = ops.Mul()
_unscaled = ops.MultitypeFuncGraph("unscaled")


@_unscaled.register("Tensor", "Tensor")
def _unscaled_tensor(unscale, gradient):
    return _multiply(gradient, unscale)


class LossScale:
    """Dynamic loss scale: halved at an overflow (not below 1), doubled after 2000 good steps (not above its start).

    value: scale of the next step; good: steps since the last change; in_a_row: overflows since the last good step.
    """

    def __init__(self, start: float):
        self.value = self._largest = float(start)
        self.good = self.in_a_row = 0

    def stepped(self, overflowed: bool) -> None:
        """Update the scale after a step."""
        if overflowed:
            self.value = max(self.value / 2, min(SMALLEST, self._largest))
            self.good, self.in_a_row = 0, self.in_a_row + 1
            return
        self.good, self.in_a_row = self.good + 1, 0
        if self.good == GROWS_AFTER:
            self.value, self.good = min(self.value * 2, self._largest), 0

    @property
    def state(self) -> List[float]:
        """The values that a resumed run needs, for `restore`."""
        return [self.value, self.good, self.in_a_row]

    def restore(self, state: List[float]) -> None:
        """Continue from a `state`; the scale is limited to the start value of this run."""
        self.value = min(float(state[0]), self._largest)
        self.good, self.in_a_row = int(state[1]), int(state[2])


class _Gradients(LeanCell):
    """(images, gt_loc, gt_label, num_match, scale [2], unscale []) -> (parts of the loss [2], norm, gradients).

    The loss is multiplied by `scale`, and gradients and norm by `unscale`.
    """

    def __init__(self, forward: nn.Cell, update: nn.Cell, reducer):
        super().__init__(auto_prefix=False)
        self.forward = forward
        self.update = update
        self.weights = (reducer or update).parameters
        self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)
        self.reducer = reducer
        self.reduces = reducer is not None
        self.map = ops.HyperMap()

    def construct(self, images, gt_loc, gt_label, num_match, scale, unscale):
        parts = self.forward(images, gt_loc, gt_label, num_match)
        gradients = self.gradient(self.forward, self.weights)(images, gt_loc, gt_label, num_match, scale)
        if self.reduces:
            gradients = self.reducer(gradients)
        gradients = self.map(ops.partial(_unscaled, unscale), gradients)
        return parts, self.update.norm_of(gradients), gradients


class _RunningStatistics(nn.Cell):
    """() -> the running statistics of all BN layers in one array."""

    def __init__(self, parameters: list):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)
        self.concat = ops.Concat()

    def construct(self):
        return self.concat(self.parameters)


class _Outcome(nn.Cell):
    """(parts of the loss [2], norm []) -> [4]: these, and the sum of the magnitudes of all running statistics.

    One tensor, as each read waits for the device.
    """

    def __init__(self, statistics: _RunningStatistics):
        super().__init__(auto_prefix=False)
        self.statistics = statistics
        self.concat, self.reshape, self.sum, self.abs = ops.Concat(), ops.Reshape(), ops.ReduceSum(), ops.Abs()

    def construct(self, parts, norm):
        size = self.sum(self.abs(self.statistics()))
        return self.concat((parts, self.reshape(norm, (1,)), self.reshape(size, (1,))))


class ScaledTrainStep(nn.Cell):
    """(images, gt_loc, gt_label, num_match) -> metrics [3]; updates the model unless the step overflowed.

    The metrics are those of `src.training.step.TrainStep`. Gradients and update are separate graphs; between them the
    metrics are read, and all ranks decide together whether the step is skipped. Attribute: `overflowed`, of the last step.

    Args:
        forward: a `ModelWithLoss`.
        update: an `Optimizer` of its trainable parameters, with loss_scale 1.
        scale: loss scale of the first step.
        comm: communication between the processes of the run.
        reducer: a `NetworkOrderReducer` that averages the gradients in the graph, or None.
    """

    def __init__(
        self, forward: nn.Cell, update: nn.Cell, scale: float, comm: Communicator = Communicator(), reducer=None
    ):
        super().__init__(auto_prefix=False)
        self.forward = forward
        self.update = update
        self.gradients = _Gradients(forward, update, reducer)
        names = ("moving_mean", "moving_variance")
        self.statistics = _RunningStatistics([p for p in forward.get_parameters() if p.name.endswith(names)])
        self.outcome = _Outcome(self.statistics)
        self.scale = LossScale(scale)
        self._comm = comm
        self.overflowed = False
        self._compiling = contextlib.nullcontext()

    def compile_within(self, context) -> None:
        """Set the context manager in which the first call compiles the gradients."""
        self._compiling = context

    def __call__(self, images, gt_loc, gt_label, num_match) -> Tensor:
        before = self.statistics()
        scale = np.float32(self.scale.value)
        sides = Tensor(np.full(2, scale)), Tensor(np.float32(1) / scale)
        with self._compiling:
            parts, norm, gradients = self.gradients(images, gt_loc, gt_label, num_match, *sides)
            self._compiling = contextlib.nullcontext()
        # the statistics too: a ReLU can hide an overflow from all later layers
        outcome = self.outcome(parts, norm)
        if self._comm.averages_on_host:
            outcome, *gradients = averaged_on_host([outcome, *gradients], self._comm)
            gradients = map(Tensor, gradients)
        else:
            outcome = outcome.asnumpy()
        self.overflowed = self._comm.all_reduce_max(int(not np.isfinite(outcome).all())) > 0
        metrics = outcome[:3]
        if self.overflowed:
            self._skip(before.asnumpy())
        else:
            norm = self.update(*gradients)
            if self._comm.averages_on_host:  # before, it was a mean of the ranks' norms
                metrics = np.append(outcome[:2], norm.asnumpy())
        self.scale.stepped(self.overflowed)
        return Tensor(metrics)

    def _skip(self, before: np.ndarray) -> None:
        """Restore the running statistics from before the forward pass, and count the step in the schedule."""
        start = 0
        for parameter in self.statistics.parameters:
            parameter.set_data(Tensor(before[start : start + parameter.size].reshape(parameter.shape)))
            start += parameter.size
        self.update.start_at(int(self.update.global_step.asnumpy()[0]) + 1)
