"""How long a checkpoint was trained, from the checkpoint and the files of its run; used to explain a low mAP.

All these sources may be missing or damaged: what cannot be read is unknown, and never an error.
"""

from __future__ import annotations

import json
import math
import os
from typing import List, NamedTuple, Optional

import numpy as np
import yaml

from src.models.checkpoint_entries import read_entry
from src.models.trained_classes import RUN_STATE, run_configuration

# The published run: 60 epochs of 916 steps of 128 images, from a backbone trained on ImageNet
PUBLISHED = "the published result takes 55,000 steps of 128 images, from an ImageNet backbone"
FEW_STEPS, FEW_STEPS_FROM_RANDOM = 1000, 5000
# weight of the old value in the backbone's running statistics after a step
BACKBONE_MOMENTUM = 0.997
OLD_STATISTICS = 0.2


class TrainingHistory(NamedTuple):
    """How a checkpoint was trained; None for what is unknown.

    steps: optimiser steps; epochs: the same in epochs, may be a fraction; images: images per step on all devices;
    started_from: path of the initial weights, "" for random weights; warmup_epochs, bn_recalibration_steps: as in the
    configuration; freezes: whether layers were frozen.
    """

    steps: Optional[int] = None
    epochs: Optional[float] = None
    images: Optional[int] = None
    started_from: Optional[str] = None
    warmup_epochs: Optional[float] = None
    bn_recalibration_steps: Optional[int] = None
    freezes: bool = False


def read_history(model: str) -> TrainingHistory:
    """The history of a checkpoint; everything is unknown for an exported file."""
    if not model.lower().endswith(".ckpt"):
        return TrainingHistory()
    state, step = _run_state(model), _entry(model, "global_step")
    config = state.get("config") if isinstance(state.get("config"), dict) else {}
    epochs, in_epoch, of_epoch = (_number(state.get(key)) for key in ("epochs", "epoch_step", "steps_per_epoch"))
    steps = _number(step.reshape(-1)[0].item()) if isinstance(step, np.ndarray) and step.size == 1 else None
    if None not in (epochs, in_epoch, of_epoch):
        steps = epochs * of_epoch + in_epoch
        epochs = epochs + in_epoch / of_epoch if of_epoch else epochs
    batch, ranks = _number(config.get("batch_size")), _number(state.get("size"))
    started_from = state.get("started_from")
    if not isinstance(started_from, str):
        started_from = _started_from_files(model)
    return TrainingHistory(
        steps=None if steps is None else int(steps),
        epochs=epochs,
        images=int(batch * ranks) if batch and ranks else None,
        started_from=started_from,
        warmup_epochs=_number(config.get("warmup_epochs")),
        bn_recalibration_steps=_number(config.get("bn_recalibration_steps")),
        freezes=bool(config.get("freeze_layer")),
    )


def likely_causes(history: TrainingHistory) -> List[str]:
    """Why a network with this history may detect nothing, the most likely cause first; [] if it does not explain it."""
    lines: List[str] = []
    steps, random = history.steps, history.started_from == ""
    if steps is not None and steps < (FEW_STEPS_FROM_RANDOM if random else FEW_STEPS):
        lead = "" if random and history.freezes else "likeliest cause: "
        start = f" from {history.started_from}" if history.started_from else ""
        if random:
            start = " from random weights (no backbone weights were loaded)"
        lines.append(f"{lead}too few steps: {_amount(history)}{start}; {PUBLISHED}")
    if random and history.freezes:
        lines.insert(0, "likeliest cause: freeze_layer kept layers at random weights, which were never trained")
    if random:
        lead = "" if lines else "likely cause: no backbone weights were loaded; "
        lines.append(
            f"{lead}weights of an ImageNet backbone save most of the steps: --feature_extractor_base_param=FILE "
            f"(made by scripts/convert_backbone.py), or --pre_trained=FILE to start from a complete network"
        )
    if steps is not None and history.epochs and history.warmup_epochs and history.epochs <= history.warmup_epochs:
        lines.append(
            f"the learning rate was still in its warm-up ({history.warmup_epochs:g} epochs; trained for "
            f"{history.epochs:.3g})"
        )
    moves = random and steps and not history.freezes and not history.bn_recalibration_steps
    if moves and BACKBONE_MOMENTUM**steps > OLD_STATISTICS:
        lines.append(
            f"after {steps} steps {BACKBONE_MOMENTUM**steps:.0%} of the backbone's BN running statistics are still the "
            f"initial values, so evaluation sees a different network from training; "
            f"--bn_recalibration_steps=50 re-estimates them at the end of training"
        )
    return lines


def _amount(history: TrainingHistory) -> str:
    details = [f"{history.epochs:.3g} epochs"] if history.epochs else []
    details += [f"{history.images} images per step"] if history.images else []
    return f"{history.steps} steps" + (f" ({', '.join(details)})" if details else "")


def _entry(path: str, name: str):
    try:
        return read_entry(path, name)
    except (OSError, ValueError):  # damaged files and unknown types are ValueErrors
        return None


def _run_state(path: str) -> dict:
    try:
        content = json.loads(_entry(path, RUN_STATE).tobytes().decode())
    except (ValueError, AttributeError):
        return {}
    return content if isinstance(content, dict) else {}


def _number(value):
    """The value if it is a finite number that is not negative, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _started_from_files(model: str) -> Optional[str]:
    """The initial weights in config.yaml, if the run was started only once: a resumed run need not name them."""
    path = run_configuration(model)
    if not path:
        return None
    try:
        with open(path, encoding="utf-8") as handle:
            config = yaml.safe_load(handle)
        starts_file = os.path.join(os.path.dirname(path), "run.json")
        starts = []
        if os.path.exists(starts_file):
            with open(starts_file, encoding="utf-8") as handle:
                starts = json.load(handle)
        if len(starts) > 1 or any(start.get("goes_on_from") for start in starts):
            return None
        weights = [config[key] for key in ("pre_trained", "feature_extractor_base_param")]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return None
    return next((path for path in weights if path), "") if all(isinstance(path, str) for path in weights) else None
