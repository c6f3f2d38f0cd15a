"""Training step: gradients -> mean over devices -> unscale -> clip -> update; docs/reference.md, "Optimiser"."""

from __future__ import annotations

import contextlib

import numpy as np
from mindspore import Tensor, nn, ops

from src.loss import MultiBoxLoss
from src.training.lean_cell import LeanCell
from src.training.optimizer import AdamW, Momentum, Optimizer
from src.training.reduction import NetworkOrderReducer, averaged_on_host
from src.training.scaled_step import ScaledTrainStep
from src.training.weight_average import WeightAverage
from src.utils.distributed import Communicator


class ModelWithLoss(nn.Cell):
    """(images, gt_loc, gt_label, num_match) -> the two parts of the loss [2], see `MultiBoxLoss.parts`.

    The attribute is called `network`, the prefix of parameter names in published checkpoints.
    """

    def __init__(self, model: nn.Cell, loss: nn.Cell):
        super().__init__()
        self.network = model
        self.loss = loss

    def construct(self, images, gt_loc, gt_label, num_match):
        pred_loc, pred_label = self.network(images)
        return self.loss.parts(pred_loc, pred_label, gt_loc, gt_label, num_match)


class ForwardBackward(LeanCell):
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


class TrainStep(LeanCell):
    """(images, gt_loc, gt_label, num_match) -> metrics [3]; updates the model.

    The metrics are the loss of the classes, the loss of the boxes, and the global norm of the gradient after averaging
    and before clipping. They are one tensor, because each read waits for the device.

    Args:
        forward: a `ModelWithLoss`.
        update: an `Optimizer` of its trainable parameters.
        loss_scale: factor of the loss before differentiation.
        reducer: a `NetworkOrderReducer` that averages the gradients in the graph, or None.
    """

    def __init__(self, forward: nn.Cell, update: nn.Cell, loss_scale: float, reducer=None):
        super().__init__(auto_prefix=False)
        self.forward = forward
        self.gradients = ForwardBackward(forward, (reducer or update).parameters, loss_scale)
        self.reducer = reducer
        self.reduces = reducer is not None
        self.update = update
        self.concat, self.reshape = ops.Concat(), ops.Reshape()
        self._compiling = contextlib.nullcontext()

    def compile_within(self, context) -> None:
        """Set the context manager for the first call, which compiles."""
        self._compiling = context

    def construct(self, images, gt_loc, gt_label, num_match):
        parts, gradients = self.gradients(images, gt_loc, gt_label, num_match)
        if self.reduces:
            gradients = self.reducer(gradients)
        return self.concat((parts, self.reshape(self.update.apply_gradients(gradients), (1,))))

    def __call__(self, images, gt_loc, gt_label, num_match) -> Tensor:
        with self._compiling:
            metrics = super().__call__(images, gt_loc, gt_label, num_match)
            self._compiling = contextlib.nullcontext()
        return metrics


class HostReducedTrainStep(TrainStep):
    """A training step in two graphs with the mean over ranks between them: on a CPU a graph cannot communicate.

    The losses among its metrics are means over the ranks.
    """

    def __init__(self, forward: nn.Cell, update: nn.Cell, loss_scale: float, comm: Communicator):
        super().__init__(forward, update, loss_scale)
        self._comm = comm

    def __call__(self, images, gt_loc, gt_label, num_match) -> Tensor:
        parts, gradients = self.gradients(images, gt_loc, gt_label, num_match)
        parts, *gradients = averaged_on_host([parts, *gradients], self._comm)
        norm = self.update(*map(Tensor, gradients)).asnumpy().reshape(1)
        return Tensor(np.concatenate([parts, norm]))


def build_train_step(model: nn.Cell, cfg, learning_rates: np.ndarray, comm: Communicator = Communicator()) -> TrainStep:
    """Build the training step of a config, in training mode. All ranks start from rank 0's weights.

    Args:
        model: from `build_model`.
        learning_rates: float32 array, one rate per step.
        comm: communication between the processes of the run.

    Returns:
        Cell: (images [B, 3, H, W], gt_loc [B, N, 4], gt_label [B, N], num_match [B]) -> metrics [3], see
        `TrainStep`; a `ScaledTrainStep` with `use_float16`.
    """
    broadcast_parameters(model, comm)
    loss = MultiBoxLoss(cfg.num_classes, cfg.gamma, cfg.alpha, cfg.box_loss, cfg.prior_scaling)
    forward = ModelWithLoss(model, loss)
    # docs/reference.md, "Configuration": 1 on CPU, as in the published scripts
    loss_scale = 1.0 if cfg.device_target == "CPU" else float(cfg.loss_scale)
    update = _optimizer(forward, cfg, learning_rates, 1.0 if cfg.use_float16 else loss_scale)
    reducer = None
    if comm.make_grad_reducer is not None:
        reducer = NetworkOrderReducer(forward.trainable_params(), update.parameters, comm.make_grad_reducer)
    if cfg.use_float16:
        step = ScaledTrainStep(forward, update, loss_scale, comm, reducer)
    elif comm.averages_on_host:
        step = HostReducedTrainStep(forward, update, loss_scale, comm)
    else:
        step = TrainStep(forward, update, loss_scale, reducer)
    step.average = WeightAverage(model, cfg.ema_decay) if cfg.ema_decay else None
    step.set_train()
    return step


def _optimizer(forward: nn.Cell, cfg, learning_rates: np.ndarray, loss_scale: float) -> Optimizer:
    parameters, clips = forward.trainable_params(), bool(cfg.use_global_norm)
    if cfg.optimizer == "adamw":
        return AdamW(parameters, cfg.weight_decay, learning_rates, loss_scale, clips)
    return Momentum(parameters, cfg.weight_decay, learning_rates, cfg.momentum, loss_scale, clips)


def broadcast_parameters(model: nn.Cell, comm: Communicator) -> None:
    """Copy rank 0's parameters, BN statistics included, to every rank."""
    if comm.size > 1:
        first = comm.broadcast_arrays([parameter.asnumpy() for parameter in model.get_parameters()])
        for parameter, value in zip(model.get_parameters(), first):
            parameter.set_data(Tensor(value, parameter.dtype))
