"""One optimisation step: gradients -> mean over devices -> unscale -> clip -> update, SPEC section 6."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from src.loss import MultiBoxLoss

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
    """(images, gt_loc, gt_label, num_match) -> loss. `network` gives the names of published checkpoints."""

    def __init__(self, model: nn.Cell, loss: nn.Cell):
        super().__init__()
        self.network = model
        self.loss = loss

    def construct(self, images, gt_loc, gt_label, num_match):
        pred_loc, pred_label = self.network(images)
        return self.loss(pred_loc, pred_label, gt_loc, gt_label, num_match)


class TrainStep(nn.Cell):
    """(images, gt_loc, gt_label, num_match) -> loss, and updates the model.

    Args:
        forward: a `ModelWithLoss`.
        optimizer: the optimizer over its trainable parameters.
        loss_scale: the loss is multiplied by it before differentiation.
        clip_global_norm: True divides by the scale and clips to norm 1 here; False leaves the scale to
            the optimizer.
        reducer: averages gradients over devices, or None.
    """

    def __init__(self, forward: nn.Cell, optimizer: nn.Cell, loss_scale: float, clip_global_norm: bool, reducer=None):
        super().__init__(auto_prefix=False)
        self.forward = forward
        self.optimizer = optimizer
        self.weights = optimizer.parameters
        self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)
        self.clip_global_norm = clip_global_norm
        self.reducer = reducer
        self.reduces = reducer is not None
        self.sens = Tensor(float(loss_scale), mstype.float32)
        self.unscale = Tensor(1.0 / float(loss_scale), mstype.float32)
        self.one = Tensor(1.0, mstype.float32)
        self.map, self.sqrt, self.maximum = ops.HyperMap(), ops.Sqrt(), ops.Maximum()

    def construct(self, images, gt_loc, gt_label, num_match):
        loss = self.forward(images, gt_loc, gt_label, num_match)
        gradients = self.gradient(self.forward, self.weights)(images, gt_loc, gt_label, num_match, self.sens)
        if self.reduces:
            gradients = self.reducer(gradients)
        if self.clip_global_norm:
            # one factor for both the scale and the clip: gradient / scale / max(norm, 1)
            squares = self.map(_square_sum, gradients)
            norm = self.sqrt(ops.addn(squares)) * self.unscale
            factor = self.unscale / self.maximum(norm, self.one)
            gradients = self.map(ops.partial(_scale, factor), gradients)
        return ops.depend(loss, self.optimizer(gradients))


def parameter_groups(parameters, weight_decay: float) -> list:
    """Weight decay for everything but BN gamma and beta; biases of convolutions decay (SPEC section 6)."""
    is_norm = [parameter.name.rsplit(".", 1)[-1] in ("gamma", "beta") for parameter in parameters]
    return [
        {"params": [p for p, norm in zip(parameters, is_norm) if not norm], "weight_decay": weight_decay},
        {"params": [p for p, norm in zip(parameters, is_norm) if norm], "weight_decay": 0.0},
        {"order_params": parameters},
    ]


def build_train_step(model: nn.Cell, cfg, learning_rates: np.ndarray, build_reducer=None) -> TrainStep:
    """The training step of a config, in training mode.

    Args:
        model: from `build_model`.
        learning_rates: float32 array, one rate a step.
        build_reducer: parameters -> the Cell that averages gradients over devices (data parallel).

    Returns:
        Cell: (images [B, 3, H, W], gt_loc [B, N, 4], gt_label [B, N], num_match [B]) -> loss.
    """
    forward = ModelWithLoss(model, MultiBoxLoss(cfg.num_classes, cfg.gamma, cfg.alpha))
    # SPEC section 6: the CPU has no use for a scale
    loss_scale = 1.0 if cfg.device_target == "CPU" else float(cfg.loss_scale)
    optimizer = nn.Momentum(
        parameter_groups(forward.trainable_params(), cfg.weight_decay),
        Tensor(np.asarray(learning_rates, np.float32)),
        cfg.momentum,
        loss_scale=1.0 if cfg.use_global_norm else loss_scale,
    )
    reducer = build_reducer(optimizer.parameters) if build_reducer else None
    step = TrainStep(forward, optimizer, loss_scale, bool(cfg.use_global_norm), reducer)
    step.set_train()
    return step
