"""One optimisation step: gradients -> mean over devices -> unscale -> clip -> update, SPEC section 6."""

from __future__ import annotations

import contextlib

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from src.loss import MultiBoxLoss
from src.ranks import Ranks

_square_sum = ops.MultitypeFuncGraph("square_sum")


@_square_sum.register("Tensor")
def _square_sum_tensor(gradient):
    gradient = gradient.astype(mstype.float32)
    return ops.ReduceSum()(gradient * gradient)


_scale = ops.MultitypeFuncGraph("scale")


@_scale.register("Tensor", "Tensor")
def _scale_tensor(factor, gradient):
    return gradient * factor.astype(gradient.dtype)


class ModelWithLoss(nn.Cell):
    """(images, gt_loc, gt_label, num_match) -> the loss's two parts [2], see `MultiBoxLoss.parts`.

    `network` gives the names of published checkpoints.
    """

    def __init__(self, model: nn.Cell, loss: nn.Cell):
        super().__init__()
        self.network = model
        self.loss = loss

    def construct(self, images, gt_loc, gt_label, num_match):
        pred_loc, pred_label = self.network(images)
        return self.loss.parts(pred_loc, pred_label, gt_loc, gt_label, num_match)


class Gradients(nn.Cell):
    """(images, gt_loc, gt_label, num_match) -> (parts of the loss [2], gradients of their sum * loss_scale)."""

    def __init__(self, forward: nn.Cell, weights, loss_scale: float):
        super().__init__(auto_prefix=False)
        self.forward = forward
        self.weights = weights
        self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)
        self.sens = Tensor(np.full(2, loss_scale, np.float32))

    def construct(self, images, gt_loc, gt_label, num_match):
        parts = self.forward(images, gt_loc, gt_label, num_match)
        return parts, self.gradient(self.forward, self.weights)(images, gt_loc, gt_label, num_match, self.sens)


class Update(nn.Cell):
    """Gradients -> their global norm before clipping; unscales, clips to norm 1 and updates the weights.

    Args:
        clip_global_norm: True divides by the scale and clips here; False leaves the scale to the optimizer.
    """

    def __init__(self, optimizer: nn.Cell, loss_scale: float, clip_global_norm: bool):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.clip_global_norm = clip_global_norm
        self.unscale = Tensor(1.0 / float(loss_scale), mstype.float32)
        self.one = Tensor(1.0, mstype.float32)
        self.map, self.sqrt, self.maximum = ops.HyperMap(), ops.Sqrt(), ops.Maximum()

    # one argument each: a tuple would be compiled anew for every step
    def construct(self, *gradients):
        norm = self.sqrt(ops.addn(self.map(_square_sum, gradients))) * self.unscale
        if self.clip_global_norm:
            # one factor for both the scale and the clip: gradient / scale / max(norm, 1)
            factor = self.unscale / self.maximum(norm, self.one)
            gradients = self.map(ops.partial(_scale, factor), gradients)
        return ops.depend(norm, self.optimizer(gradients))


class TrainStep(nn.Cell):
    """(images, gt_loc, gt_label, num_match) -> loss, and updates the model.

    Of the last step: `norm`, its gradient's, and `parts`, (classes, boxes), the loss's two parts.

    Args:
        forward: a `ModelWithLoss`.
        optimizer: the optimizer over its trainable parameters.
        loss_scale: the loss is multiplied by it before differentiation.
        clip_global_norm: see `Update`.
        reducer: averages gradients over devices, or None.
    """

    def __init__(self, forward: nn.Cell, optimizer: nn.Cell, loss_scale: float, clip_global_norm: bool, reducer=None):
        super().__init__(auto_prefix=False)
        self.forward = forward
        self.gradients = Gradients(forward, optimizer.parameters, loss_scale)
        self.reducer = reducer
        self.reduces = reducer is not None
        self.update = Update(optimizer, loss_scale, clip_global_norm)
        self.sum = ops.ReduceSum()
        self._parts = self._norm = None
        self._compiling = contextlib.nullcontext()

    def compile_within(self, context) -> None:
        """A context manager that the first call, which compiles, runs in."""
        self._compiling = context

    @property
    def parts(self) -> tuple:
        """(classes, boxes): the two parts of the last step's loss."""
        return tuple(self._parts.asnumpy().tolist())

    @property
    def norm(self) -> float:
        """Global norm of the last step's gradient, after averaging and before clipping; NaN before the first."""
        return float("nan") if self._norm is None else float(self._norm.asnumpy())

    def construct(self, images, gt_loc, gt_label, num_match):
        parts, gradients = self.gradients(images, gt_loc, gt_label, num_match)
        if self.reduces:
            gradients = self.reducer(gradients)
        return self.sum(parts), parts, self.update(*gradients)

    def __call__(self, images, gt_loc, gt_label, num_match) -> Tensor:
        with self._compiling:
            loss, self._parts, self._norm = super().__call__(images, gt_loc, gt_label, num_match)
            self._compiling = contextlib.nullcontext()
        return loss


