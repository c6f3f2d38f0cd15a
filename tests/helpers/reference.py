"""The reference values of tests/reference: weights, input, targets; for the tests and `scripts/check_device.py`."""

from __future__ import annotations

import json
import os
import re
import zlib

import numpy as np

from src.boxes.default_boxes import default_boxes
from src.data.transforms import encode_targets
from tests.helpers.paths import REFERENCE

CLASS_PREDICTOR = re.compile(r"multi_box\.(cls_layers\.0|multi_cls_layers\.\d+\.3)\.(weight|bias)$")
BOX_PREDICTOR = re.compile(r"multi_box\.(loc_layers\.0|multi_loc_layers\.\d+\.3)\.weight$")


def load_reference(name: str):
    """A file of tests/reference by its name: arrays, or the content of a JSON file."""
    path = os.path.join(REFERENCE, name)
    if name.endswith(".json"):
        with open(path, encoding="utf-8") as handle:
            return json.load(handle)
    return np.load(path)


def reference_weight(name: str, shape) -> np.ndarray:
    """The weight of a parameter as defined in tests/reference/README.md and tests/reference/family/README.md."""
    name = name[len("network.") :] if name.startswith("network.") else name
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    last = name.rsplit(".", 1)[-1]
    if last == "weight":
        value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        value *= 0.1 if CLASS_PREDICTOR.match(name) else 0.3 if BOX_PREDICTOR.match(name) else 1.0
    elif last == "gamma":
        value = rng.uniform(0.5, 1.5, shape) * (0.2 if name.endswith(".bn3.gamma") else 1.0)
    elif last in ("beta", "bias"):
        value = rng.normal(0, 0.1, shape) - (4.0 if CLASS_PREDICTOR.match(name) else 0.0)
    elif last == "moving_mean":
        value = rng.normal(0, 0.1, shape)
    else:
        value = rng.uniform(0.5, 1.5, shape)
    return value.astype(np.float32)


def set_reference_weights(cell) -> None:
    """Set every parameter of a network to its reference weight."""
    from mindspore import Tensor

    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(reference_weight(parameter.name, parameter.shape)))


def reference_images() -> np.ndarray:
    """The input of the reference values [2, 3, 256, 256]."""
    return np.random.RandomState(7).normal(size=(2, 3, 256, 256)).astype(np.float32)


def reference_targets() -> tuple:
    """(gt_loc [2, 8184, 4], gt_label [2, 8184], num_match [2]) of the two ground truths in loss.npz."""
    published, defaults = load_reference("loss.npz"), default_boxes((256, 256))
    targets = [encode_targets(published[f"gt{k}"], *defaults, 0.5, (0.1, 0.2)) for k in (0, 1)]
    loc, label, num_match = (np.stack(part) for part in zip(*targets))
    return loc, label, num_match.astype(np.float32)
