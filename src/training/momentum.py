"""SGD with momentum and weight decay, one factor for loss scale and clipping; docs/reference.md, "Optimiser".

Few operations, as each one of each parameter takes its time to compile, and groups of parameters, which save memory.

To remove: `nn.Momentum` and `ops.clip_by_global_norm`, as in `benchmarks/start_baseline.py`; the names in a checkpoint
are the same.
"""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

# Groups of parameters are updated one after the other. Otherwise MindSpore computes each intermediate result for all
# parameters before the next one: two more copies of the network in memory, 200 MB.
GROUP_BYTES = 8 << 20

# Primitives instead of Python operators: MindSpore compiles each operator on a tensor as a separate graph, and with
# 280 parameters that took 1.5 s at the start.
_add, _multiply, _square, _sum = ops.Add(), ops.Mul(), ops.Square(), ops.ReduceSum()
_apply = ops.ApplyMomentum()
_square_sums = ops.MultitypeFuncGraph("square_sums")
_update = ops.MultitypeFuncGraph("update")
_update_decaying = ops.MultitypeFuncGraph("update_decaying")


@_square_sums.register("Tensor")
def _square_sums_tensor(kernel):
    # channel by channel: a sum over all dimensions runs on one core
    return _sum(_square(kernel), (1, 2, 3))


@_update.register("Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor")
def _update_tensor(momentum, rate, factor, weight, moment, gradient):
    return _apply(weight, moment, rate, _multiply(gradient, factor), momentum)


@_update_decaying.register("Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor")
def _update_decaying_tensor(momentum, rate, factor, weight_decay, weight, moment, gradient):
    gradient = _add(_multiply(gradient, factor), _multiply(weight, weight_decay))
    return _apply(weight, moment, rate, gradient, momentum)


class Momentum(nn.Cell):
    """(gradients of loss * loss_scale) -> their global norm, unscaled, before clipping; updates the weights.

    Per weight: `v = momentum * v + g`, `w = w - rate * v`, where g is the unscaled gradient, clipped to a global norm
    of 1 (Pascanu et al. 2012, arXiv:1211.5063) if `clip_global_norm` is set, plus `weight_decay * w`.

    Its parameters have the names of `nn.Momentum`, which published checkpoints contain: `moments.*`, `global_step`,
    `learning_rate`, `momentum`.

    Args:
        parameters: the trainable parameters, of four dimensions or one. The attribute `parameters` is a tuple of them
            in the order in which the gradients must be passed: kernels, biases, gamma and beta of BN.
        weight_decay: applied to all parameters except gamma and beta of BN, also to biases of convolutions.
        rates: float32 array, one learning rate per step.
        momentum: factor of the old v.
        loss_scale: factor that the gradients were multiplied by.
        clip_global_norm: clip the gradients to a global norm of 1.
    """

    def __init__(self, parameters, weight_decay, rates, momentum, loss_scale: float, clip_global_norm: bool):
        super().__init__(auto_prefix=False)
        kernels = [parameter for parameter in parameters if len(parameter.shape) > 1]
        vectors = [parameter for parameter in parameters if len(parameter.shape) == 1]
        decaying = kernels + [parameter for parameter in vectors if has_weight_decay(parameter.name)]
        others = [parameter for parameter in vectors if not has_weight_decay(parameter.name)]
        self.parameters = ParameterTuple(decaying + others)
        self.moments = self.parameters.clone(prefix="moments", init="zeros")
        # split here instead of in the graph, where it would take time to compile
        count = len(decaying)
        self.decaying, self.decaying_moments = ParameterTuple(decaying), ParameterTuple(self.moments[:count])
        self.others, self.other_moments = ParameterTuple(others), ParameterTuple(self.moments[count:])
        self.counts = len(kernels), count, len(self.parameters)
        self.groups = _groups([4 * int(np.prod(parameter.shape)) for parameter in decaying])
        self.global_step = Parameter(Tensor(np.zeros(1, np.int32)), name="global_step", requires_grad=False)
        self.learning_rate = Parameter(Tensor(np.asarray(rates, np.float32)), name="learning_rate", requires_grad=False)
        self.momentum = Parameter(Tensor(np.float32(momentum)), name="momentum", requires_grad=False)
        self.weight_decay = Tensor(np.float32(weight_decay))
        self.clip_global_norm = clip_global_norm
        self.unscale, self.one = Tensor(np.float32(1.0 / loss_scale)), Tensor(np.float32(1.0))
        self.next = Tensor(np.ones(1, np.int32))
        self.map, self.sqrt, self.maximum = ops.HyperMap(), ops.Sqrt(), ops.Maximum()
        self.concat = ops.Concat()
        self.gather, self.reshape, self.assign_add = ops.Gather(), ops.Reshape(), ops.AssignAdd()

    # each gradient is an argument: with a tuple every step would be compiled again
    def construct(self, *gradients):
        return self.apply_gradients(gradients)

    def norm_of(self, gradients):
        """The global norm of a tuple of gradients, unscaled."""
        kernels, decaying, everything = self.counts
        squares = ()
        if kernels > 0:
            squares += self.map(_square_sums, gradients[:kernels])
        # all vectors in one sum: two hundred squares and sums take most of a second to compile
        if decaying > kernels:
            squares += (_square(self.concat(gradients[kernels:decaying])),)
        if everything > decaying:
            squares += (_square(self.concat(gradients[decaying:])),)
        return self.sqrt(_sum(self.concat(squares))) * self.unscale

    def apply_gradients(self, gradients):
        """As `construct`, for a graph that already has the gradients in a tuple."""
        _, decaying, everything = self.counts
        of_decaying, of_others = gradients[:decaying], gradients[decaying:]
        norm = self.norm_of(gradients)
        factor = self.unscale
        if self.clip_global_norm:
            # one factor for both the scale and the clip: gradient / scale / max(norm, 1)
            factor = factor / self.maximum(norm, self.one)
        rate = self.reshape(self.gather(self.learning_rate, self.global_step, 0), ())
        norm = ops.depend(norm, self.assign_add(self.global_step, self.next))
        scale, weight_decay = factor, self.weight_decay
        for start, stop in self.groups:
            update = ops.partial(_update_decaying, self.momentum, rate, scale, weight_decay)
            weights, moments = self.decaying[start:stop], self.decaying_moments[start:stop]
            done = self.map(update, weights, moments, of_decaying[start:stop])
            norm = ops.depend(norm, done)
            # the next group starts after this one
            scale, weight_decay = ops.depend(factor, done), ops.depend(self.weight_decay, done)
        if everything > decaying:
            update = ops.partial(_update, self.momentum, rate, factor)
            norm = ops.depend(norm, self.map(update, self.others, self.other_moments, of_others))
        return norm


def _groups(sizes: List[int]) -> Tuple[Tuple[int, int], ...]:
    """(start, stop) of groups of parameters of about `GROUP_BYTES`; a larger parameter makes one group."""
    groups, start, group_bytes = [], 0, 0
    for index, size in enumerate(sizes):
        if group_bytes and group_bytes + size > GROUP_BYTES:
            groups.append((start, index))
            start, group_bytes = index, 0
        group_bytes += size
    return tuple(groups + [(start, len(sizes))] * bool(sizes))


def has_weight_decay(name: str) -> bool:
    """Whether a parameter of this name is subject to weight decay: all except gamma and beta of BN."""
    return name.rsplit(".", 1)[-1] not in ("gamma", "beta")