class RanksTrainStep(TrainStep):
    """The step in two graphs, with the mean over ranks between them: on a CPU no graph can hold an exchange.

    Its loss is the mean over the ranks.
    """

    def __init__(self, forward: nn.Cell, optimizer: nn.Cell, loss_scale: float, clip_global_norm: bool, ranks: Ranks):
        super().__init__(forward, optimizer, loss_scale, clip_global_norm)
        self._ranks = ranks

    def __call__(self, images, gt_loc, gt_label, num_match) -> Tensor:
        parts, gradients = self.gradients(images, gt_loc, gt_label, num_match)
        # one flat array: a hundred small exchanges cost more than a large one
        pieces = [parts.asnumpy(), *(gradient.asnumpy().reshape(-1) for gradient in gradients)]
        flat = np.concatenate(pieces).astype(np.float32, copy=False)
        self._ranks.average(flat)
        averaged, start = [], 2
        for gradient in gradients:
            averaged.append(Tensor(flat[start : start + gradient.size].reshape(gradient.shape)))
            start += gradient.size
        self._norm = self.update(*averaged)
        self._parts = Tensor(flat[:2])
        return Tensor(flat[:2].sum())


def parameter_groups(parameters, weight_decay: float) -> list:
    """Weight decay for everything but BN gamma and beta; biases of convolutions decay (SPEC section 6)."""
    is_norm = [parameter.name.rsplit(".", 1)[-1] in ("gamma", "beta") for parameter in parameters]
    return [
        {"params": [p for p, norm in zip(parameters, is_norm) if not norm], "weight_decay": weight_decay},
        {"params": [p for p, norm in zip(parameters, is_norm) if norm], "weight_decay": 0.0},
        {"order_params": parameters},
    ]


def build_train_step(model: nn.Cell, cfg, learning_rates: np.ndarray, ranks: Ranks = Ranks()) -> TrainStep:
    """The training step of a config, in training mode. All ranks start from rank 0's weights.

    Args:
        model: from `build_model`.
        learning_rates: float32 array, one rate a step.
        ranks: the processes of the run.

    Returns:
        Cell: (images [B, 3, H, W], gt_loc [B, N, 4], gt_label [B, N], num_match [B]) -> loss.
    """
    same_weights(model, ranks)
    forward = ModelWithLoss(model, MultiBoxLoss(cfg.num_classes, cfg.gamma, cfg.alpha))
    # SPEC section 6: the CPU has no use for a scale
    loss_scale = 1.0 if cfg.device_target == "CPU" else float(cfg.loss_scale)
    optimizer = nn.Momentum(
        parameter_groups(forward.trainable_params(), cfg.weight_decay),
        Tensor(np.asarray(learning_rates, np.float32)),
        cfg.momentum,
        loss_scale=1.0 if cfg.use_global_norm else loss_scale,
    )
    clip = bool(cfg.use_global_norm)
    if ranks.outside_graph:
        step = RanksTrainStep(forward, optimizer, loss_scale, clip, ranks)
    else:
        reducer = ranks.build_reducer(optimizer.parameters) if ranks.build_reducer else None
        step = TrainStep(forward, optimizer, loss_scale, clip, reducer)
    step.set_train()
    return step


def same_weights(model: nn.Cell, ranks: Ranks) -> None:
    """Give every rank rank 0's parameters, averages of BN included."""
    if ranks.size > 1:
        first = ranks.first([parameter.asnumpy() for parameter in model.get_parameters()])
        for parameter, value in zip(model.get_parameters(), first):
            parameter.set_data(Tensor(value, parameter.dtype))
