"""Checkpoint -> network: what was loaded, left out and missing, by name; docs/reference.md, "Parameter names"."""

from __future__ import annotations

from typing import Dict, Optional, Sequence

from mindspore import Tensor, nn

from src.models.checkpoint_file import read_checkpoint
from src.models.class_transfer import describe_shared, with_shared_classes
from src.models.parameter_names import (
    AVERAGE,
    NETWORK,
    is_class_output,
    is_left_out,
    is_predictor,
    without_network_prefix,
)
from src.models.trained_classes import (
    RUN_STATE,
    check_same_boxes,
    check_same_classes,
    check_start_classes,
    run_configuration,
    trained_classes,
    trained_config,
)
from src.utils.errors import UserError
from src.utils.log import LOGGER

OPTIMIZER_PREFIXES = ("moments.", "moment1.", "moment2.")  # of momentum and of AdamW
TRAINING_STATE_ENTRIES = ("global_step", "momentum", "learning_rate", "run_state")
MAX_LOGGED_NAMES = 5


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


def _with_averages(entries: Dict[str, object], path: str) -> Dict[str, object]:
    """The entries of a checkpoint, each averaged weight (`ema_decay`) under the name of the weight."""
    averages = {name[len(AVERAGE) :]: value for name, value in entries.items() if name.startswith(AVERAGE)}
    if averages:
        LOGGER.info("%s holds averaged weights (ema_decay), which are used", path)
    return {**{name: value for name, value in entries.items() if not name.startswith(AVERAGE)}, **averages}


def load_network(
    model: nn.Cell,
    path: str,
    key: str,
    exclude: Sequence[str] = (),
    strict: bool = False,
    classes: Sequence[str] = (),
    boxes: Optional[dict] = None,
    match_names: bool = False,
) -> None:
    """Load a checkpoint of the complete network (with or without the prefix `network.`) into a model.

    Args:
        exclude: parts of the names of parameters that are not loaded (`filter_weight`), see `is_left_out`.
        strict: a parameter that the file lacks is an error, as it is where nothing is trained afterwards.
        classes: names that the model is for, the background first; compared with those that the file holds.
        match_names: of the class predictors load those of the classes that occur in both lists, see `class_transfer`.
        boxes: `src.boxes.default_boxes.default_box_keys` of the configuration, compared with the file's.

    Raises:
        UserError: nothing matches, a parameter has another shape, or is missing where all are needed; other classes or
            default boxes.
    """
    wanted = {without_network_prefix(parameter.name): parameter for parameter in model.get_parameters()}
    entries = _with_averages(read_checkpoint(path, key), path)
    found = {without_network_prefix(name): value for name, value in entries.items()}
    state = found.get(RUN_STATE)
    config = trained_config(state.asnumpy() if isinstance(state, Tensor) else None)
    there = trained_classes(config)
    found = _without_prefix(found, wanted, path)
    left_out = {name for name in found if is_left_out(name, exclude)}
    for entry in exclude:
        if not any(is_left_out(name, [entry]) for name in found):
            LOGGER.warning(
                "checkpoint_filter_list: no name in %s contains '%s'; one is %s",
                path,
                entry,
                NETWORK + next((name for name in found if name in wanted), next(iter(found))),
            )
    usable = {name: value for name, value in found.items() if name in wanted and name not in left_out}
    if left_out and not usable and any(name in wanted for name in left_out):
        raise UserError(f"checkpoint_filter_list: {list(exclude)} leaves out all parameters of {path}")
    if classes and strict:
        check_same_classes(there, classes, path, key)
        check_same_boxes(config, boxes or {}, path, key)
    elif match_names:
        fresh = {name: parameter.asnumpy() for name, parameter in wanted.items() if is_class_output(name)}
        shared = with_shared_classes(usable, fresh, there, classes, path)
        usable.update({name: Tensor(value) for name, value in shared.items()})
        LOGGER.info("%s: %s", key, describe_shared(there, classes))
    elif classes:
        loads_predictors = any(is_predictor(name, classes_only=True) for name in usable)
        check_start_classes(there, classes, path, loads_predictors, bool(exclude))
    skipped = {name: _shapes(value, wanted.get(name)) for name, value in found.items() if name not in usable}
    _load(usable, wanted, path, key, skipped, strict, exclude)


