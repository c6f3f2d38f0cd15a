"""Exports in lower precision: close to the network, smaller, and refused where int8 loses too much."""

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from src.inference import exporter
from src.inference.detector import NetworkDetector
from src.inference.exporter import Calibration, export_network
from src.inference.metadata import ModelMetadata, from_onnx_props, to_onnx_props
from src.inference.onnx_precision import nodes_in_float32
from src.inference.open_model import open_model
from src.utils.errors import RunError
from tests.helpers.cells import TinyDetector

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
DESCRIPTION = ModelMetadata(["background", "cup", "spoon"], [32, 32], 2, 0.5, 0.6, 100, MEAN, STD)
RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
SHAPES = np.full((7, 2), 32)


@pytest.fixture(scope="module")
def network(cfg256):
    return TinyDetector().set_train(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory, network):
    """(precision, dynamic batch, NMS inside) -> (path, report)."""
    folder, made = tmp_path_factory.mktemp("precisions"), {}
    kinds = [(precision, dynamic, False) for precision in ("float32", "float16", "int8") for dynamic in (False, True)]
    for number, kind in enumerate([*kinds, ("float16", False, True), ("int8", True, True)]):
        precision, dynamic, nms = kind
        wanted = replace(DESCRIPTION, precision=precision, dynamic_batch=dynamic, nms=nms)
        # other networks, as MindSpore does not export one twice for the same input
        cell = TinyDetector().set_train(False)
        path = str(folder / f"{number}.onnx")
        calibration = Calibration(IMAGES[:5], lambda detector: 0.5, 0.01) if precision == "int8" else None
        made[kind] = path, export_network(cell, wanted, "ONNX", path, IMAGES[:4], SHAPES[:4], calibration)
    assert len(os.listdir(folder)) == len(made)
    return made


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("precision, bound", [("float32", 1e-5), ("float16", 2e-3), ("int8", 0.05)])
def test_outputs_are_the_networks(files, network, precision, bound, dynamic):
    path, report = files[precision, dynamic, False]
    detector = open_model(path)
    assert (detector.description.precision, detector.description.dynamic_batch) == (precision, dynamic)
    wanted = NetworkDetector(network, DESCRIPTION)
    for rows in ([0, 1], [5, 6]) if not dynamic else ([2], [0, 1, 2], [6, 5, 4, 3, 2, 1, 0, 0, 1]):
        ours = detector.run(detector._input(IMAGES[rows]), SHAPES[rows])
        theirs = [wanted.run(IMAGES[[row, row]], SHAPES[:2]) for row in rows]
        for number, output in enumerate(ours):
            np.testing.assert_allclose(output, [pair[number][0] for pair in theirs], atol=bound)
    assert report.startswith("loaded back and compared with the network: largest difference ")
    assert ("float16: largest difference" in report) == (precision == "float16")
    if precision == "int8":
        assert "int8: mAP 0.5000 on the evaluation set, float32 0.5000, calibrated on 5 training images" in report


@pytest.mark.parametrize("kind", [("float16", False, True), ("int8", True, True)])
def test_nms_inside(files, kind):
    precision, dynamic, _ = kind
    inside, outside = (open_model(files[precision, dynamic, nms][0])(IMAGES, SHAPES) for nms in (True, False))
    missed, count, _ = exporter.compare_detections(outside, inside)
    assert count > 50 and missed <= 0.02 * count


def test_weights_are_what_the_file_says(files):
    kinds = {}
    for precision in ("float32", "float16", "int8"):
        model = onnx.load(files[precision, False, False][0])
        onnx.checker.check_model(model, full_check=True)
        weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
        kinds[precision] = set(weights.values())
        nodes = Counter(node.op_type for node in model.graph.node)
        assert nodes["Conv"] == 5 and not nodes["BatchNormalization"] and not nodes["SequenceConstruct"]
        # boxes are decoded in float32
        assert nodes["Exp"] == 1 and nodes["Sigmoid"] == 1
        if precision == "float16":  # once to float16, once back for each output, and never between two other nodes
            halves = [node for node in model.graph.node if node.op_type == "Cast" and node.attribute[0].i == 10]
            convolved = {node.output[0] for node in model.graph.node if node.op_type == "Conv"}
            back = [node for node in model.graph.node if node.op_type == "Cast" and convolved & set(node.input)]
            assert len(halves) == 1 and len(back) == 2
        assert all(value.type.tensor_type.elem_type == TensorProto.FLOAT for value in model.graph.output)
    assert kinds == {"float32": {TensorProto.FLOAT}, "float16": {TensorProto.FLOAT16}, "int8": {TensorProto.INT8}}


def test_decoding_stays_in_float32(files):
    graph = onnx.load(files["float32", False, False][0]).graph
    kinds = {node.name: node.op_type for node in graph.node}
    outside = Counter(kinds[name] for name in nodes_in_float32(graph))
    assert {"Cast", "Sub", "Div", "Exp", "Sigmoid"} <= set(outside) and "Conv" not in outside and "Relu" not in outside
    # the reshape of the stacked branches lies between convolutions, those of the outputs do not
    assert outside["Reshape"] == 2


def test_int8_that_loses_too_much_is_refused(tmp_path, files):
    """The file before stays."""
    path = tmp_path / "ssd.onnx"
    path.write_bytes(b"the export before")
    seen = []

    def measure(detector):
        seen.append(detector.description.precision)
        return {"float32": 0.5, "int8": 0.4899}[detector.description.precision]

    cell = TinyDetector(1).set_train(False)
    wanted = replace(DESCRIPTION, precision="int8")
    with pytest.raises(RunError) as error:
        export_network(cell, wanted, "ONNX", str(path), IMAGES[:4], SHAPES[:4], Calibration(IMAGES, measure, 0.01))
    assert "export_max_loss: the int8 file has mAP 0.4899 on the evaluation set, float32 0.5000" in str(error.value)
    assert "\n" not in str(error.value) and seen == ["float32", "int8"]
    assert os.listdir(tmp_path) == ["ssd.onnx"] and path.read_bytes() == b"the export before"


def test_float16_that_differs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "TOLERANCE_FLOAT16", 1e-7)
    cell = TinyDetector(2).set_train(False)
    with pytest.raises(RunError, match="the float16 file differs from the network by .*; it was not kept"):
        wanted = replace(DESCRIPTION, precision="float16")
        export_network(cell, wanted, "ONNX", str(tmp_path / "ssd.onnx"), IMAGES[:4], SHAPES[:4])
    assert os.listdir(tmp_path) == []


def test_files_of_version_1_2_are_read():
    """They do not say their precision."""
    texts = to_onnx_props(replace(DESCRIPTION, precision="int8", dynamic_batch=True))
    assert from_onnx_props(texts, "x").precision == "int8"
    del texts["precision"], texts["dynamic_batch"]
    assert from_onnx_props(texts, "x") == DESCRIPTION
