"""The optimisers: SGD with momentum as published, and AdamW; docs/reference.md, "Optimiser" and
"Training options".

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
# of AdamW: decay of the mean of the gradient and of its square, and what is added to the root of the latter
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

# Primitives instead of Python operators: MindSpore compiles each operator on a tensor as a separate graph, and with
# 280 parameters that took 1.5 s at the start.
_add, _multiply, _square, _sum, _assign = ops.Add(), ops.Mul(), ops.Square(), ops.ReduceSum(), ops.Assign()
_apply, _apply_adam = ops.ApplyMomentum(), ops.Adam()
_square_sums = ops.MultitypeFuncGraph("square_sums")
_update = ops.MultitypeFuncGraph("update")
_update_decaying = ops.MultitypeFuncGraph("update_decaying")
_adam = ops.MultitypeFuncGraph("adam")
_decay = ops.MultitypeFuncGraph("decay")


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


@_decay.register("Tensor", "Tensor")
def _decay_tensor(left, weight):
    return _assign(weight, _multiply(weight, left))


@_adam.register(*["Tensor"] * 11)
def _adam_tensor(power1, power2, rate, beta1, beta2, epsilon, factor, weight, mean, square, gradient):
    gradient = _multiply(gradient, factor)
    return _apply_adam(weight, mean, square, power1, power2, rate, beta1, beta2, epsilon, gradient)


class Optimizer(nn.Cell):
    """(gradients of loss * loss_scale) -> their global norm, unscaled, before clipping; updates the weights.

    The gradients are unscaled and, if `clip_global_norm` is set, clipped to a global norm of 1 (Pascanu et al. 2012,
    arXiv:1211.5063). Subclasses say what they do with a weight.

    Args:
        parameters: the trainable parameters, of four dimensions or one. The attribute `parameters` is a tuple of them
            in the order in which the gradients must be passed: kernels, biases, gamma and beta of BN.
        moments: prefix of the names of the first moments, one for every weight.
        weight_decay: applied to all parameters except gamma and beta of BN, also to biases of convolutions.
        rates: float32 array, one learning rate per step.
        loss_scale: factor that the gradients were multiplied by.
        clip_global_norm: clip the gradients to a global norm of 1.
    """

    def __init__(self, parameters, moments, weight_decay, rates, loss_scale: float, clip_global_norm: bool):
        super().__init__(auto_prefix=False)
        kernels = [parameter for parameter in parameters if len(parameter.shape) > 1]
        vectors = [parameter for parameter in parameters if len(parameter.shape) == 1]
        decaying = kernels + [parameter for parameter in vectors if has_weight_decay(parameter.name)]
        others = [parameter for parameter in vectors if not has_weight_decay(parameter.name)]
        self.parameters = ParameterTuple(decaying + others)
        self.moments = self.parameters.clone(prefix=moments, init="zeros")
        # split here instead of in the graph, where it would take time to compile
        count = len(decaying)
        self.decaying, self.decaying_moments = ParameterTuple(decaying), ParameterTuple(self.moments[:count])
        self.others, self.other_moments = ParameterTuple(others), ParameterTuple(self.moments[count:])
        self.counts = len(kernels), count, len(self.parameters)
        self.groups = _groups([4 * int(np.prod(parameter.shape)) for parameter in decaying])
        self.global_step = Parameter(Tensor(np.zeros(1, np.int32)), name="global_step", requires_grad=False)
        self.learning_rate = Parameter(Tensor(np.asarray(rates, np.float32)), name="learning_rate", requires_grad=False)
        self.weight_decay = Tensor(np.float32(weight_decay))
        self.clip_global_norm = clip_global_norm
        self.unscale, self.one = Tensor(np.float32(1.0 / loss_scale)), Tensor(np.float32(1.0))
        self.next = Tensor(np.ones(1, np.int32))
        self.map, self.sqrt, self.maximum = ops.HyperMap(), ops.Sqrt(), ops.Maximum()
        self.concat = ops.Concat()
        self.gather, self.reshape, self.assign_add = ops.Gather(), ops.Reshape(), ops.AssignAdd()

    def start_at(self, step: int) -> None:
        """Set the number of the next step in the schedule, from 0."""
        self.global_step.set_data(Tensor(np.array([step], np.int32)))

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
        norm = self.norm_of(gradients)
        factor = self.unscale
        if self.clip_global_norm:
            # one factor for both the scale and the clip: gradient / scale / max(norm, 1)
            factor = factor / self.maximum(norm, self.one)
        rate = self.reshape(self.gather(self.learning_rate, self.global_step, 0), ())
        return self.update_weights(norm, factor, rate, gradients[:decaying], gradients[decaying:])


class Momentum(Optimizer):
    """SGD with momentum: `v = momentum * v + g + weight_decay * w`, `w = w - rate * v`.

    Its parameters have the names of `nn.Momentum`, which published checkpoints contain: `moments.*`, `global_step`,
    `learning_rate`, `momentum`. The arguments are those of `Optimizer`, and momentum: factor of the old v.
    """

    def __init__(self, parameters, weight_decay, rates, momentum, loss_scale: float, clip_global_norm: bool):
        super().__init__(parameters, "moments", weight_decay, rates, loss_scale, clip_global_norm)
        self.momentum = Parameter(Tensor(np.float32(momentum)), name="momentum", requires_grad=False)

    def update_weights(self, norm, factor, rate, of_decaying, of_others):
        """The update of all weights; returns `norm`, to be read after it."""
        norm = ops.depend(norm, self.assign_add(self.global_step, self.next))
        scale, weight_decay = factor, self.weight_decay
        for start, stop in self.groups:
            update = ops.partial(_update_decaying, self.momentum, rate, scale, weight_decay)
            weights, moments = self.decaying[start:stop], self.decaying_moments[start:stop]
            done = self.map(update, weights, moments, of_decaying[start:stop])
            norm = ops.depend(norm, done)
            # the next group starts after this one
            scale, weight_decay = ops.depend(factor, done), ops.depend(self.weight_decay, done)
        if len(self.others) > 0:
            update = ops.partial(_update, self.momentum, rate, factor)
            norm = ops.depend(norm, self.map(update, self.others, self.other_moments, of_others))
        return norm


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101), in step t from 1:
    `w = w - rate * (c * m / (sqrt(v) + 1e-8) + weight_decay * w)`, where m and v are the moving averages of g and g * g
    with the decays 0.9 and 0.999, and `c = sqrt(1 - 0.999^t) / (1 - 0.9^t)`.

    Its parameters: `moment1.*`, `moment2.*`, `global_step`, `learning_rate`. The arguments are those of `Optimizer`.
    """

    def __init__(self, parameters, weight_decay, rates, loss_scale: float, clip_global_norm: bool):
        super().__init__(parameters, "moment1", weight_decay, rates, loss_scale, clip_global_norm)
        self.squares, count = self.parameters.clone(prefix="moment2", init="zeros"), len(self.decaying)
        self.decaying_squares = ParameterTuple(self.squares[:count])
        self.other_squares = ParameterTuple(self.squares[count:])
        self.beta1, self.beta2 = Tensor(np.float32(BETA1)), Tensor(np.float32(BETA2))
        self.epsilon = Tensor(np.float32(EPSILON))
        self.pow, self.cast = ops.Pow(), ops.Cast()

    def update_weights(self, norm, factor, rate, of_decaying, of_others):
        """As `Momentum.update_weights`."""
        step = self.reshape(self.cast(self.global_step, self.one.dtype), ()) + self.one
        power1, power2 = self.pow(self.beta1, step), self.pow(self.beta2, step)
        norm = ops.depend(norm, self.assign_add(self.global_step, self.next))
        left = self.one - rate * self.weight_decay
        scale = factor
        for start, stop in self.groups:
            weights = self.decaying[start:stop]
            scale = ops.depend(scale, self.map(ops.partial(_decay, ops.depend(left, scale)), weights))
            update = ops.partial(_adam, power1, power2, rate, self.beta1, self.beta2, self.epsilon, scale)
            moments, squares = self.decaying_moments[start:stop], self.decaying_squares[start:stop]
            done = self.map(update, weights, moments, squares, of_decaying[start:stop])
            norm = ops.depend(norm, done)
            scale = ops.depend(factor, done)
        if len(self.others) > 0:
            update = ops.partial(_adam, power1, power2, rate, self.beta1, self.beta2, self.epsilon, factor)
            done = self.map(update, self.others, self.other_moments, self.other_squares, of_others)
            norm = ops.depend(norm, done)
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
