"""The scores to show detections from that an evaluation of a checkpoint has found. Needs no MindSpore."""

from __future__ import annotations

import json
import os
from typing import Dict, NamedTuple, Optional

from src.inference.metadata import ModelMetadata, usable_thresholds

EVALUATION = "evaluation.json"


class Threshold(NamedTuple):
    """overall: the score with the best F1; classes: the same by class name; source: where they come from, in words."""

    overall: float
    classes: Dict[str, float]
    source: str


def evaluated_threshold(checkpoint: str) -> Optional[Threshold]:
    """Of the evaluation.json in the folder of a checkpoint or the one above, if it is of this file and newer; None
    without one."""
    folder = os.path.dirname(os.path.abspath(checkpoint))
    for place in (folder, os.path.dirname(folder)):
        path = os.path.join(place, EVALUATION)
        try:
            with open(path, encoding="utf-8") as handle:
                content = json.load(handle)
            evaluated = os.path.realpath(os.path.join(place, content["model_file"]))
            rows = content["score_thresholds"]
            overall = rows["overall"]["threshold"]
            classes = {name: row["threshold"] for name, row in rows["classes"].items()}
            newer = os.path.getmtime(path) >= os.path.getmtime(checkpoint)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        same = evaluated == os.path.realpath(checkpoint)
        if same and newer and overall is not None and usable_thresholds(overall, classes):
            return Threshold(overall, classes, f"best F1 in {path}")
    return None


def threshold_of(model: str, description: ModelMetadata) -> Optional[Threshold]:
    """Of a checkpoint's evaluation, or of the description of an exported file; None where neither has one."""
    if model.lower().endswith(".ckpt"):
        return evaluated_threshold(model)
    if description.f1_threshold is None:
        return None
    return Threshold(description.f1_threshold, description.class_f1_thresholds, f"best F1, stored in {model}")
