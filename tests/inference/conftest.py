"""Fixtures of the inference tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The path of an ONNX file that detects the same cat and dog in every image."""
    from tests.helpers.predictions import write_fixed_model  # it needs the package onnx

    path = str(tmp_path_factory.mktemp("model") / "fixed.onnx")
    write_fixed_model(path)
    return path
