"""Fixtures of all tests: fast convolutions, one MindSpore context, the log, the reference values."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile

import pytest

from src.config import load_config
from src.utils.device import init_device, prepare_environment
from src.utils.log import LOGGER
from tests.helpers.reference import load_reference, reference_images, set_reference_weights

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
    return load_reference


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
    return reference_images()


@pytest.fixture(scope="session")
def load_reference_weights():
    """A function that sets every parameter of a network to its reference weight."""
    return set_reference_weights
