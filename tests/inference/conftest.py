"""Fixtures of the inference tests."""

from __future__ import annotations

import numpy as np
import pytest

from src.config import load_config
from tests.helpers.paths import QUICKSTART_CONFIG
from tests.helpers.programs import run

IMAGES = 50


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The path of an ONNX file that detects the same cat and dog in every image."""
    from tests.helpers.predictions import write_fixed_model  # it needs the package onnx

    path = str(tmp_path_factory.mktemp("model") / "fixed.onnx")
    write_fixed_model(path)
    return path


@pytest.fixture(scope="session")
def cfg(cfg256):
    """The quick start's configuration, with scores that only few boxes reach."""
    return load_config([f"--config_path={QUICKSTART_CONFIG}", "--batch_size=4", "--min_score=0.6"])


@pytest.fixture(scope="module")  # MindSpore does not export a network that has run on the same input
def inference(cfg, load_reference_weights):
    """The inference network of `cfg` with reference weights."""
    from src.inference.detector import build_inference
    from src.models.build import build_model

    cell = build_inference(build_model(cfg), cfg)
    load_reference_weights(cell)
    weight = cell.network.multi_box.cls_layers[0].weight
    weight.set_data(weight * 8)  # high scores for some boxes, as with trained weights
    return cell


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """50 drawn images: files, network inputs, original sizes."""
    from src.data.transforms import resize
    from src.inference.pictures import read_picture

    folder = tmp_path_factory.mktemp("pictures")
    done = run(
        "scripts/draw_shapes.py", "--output", folder / "shapes", "--train", 1, "--val", IMAGES, "--image_size", 192
    )
    assert done.returncode == 0, done.stderr
    files = sorted(str(path) for path in (folder / "shapes" / "val2017").iterdir())
    images = [read_picture(path) for path in files]
    return files, np.stack([resize(i, (128, 128)) for i in images]), np.array([i.shape[:2] for i in images])
