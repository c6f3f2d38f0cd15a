"""Predictors of classes that a checkpoint and this network share by name, for `match_class_names`; docs/reference.md,
"Training options"."""

from __future__ import annotations

from typing import Dict, Sequence

import numpy as np

from src.utils.errors import UserError


def with_shared_classes(
    found: Dict[str, object], fresh: Dict[str, np.ndarray], there: Sequence[str], here: Sequence[str], path: str
) -> Dict[str, np.ndarray]:
    """The class predictors of this network: those of a name in both lists from the file, the others fresh.

    A predictor's outputs are box by box of a cell, class by class within a box.

    Args:
        found: the file's parameters by the names of this network.
        fresh: this network's parameters with `is_class_output`.
        there, here: class names of the file and of this network, the background first.

    Returns:
        The arrays of those parameters of `found` whose shape depends on the classes.

    Raises:
        UserError: the file holds no class names, or predicts another number of default boxes per cell.
    """
    if not there:
        raise UserError(
            f"match_class_names: {path} holds no class names; use --filter_weight=True, which leaves the predictors out"
        )
    pairs = [(there.index(name), index) for index, name in enumerate(here) if name in there]
    source, target = (list(side) for side in zip(*pairs)) if pairs else ([], [])
    carried = {}
    for name, value in found.items():
        if name not in fresh:
            continue
        old, new = value.asnumpy(), fresh[name]
        boxes = new.shape[0] // len(here)
        if old.shape != (boxes * len(there), *new.shape[1:]):
            raise UserError(
                f"match_class_names: {name} of {path} is not for {boxes} default boxes per cell; use "
                f"--filter_weight=True, which leaves the predictors out"
            )
        both = new.reshape(boxes, len(here), -1).copy()
        both[:, target] = old.reshape(boxes, len(there), -1)[:, source]
        carried[name] = both.reshape(new.shape)
    return carried


def describe_shared(there: Sequence[str], here: Sequence[str]) -> str:
    """In words: how many class predictors are loaded, and which are not."""
    fresh = [name for name in here if name not in there]
    few = ", ".join(fresh[:5]) + (", ..." if len(fresh) > 5 else "")
    kept = len(here) - len(fresh)
    return f"predictors of {kept} of {len(here)} classes loaded by name" + (f"; new classes: {few}" if fresh else "")
