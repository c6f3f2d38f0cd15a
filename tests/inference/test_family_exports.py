"""The other networks as MINDIR and ONNX files: the same detections as the network's, proven by loading back."""

import os

import numpy as np
import pytest

from src.config import NETWORKS, load_config
from src.data.transforms import resize
from src.inference.detector import NetworkDetector, build_inference
from src.inference.exporter import compare_detections, export_network, target_path
from src.inference.metadata import metadata_from_config
from src.inference.open_model import open_model
from src.inference.pictures import read_picture
from src.models.build import build_model
from src.models.parameter_names import is_predictor
from tests.helpers.paths import QUICKSTART_CONFIG

# (format, uint8 input, NMS inside, dynamic batch): each traced with another input, as MindSpore exports a graph once
KINDS = [
    ("MINDIR", True, False, False),
    ("ONNX", False, False, False),
    ("ONNX", True, True, False),
    ("ONNX", True, False, True),
]


@pytest.mark.slow
@pytest.mark.parametrize("model_name", [name for name in NETWORKS if name != "ssd_resnet50_fpn"])
def test_exported_files_detect_the_same(model_name, tmp_path, cfg256, load_reference_weights, pictures):
    if model_name != "ssd300" and not os.environ.get("FULL"):
        pytest.skip("FULL=1 runs every network")
    config = QUICKSTART_CONFIG.replace("ssd_resnet50_fpn", model_name)
    cfg = load_config([f"--config_path={config}", "--batch_size=2", "--min_score=0.5"])
    inference = build_inference(build_model(cfg), cfg)
    load_reference_weights(inference)
    for parameter in inference.get_parameters():
        if is_predictor(parameter.name, classes_only=True) and parameter.name.endswith(("0.weight", "3.weight")):
            parameter.set_data(parameter * 8)  # high scores for some boxes, as with trained weights
    images = np.stack([resize(read_picture(path), cfg.img_shape) for path in pictures[0][:6]])
    shapes = pictures[2][:6]
    expected = NetworkDetector(inference, metadata_from_config(cfg))(images, shapes)
    assert 20 < sum(len(boxes) for boxes, _, _ in expected)
    for number, (file_format, uint8, nms, dynamic) in enumerate(KINDS):
        path = target_path(str(tmp_path / f"file{number}"), file_format)
        description = metadata_from_config(cfg, uint8, nms)
        description.dynamic_batch = dynamic
        assert "largest difference" in export_network(inference, description, file_format, path, images, shapes)
        missed, count, furthest = compare_detections(expected, open_model(path)(images, shapes))
        # under random weights some scores are equal but for rounding, which decides what NMS keeps
        assert count == sum(len(boxes) for boxes, _, _ in expected) and missed <= count / 200 and furthest < 0.1
