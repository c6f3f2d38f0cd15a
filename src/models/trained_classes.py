"""Class names travel with weights: what a checkpoint was trained on against what is asked of it. Needs no MindSpore.

The names are in the entry `run_state` of every checkpoint that a training saves; published checkpoints have none.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from typing import List, Sequence

import numpy as np
import yaml

from src.models.checkpoint_entries import BrokenFile, UnknownType, check_entries, read_entry, reading
from src.models.parameter_names import CLASS_PREDICTORS, is_left_out
from src.utils.errors import UserError
from src.utils.log import LOGGER

RUN_STATE = "run_state"
CONFIG_OF_A_RUN = "config.yaml"


def trained_config(run_state) -> dict:
    """The options that a training's results follow from, of the entry `run_state` (uint8 [n], or None); {} where they
    cannot be read."""
    try:
        config = json.loads(np.asarray(run_state, np.uint8).tobytes().decode())["config"]
    except (ValueError, KeyError, TypeError):
        return {}
    return config if isinstance(config, dict) else {}


def read_trained_config(path: str) -> dict:
    """`trained_config` of a file, without reading its tensors; {} for a file that holds none."""
    try:
        return trained_config(read_entry(path, RUN_STATE))
    except (OSError, BrokenFile, UnknownType):
        return {}


def trained_classes(config: dict) -> List[str]:
    """The names in a `trained_config`, the background first; [] where there are none."""
    classes = config.get("classes")
    usable = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return classes if usable else []


def run_configuration(path: str) -> str:
    """The config.yaml of the run that wrote a checkpoint, "" where it is not near the file.

    An earlier run's lies in the checkpoint's own folder (`src.training.run_files`): the one above is a later run's.
    """
    folder = os.path.dirname(os.path.abspath(path))
    for place in (folder, os.path.dirname(folder)):
        if os.path.isfile(os.path.join(place, CONFIG_OF_A_RUN)):
            return os.path.join(place, CONFIG_OF_A_RUN)
    return ""


def first_difference(there: Sequence[str], here: Sequence[str]) -> str:
    """In words: both numbers, and the first class that differs with both names; "" for equal lists."""
    if list(there) == list(here):
        return ""
    index = next((k for k, (a, b) in enumerate(zip(there, here)) if a != b), min(len(there), len(here)))
    names = [f"'{names[index]}'" if index < len(names) else "missing" for names in (there, here)]
    numbers = f"{len(there)} classes there, {len(here)} here; " if len(there) != len(here) else ""
    return f"{numbers}class {index} is {names[0]} there and {names[1]} here"


def check_same_classes(there: Sequence[str], here: Sequence[str], path: str, key: str) -> None:
    """For a checkpoint that is used as it is. Nothing where it holds no names.

    Raises:
        UserError: naming the first class that differs and what to do.
    """
    if there and list(there) != list(here):
        raise UserError(
            f"{key}: {path} was trained on other classes: {first_difference(there, here)}; "
            f"{_configuration_advice(there, path, key)}"
        )


def check_same_boxes(config: dict, here: dict, path: str, key: str) -> None:
    """For a checkpoint that is used as it is: with other default boxes its boxes would be silently wrong.

    Args:
        config: `trained_config` of the file; its keys that are missing are not compared.
        here: `src.boxes.default_boxes.default_box_keys` of the configuration.

    Raises:
        UserError: naming the first key that differs.
    """
    for name, value in here.items():
        if name in config and config[name] != value:
            of_run = run_configuration(path)
            again = f"--config_path={shlex.quote(of_run)}" if of_run else f"--{name}={shlex.quote(str(config[name]))}"
            raise UserError(
                f"{key}: {path} was trained with other default boxes: {name} is {config[name]} there and {value} here; "
                f"use {again}"
            )


def _configuration_advice(there: Sequence[str], path: str, key: str) -> str:
    of_run = run_configuration(path)
    if of_run and _classes_of_yaml(of_run) == list(there):
        without = "" if key == "model" else " without --classes and --num_classes"
        return f"use the configuration of its run: --config_path={shlex.quote(of_run)}{without}"
    if key == "model":  # predict.py has no option for each key
        return f"name a configuration with these classes, in this order, with --config_path: {', '.join(there)}"
    return f"use its classes: {classes_options(there)}"


def classes_options(classes: Sequence[str]) -> str:
    """The command line of a list of classes, quoted for a shell."""
    text = f"[{', '.join(classes)}]"
    try:
        plain = re.fullmatch(r"[\w ,.\[\]-]*", text) and yaml.safe_load(text) == list(classes)
    except yaml.YAMLError:
        plain = False
    words = f'"{text}"' if plain else shlex.quote(repr(list(classes)))
    return f"--num_classes={len(classes)} --classes={words}"


def _classes_of_yaml(path: str) -> list:
    try:
        with open(path, encoding="utf-8") as handle:
            content = yaml.safe_load(handle)
    except (OSError, ValueError, yaml.YAMLError):
        return []
    return content.get("classes", []) if isinstance(content, dict) else []


def check_start_classes(
    there: Sequence[str], here: Sequence[str], path: str, loads_predictors: bool, filters: bool
) -> None:
    """For `pre_trained`: with other names the class predictors are of no use. Nothing where it holds no names.

    A name at another index is an error, and so is another number; names that occur in one list only may be another
    spelling, and are a warning.

    Args:
        loads_predictors: the class predictors are among what is loaded.
        filters: `filter_weight` is on already.

    Raises:
        UserError: naming the first class that differs and what to do.
    """
    difference = first_difference(there, here) if there else ""
    if not difference:
        return
    if not loads_predictors:
        LOGGER.info("pre_trained: %s; the class predictors are not loaded", difference)
        return
    advice = "--match_class_names=True loads those of shared names, --filter_weight=True leaves the predictors out"
    if filters:
        advice = "'cls_layers' in checkpoint_filter_list leaves the predictors out"
    if _is_other_order(there, here):
        raise UserError(f"pre_trained: {path} was trained on other classes: {difference}; {advice}")
    LOGGER.warning(
        "pre_trained: %s was trained with other names: %s; its predictors are loaded for the new names; %s",
        path,
        difference,
        advice,
    )


def _is_other_order(there: Sequence[str], here: Sequence[str]) -> bool:
    """Another number of classes, or a name at another index."""
    return len(there) != len(here) or any(name in there and there.index(name) != k for k, name in enumerate(here))


def check_resume_classes(there: Sequence[str], here: Sequence[str], path: str) -> None:
    """For `resume`. Nothing where it holds no names.

    Raises:
        UserError: naming the first class that differs and what to do.
    """
    if there and here and list(there) != list(here):
        raise UserError(
            f"resume: {path} was trained on other classes: {first_difference(there, here)}; go on with its classes, or "
            f"start a new run from its weights: --pre_trained={shlex.quote(path)} --filter_weight=True without --resume"
        )


def check_before_start(cfg, resume_files: Sequence[str]) -> None:
    """The files that a training starts from and their class names, before anything is converted.

    Args:
        resume_files: what `resume` may mean, best first; [] for a fresh start.

    Raises:
        UserError: as above; or a file is damaged, of those in `resume_files` every one.
    """
    _check_files(cfg, resume_files)
    if resume_files:
        found = ((path, trained_classes(read_trained_config(path))) for path in resume_files)
        path, there = next(((path, names) for path, names in found if names), ("", []))
        check_resume_classes(there, cfg.classes, path)
    elif cfg.pre_trained:
        filters = cfg.checkpoint_filter_list if cfg.filter_weight else []
        left_out = any(
            all(is_left_out(f"{layer}.{part}", filters) for part in ("weight", "bias")) for layer in CLASS_PREDICTORS
        )
        there = trained_classes(read_trained_config(cfg.pre_trained))
        compared = there and not left_out and not cfg.match_class_names
        if compared and _is_other_order(there, cfg.classes):  # a warning comes with the loading
            check_start_classes(there, cfg.classes, cfg.pre_trained, True, bool(filters))


def _check_files(cfg, resume_files: Sequence[str]) -> None:
    faults = []
    for path in resume_files:
        try:
            check_entries(path, "resume")
            with reading(path, "resume"):
                state = read_entry(path, RUN_STATE)
            if state is None:
                raise UserError(
                    f"resume: {path} is not a complete training checkpoint: it has no run state; to start from its "
                    f"weights alone use --pre_trained"
                )
            return
        except UserError as error:
            faults.append(error)
    if faults:
        raise faults[0]
    key = "pre_trained" if cfg.pre_trained else "feature_extractor_base_param"
    if cfg[key]:
        check_entries(cfg[key], key)
