"""Parameter names, with and without the prefix of the inference network. Needs no MindSpore."""

from __future__ import annotations

import re
from typing import Sequence

NETWORK = "network."
AVERAGE = "ema."  # in front of the names of averaged parameters, see src.training.weight_average
# the layers that predict the classes, of the shared head and of the other one's first level
CLASS_PREDICTORS = ("multi_box.cls_layers.0", "multi_box.multi_cls_layers.0.3")
_PREDICTOR = re.compile(r"multi_box\.(multi_)?(cls|loc)_layers\.")

# the convolutions whose outputs are class scores
_CLASS_OUTPUT = re.compile(r"multi_box\.(cls_layers\.\d+|multi_cls_layers\.\d+\.3)\.(weight|bias)$")


def without_network_prefix(name: str) -> str:
    """A parameter's name without the prefix of the inference network."""
    return name[len(NETWORK) :] if name.startswith(NETWORK) else name


def is_left_out(name: str, entries: Sequence[str]) -> bool:
    """Whether `checkpoint_filter_list` leaves out a parameter: its published name, with `network.`, contains one of
    the entries."""
    return any(entry in NETWORK + without_network_prefix(name) for entry in entries)


def is_predictor(name: str, classes_only: bool = False) -> bool:
    """Whether a parameter belongs to the last layers, whose shapes follow from the classes and default boxes per cell.

    Args:
        classes_only: of those, the ones that predict classes.
    """
    match = _PREDICTOR.match(without_network_prefix(name))
    return match is not None and (match.group(2) == "cls" or not classes_only)


def is_class_output(name: str) -> bool:
    """Whether a parameter belongs to a convolution with one output per default box of a cell and class."""
    return _CLASS_OUTPUT.match(without_network_prefix(name)) is not None