def _shape(value) -> tuple:
    return tuple(value.shape) if hasattr(value, "shape") else ()  # a text has none


def _shapes(value, parameter) -> str:
    there = _shape(value)
    return f"{there} in the file" + (f", {tuple(parameter.shape)} in the network" if parameter is not None else "")


def _shape_advice(name: str, path: str, key: str, strict: bool, exclude: Sequence[str], question: str) -> str:
    """What to do about another shape, in the program that loads the file."""
    predictor = is_predictor(name)
    if strict:
        of_run = run_configuration(path)
        again = f"--config_path, that of its run is {of_run}" if of_run else "--config_path"
        what = "number of classes or default boxes" if predictor else "network"
        return f"another {what}: use the configuration that it was trained with ({again})"
    if key == "pre_trained" and predictor:
        if exclude:
            return f"add {NETWORK}{name} to checkpoint_filter_list to leave it out"
        return "another number of classes or default boxes: --filter_weight=True leaves the predictors out"
    if key == "pre_trained":
        return f"--filter_weight=True with {NETWORK}{name} in checkpoint_filter_list leaves it out"
    return question


def load_backbone(model: nn.Cell, path: str, key: str = "feature_extractor_base_param") -> None:
    """Load a checkpoint of the backbone alone, whose names may start at the backbone or anywhere above it;
    docs/reference.md, "Backbone files"."""
    found = read_checkpoint(path, key)
    prefix = model.backbone_prefix
    wanted = {without_network_prefix(p.name): p for p in model.get_parameters()}
    wanted = {name: parameter for name, parameter in wanted.items() if name.startswith(prefix)}
    starts = ["", "backbone.", NETWORK]
    starts += [prefix.split(".", 1)[1]] if prefix.count(".") > 1 else []
    usable, used = {}, set()
    for name in wanted:
        in_file = model.name_in_backbone_file(name)
        for candidate in [start + in_file for start in starts if in_file] + [name, NETWORK + name]:
            if candidate in found:
                usable[name] = found[candidate]
                used.add(candidate)
                break
    skipped = {name: _shapes(value, None) for name, value in found.items() if name not in used}
    _load(usable, wanted, path, key, skipped, question=model.backbone_file_question)


def _load(
    usable: dict,
    wanted: dict,
    path: str,
    key: str,
    skipped: dict,
    strict: bool = False,
    exclude: Sequence[str] = (),
    question: str = "",
) -> None:
    if not usable:
        raise UserError(f"{key}: no parameter of {path} belongs to this network; is it a checkpoint of another model?")
    for name, value in usable.items():
        there, here = _shape(value), tuple(wanted[name].shape)
        if there != here:
            advice = _shape_advice(name, path, key, strict, exclude, question)
            raise UserError(f"{key}: {name} has shape {there} in {path}, the network has {here}; {advice}")
    missing = [name for name in wanted if name not in usable]
    if missing and strict:
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
    _log_names(
        key, "left out", [f"{name} {shapes}" for name, shapes in skipped.items() if not _is_optimizer_state(name)]
    )
    _log_names(key, "not in the file", [name for name in missing if name not in skipped])
    LOGGER.debug("%s: a training's own entries, left out: %s", key, ", ".join(filter(_is_optimizer_state, skipped)))
    LOGGER.debug("%s: loaded: %s", key, ", ".join(usable))


def _is_optimizer_state(name: str) -> bool:
    """An entry of the optimiser or the run, which no network has."""
    return name.startswith(OPTIMIZER_PREFIXES) or name in TRAINING_STATE_ENTRIES


def _log_names(key: str, what: str, names: list) -> None:
    """The first names on the terminal, all of them in the log file."""
    if names:
        more = ", ..." if len(names) > MAX_LOGGED_NAMES else ""
        LOGGER.warning("%s: %d parameters %s: %s%s", key, len(names), what, ", ".join(names[:MAX_LOGGED_NAMES]), more)
        LOGGER.debug("%s: all %d parameters %s: %s", key, len(names), what, ", ".join(names))
