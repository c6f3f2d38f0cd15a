"""`build_model(cfg)`: the network that `model_name` stands for in `src.config.networks`."""

from __future__ import annotations

import importlib

import mindspore
import numpy as np
from mindspore import Tensor, nn
from mindspore import dtype as mstype

from src.config import NETWORKS, check_network
from src.models.cpu_conv import use_cpu_conv
from src.models.layers import BatchNorm2d, NormalizePixels, init_weights
from src.models.parameter_names import is_class_output, without_network_prefix
from src.utils.errors import UserError
from src.utils.log import LOGGER


def build_model(cfg) -> nn.Cell:
    """The network of a config with its initial weights: images [B, 3, H, W] -> (pred_loc, pred_label).

    Raises:
        UserError: unknown `model_name`, or keys that contradict the network (`src.config.check_network`).
    """
    check_network(cfg)
    module, function = NETWORKS[cfg.model_name].build.split(":")
    model = getattr(importlib.import_module(module), function)(cfg)
    init_weights(model, cfg.initializer)
    if cfg.class_prior:
        _set_class_prior(model, cfg.class_prior, cfg.num_classes)
    if cfg.use_float16:
        _to_float16(model, mindspore.get_context("device_target"))
    else:
        use_cpu_conv(model)
    return model


def _set_class_prior(model: nn.Cell, prior: float, num_classes: int) -> None:
    """Biases with which every class scores `prior` at first, and the background 1 - `prior` (Lin et al. 2017,
    arXiv:1708.02002, section 4.1): without them the first steps only teach that most default boxes are background."""
    of_box = np.full(num_classes, np.log(prior / (1 - prior)), np.float32)
    of_box[0] *= -1
    for parameter in model.get_parameters():
        if is_class_output(parameter.name) and parameter.name.endswith(".bias"):
            parameter.set_data(Tensor(np.tile(of_box, parameter.size // num_classes)))


def _to_float16(model: nn.Cell, target: str) -> None:
    """The network in float16; its parameters, BN statistics and the normalisation of pixels stay float32, as decoding
    and loss.

    BN of a float16 input with float32 statistics is one kernel on a GPU and Ascend, which the compiler fuses with what
    follows; in float32 it would be surrounded by 400 casts, and as many changes of the layout. A CPU has no such kernel.
    """
    model.to_float(mstype.float16)
    in_float32 = (nn.BatchNorm2d, NormalizePixels) if target == "CPU" else NormalizePixels
    for _, cell in model.cells_and_names():
        if isinstance(cell, in_float32):
            cell.to_float(mstype.float32)


def freeze(model: nn.Cell, layer) -> None:
    """Parameters that are not trained: None, `backbone`, or a list of name prefixes.

    BN whose parameters are all among them is frozen too: it uses its running statistics and does not update them.

    Raises:
        UserError: a prefix that no parameter has, or nothing is left to train.
    """
    if layer is None:
        return
    prefixes = [model.backbone_prefix] if layer == "backbone" else list(layer)
    parameters = {without_network_prefix(parameter.name): parameter for parameter in model.get_parameters()}
    names = set()
    for prefix in prefixes:
        frozen = [name for name in parameters if name.startswith(without_network_prefix(prefix))]
        if not frozen:
            raise UserError(
                f"freeze_layer: no parameter's name begins with '{prefix}'; one is {next(iter(parameters))}"
            )
        for name in frozen:
            parameters[name].requires_grad = False
        names.update(frozen)
        LOGGER.info("freeze_layer %s: %d parameters are not trained", prefix, len(frozen))
    if not model.trainable_params():
        raise UserError(f"freeze_layer: {layer} leaves nothing to train")
    norms = [cell for _, cell in model.cells_and_names() if isinstance(cell, BatchNorm2d)]
    norms = [
        norm
        for norm in norms
        if all(without_network_prefix(parameter.name) in names for parameter in norm.get_parameters())
    ]
    for norm in norms:
        norm.freeze()
    LOGGER.info("freeze_layer: %d BN layers use their running statistics and keep them", len(norms))
