"""Fixtures of the data tests."""

from __future__ import annotations

import logging

import pytest

from tests.helpers.records import write_coco_set


@pytest.fixture
def folder(tmp_path):
    """A folder with a small COCO set."""
    write_coco_set(tmp_path)
    return tmp_path


@pytest.fixture
def told(caplog):
    """A function that gives the lines logged so far, each once."""
    logger = logging.getLogger("ssd")
    logger.addHandler(caplog.handler)
    yield lambda: list(dict.fromkeys(record.getMessage() for record in caplog.records))
    logger.removeHandler(caplog.handler)
