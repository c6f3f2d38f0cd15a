"""Fixtures of the data tests."""

from __future__ import annotations

import pytest

from tests.helpers.records import write_coco_set


@pytest.fixture
def folder(tmp_path):
    """A folder with a small COCO set."""
    write_coco_set(tmp_path)
    return tmp_path
