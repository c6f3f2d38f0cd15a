"""Checkpoint -> network: what was loaded, left out and missing, by name (SPEC sections 4 and 9)."""

from __future__ import annotations

import os
from typing import Dict, Sequence

import mindspore as ms
from mindspore import Tensor, nn

from src.errors import UserError
from src.log import LOGGER

BACKBONE = "feature_extractor.resnet."
NETWORK = "network."


def read_checkpoint(path: str, key: str) -> Dict[str, object]:
    """All entries of a checkpoint file.

    Raises:
        UserError: no such file, or one that is damaged; `key` is the option that named it.
    """
    if not os.path.isfile(path):
        raise UserError(f"{key}: no such checkpoint: {path}")
    if not path.endswith(".ckpt"):
        raise UserError(f"{key}: a checkpoint's name ends in .ckpt, got {path}")
    try:
        return ms.load_checkpoint(path)
    except Exception as error:  # MindSpore raises many kinds for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{key}: {path} is damaged or no checkpoint: {reason}") from None


def _bare(name: str) -> str:
    return name[len(NETWORK) :] if name.startswith(NETWORK) else name


def load_network(model: nn.Cell, path: str, key: str, leave_out: Sequence[str] = ()) -> None:
    """Load a whole-network checkpoint (with or without the prefix `network.`) into a model.

    Args:
        leave_out: names of parameters that are not loaded (`filter_weight`).

    Raises:
        UserError: nothing matches, or a parameter has another shape.
    """
    found = {_bare(name): value for name, value in read_checkpoint(path, key).items()}
    left_out = {_bare(name) for name in leave_out}
    wanted = {_bare(parameter.name): parameter for parameter in model.get_parameters()}
    usable = {name: value for name, value in found.items() if name in wanted and name not in left_out}
    _load(usable, wanted, path, key, skipped=[n for n in found if n in left_out])


def load_backbone(model: nn.Cell, path: str, key: str = "feature_extractor_base_param") -> None:
    """Load a ResNet50 checkpoint, whose names may start at the backbone or anywhere above it."""
    found = read_checkpoint(path, key)
    wanted = {_bare(p.name): p for p in model.get_parameters() if _bare(p.name).startswith(BACKBONE)}
    usable = {}
    for name in wanted:
        short = name[len(BACKBONE) :]
        for candidate in (short, "resnet." + short, "backbone." + short, NETWORK + short, name, NETWORK + name):
            if candidate in found:
                usable[name] = found[candidate]
                break
    _load(usable, wanted, path, key, skipped=[])


def _load(usable: dict, wanted: dict, path: str, key: str, skipped: list) -> None:
    if not usable:
        raise UserError(f"{key}: no parameter of {path} belongs to this network; is it a checkpoint of another model?")
    for name, value in usable.items():
        if tuple(value.shape) != tuple(wanted[name].shape):
            raise UserError(
                f"{key}: {name} has shape {tuple(value.shape)} in {path}, the network has "
                f"{tuple(wanted[name].shape)}; other classes? --filter_weight=True leaves the "
                f"predictors out"
            )
    for name, value in usable.items():
        wanted[name].set_data(Tensor(value.asnumpy(), wanted[name].dtype))
    missing = [name for name in wanted if name not in usable]
    LOGGER.info(
        "%s: %d of %d parameters loaded from %s, %d left out", key, len(usable), len(wanted), path, len(skipped)
    )
    for what, names in (("left out", skipped), ("not in the file", missing)):
        if names:
            LOGGER.warning(
                "%s: %d parameters %s: %s%s",
                key,
                len(names),
                what,
                ", ".join(names[:5]),
                ", ..." if len(names) > 5 else "",
            )
