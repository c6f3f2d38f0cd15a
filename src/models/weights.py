"""Checkpoint -> network: what was loaded, left out and missing, by name (SPEC sections 4 and 9)."""

from __future__ import annotations

from typing import Dict, Sequence

from mindspore import Tensor, nn

from src.errors import UserError
from src.log import LOGGER
from src.models.checkpoint_file import read_checkpoint

BACKBONE = "feature_extractor.resnet."
NETWORK = "network."
MOMENTS = "moments."
OF_A_TRAINING = ("global_step", "momentum", "learning_rate", "run_state")
SHOWN = 5


def bare(name: str) -> str:
    """A parameter's name without the prefix of the inference network."""
    return name[len(NETWORK) :] if name.startswith(NETWORK) else name


def _without_prefix(found: Dict[str, object], wanted: Dict[str, object], path: str) -> Dict[str, object]:
    """The entries under the network's names, where all of them stand below a prefix of another program."""
    if any(name in wanted for name in found):
        return found
    some = next(iter(wanted))
    for prefix in (name[: -len(some)] for name in found if name.endswith("." + some)):
        inner = {name[len(prefix) :]: value for name, value in found.items() if name.startswith(prefix)}
        if all(name in inner for name in wanted):
            LOGGER.info("the names in %s stand below '%s', which is taken off", path, prefix)
            return inner
    return found


def load_network(model: nn.Cell, path: str, key: str, leave_out: Sequence[str] = (), needs_all: bool = False) -> None:
    """Load a whole-network checkpoint (with or without the prefix `network.`) into a model.

    Args:
        leave_out: names of parameters that are not loaded (`filter_weight`).
        needs_all: a parameter that the file lacks is an error, as it is where nothing is trained afterwards.

    Raises:
        UserError: nothing matches, a parameter has another shape, or is missing where all are needed.
    """
    wanted = {bare(parameter.name): parameter for parameter in model.get_parameters()}
    found = {bare(name): value for name, value in read_checkpoint(path, key).items()}
    found = _without_prefix(found, wanted, path)
    left_out = {bare(name) for name in leave_out}
    usable = {name: value for name, value in found.items() if name in wanted and name not in left_out}
    skipped = {name: _shapes(value, wanted.get(name)) for name, value in found.items() if name not in usable}
    _load(usable, wanted, path, key, skipped, needs_all)


def _shapes(value, parameter) -> str:
    there = tuple(value.shape) if hasattr(value, "shape") else ()
    return f"{there} in the file" + (f", {tuple(parameter.shape)} in the network" if parameter is not None else "")


def load_backbone(model: nn.Cell, path: str, key: str = "feature_extractor_base_param") -> None:
    """Load a ResNet50 checkpoint, whose names may start at the backbone or anywhere above it."""
    found = read_checkpoint(path, key)
    wanted = {bare(p.name): p for p in model.get_parameters() if bare(p.name).startswith(BACKBONE)}
    usable, used = {}, set()
    for name in wanted:
        short = name[len(BACKBONE) :]
        for candidate in (short, "resnet." + short, "backbone." + short, NETWORK + short, name, NETWORK + name):
            if candidate in found:
                usable[name] = found[candidate]
                used.add(candidate)
                break
    skipped = {name: _shapes(value, None) for name, value in found.items() if name not in used}
    _load(usable, wanted, path, key, skipped, needs_all=False)


def _load(usable: dict, wanted: dict, path: str, key: str, skipped: dict, needs_all: bool) -> None:
    if not usable:
        raise UserError(f"{key}: no parameter of {path} belongs to this network; is it a checkpoint of another model?")
    for name, value in usable.items():
        if tuple(value.shape) != tuple(wanted[name].shape):
            raise UserError(
                f"{key}: {name} has shape {tuple(value.shape)} in {path}, the network has "
                f"{tuple(wanted[name].shape)}; other classes? --filter_weight=True leaves the "
                f"predictors out"
            )
    missing = [name for name in wanted if name not in usable]
    if missing and needs_all:
        raise UserError(
            f"{key}: {path} lacks {len(missing)} of the network's {len(wanted)} parameters, first {missing[0]}; is it "
            f"a checkpoint of another model?"
        )
    for name, value in usable.items():
        wanted[name].set_data(Tensor(value.asnumpy(), wanted[name].dtype))
    LOGGER.info(
        "%s: %d of %d parameters loaded from %s, %d left out, %d missing",
        key,
        len(usable),
        len(wanted),
        path,
        len(skipped),
        len(missing),
    )
    _tell(key, "left out", [f"{name} {shapes}" for name, shapes in skipped.items() if not _is_usual(name)])
    _tell(key, "not in the file", missing)
    LOGGER.debug("%s: a training's own entries, left out: %s", key, ", ".join(filter(_is_usual, skipped)))
    LOGGER.debug("%s: loaded: %s", key, ", ".join(usable))


def _is_usual(name: str) -> bool:
    """An entry of the optimiser or the run, which no network has."""
    return name.startswith(MOMENTS) or name in OF_A_TRAINING


def _tell(key: str, what: str, names: list) -> None:
    """The first names on the terminal, all of them in the log file."""
    if names:
        more = ", ..." if len(names) > SHOWN else ""
        LOGGER.warning("%s: %d parameters %s: %s%s", key, len(names), what, ", ".join(names[:SHOWN]), more)
        LOGGER.debug("%s: all %d parameters %s: %s", key, len(names), what, ", ".join(names))
