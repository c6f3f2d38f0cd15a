"""Fixtures of all tests: fast convolutions, one MindSpore context, the log, the reference values."""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import shutil
import tempfile
import zlib

import numpy as np
import pytest

from src.config import load_config
from src.utils.device import init_device, prepare_environment
from src.utils.log import LOGGER
from tests.helpers.paths import REFERENCE

os.environ.setdefault("GLOG_v", "4")
# compiled steps are kept for the session, separate from the cache of the user
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ssd_tests_cache_")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def log_propagates():
    """Let caplog receive the log, even if an earlier test has called `setup_logging`."""
    LOGGER.propagate = True


@pytest.fixture
def log_lines(caplog):
    """A function that returns the lines logged so far, of at least a level if one is given; `caplog.clear()` removes
    them."""
    caplog.set_level(logging.DEBUG, LOGGER.name)
    return lambda level=logging.DEBUG: [entry.getMessage() for entry in caplog.records if entry.levelno >= level]


@pytest.fixture(scope="session")
def reference():
    """A function that loads a file of tests/reference by its name."""

    def load(name):
        path = os.path.join(REFERENCE, name)
        if name.endswith(".json"):
            with open(path, encoding="utf-8") as handle:
                return json.load(handle)
        return np.load(path)

    return load


CLASS_PREDICTOR = re.compile(r"multi_box\.(cls_layers\.0|multi_cls_layers\.\d+\.3)\.(weight|bias)$")
BOX_PREDICTOR = re.compile(r"multi_box\.(loc_layers\.0|multi_loc_layers\.\d+\.3)\.weight$")


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


@pytest.fixture(scope="session")
def cfg256():
    """The GPU configuration on a CPU at 256 x 256; MindSpore is initialised for it."""
    prepare_environment()
    cfg = load_config(["--device_target=CPU", "--img_shape=[256, 256]"])
    init_device(cfg)
    return cfg


@pytest.fixture(scope="session")
def images256():
    """The input of the reference values."""
    return np.random.RandomState(7).normal(size=(2, 3, 256, 256)).astype(np.float32)


@pytest.fixture(scope="session")
def load_reference_weights():
    """A function that sets every parameter of a network to its reference weight."""
    from mindspore import Tensor

    def load(cell):
        for parameter in cell.get_parameters():
            parameter.set_data(Tensor(reference_weight(parameter.name, parameter.shape)))

    return load
