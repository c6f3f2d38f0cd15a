"""The same file in onnxruntime and OpenVINO, and what is said where a runtime cannot run it."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from src.inference import exporter
from src.inference.metadata import ModelMetadata
from src.inference.open_model import open_model
from src.inference.predictor import Predictor
from src.utils.errors import UserError
from tests.helpers.cells import TinyDetector

DESCRIPTION = ModelMetadata(["background", "cup", "spoon"], [32, 32], 2, 0.5, 0.6, 100, [120.0] * 3, [58.0] * 3)
IMAGES = np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
SHAPES = np.array([[32, 48]] * 5)


@pytest.fixture(scope="module")
def files(tmp_path_factory, cfg256):
    """(dynamic batch, NMS inside) -> path."""
    made = {}
    for dynamic, nms in ((False, False), (True, False), (True, True)):
        cell, path = TinyDetector().set_train(False), str(tmp_path_factory.mktemp("runtimes") / "tiny.onnx")
        wanted = replace(DESCRIPTION, dynamic_batch=dynamic, nms=nms)
        exporter.export_network(cell, wanted, "ONNX", path, IMAGES[:4], SHAPES[:4])
        made[dynamic, nms] = path
    return made


@pytest.mark.parametrize("dynamic, nms", [(False, False), (True, False), (True, True)])
def test_openvino_finds_the_same(files, dynamic, nms):
    pytest.importorskip("openvino")
    path = files[dynamic, nms]
    expected = open_model(path)(IMAGES, SHAPES)
    detector = open_model(path, runtime="openvino_float32", threads=1)
    assert detector.description == open_model(path).description and detector.computes_in == "f32"
    missed, count, furthest = exporter.compare_detections(expected, detector(IMAGES, SHAPES))
    assert missed == 0 and count > 50 and furthest < 0.01


def test_bfloat16_is_close(files):
    """Outputs within the 8 bits of its digits; where the processor lacks it, float32."""
    pytest.importorskip("openvino")
    ours, theirs = (open_model(files[True, False], runtime=name) for name in ("openvino", "onnxruntime"))
    assert ours.computes_in in ("bf16", "f32")
    for one, other in zip(*(detector.run(detector._input(IMAGES), SHAPES) for detector in (ours, theirs))):
        np.testing.assert_allclose(one, other, atol=0.02 if ours.computes_in == "bf16" else 1e-5)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino_float32"])
def test_calls_of_several_threads(files, runtime):
    """At the same time, each its images."""
    if runtime != "onnxruntime":
        pytest.importorskip("openvino")
    detector = open_model(files[True, False], concurrent_calls=3, runtime=runtime)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda row: detector(IMAGES[[row]], SHAPES[[row]])[0], [0, 1, 2, 3, 4] * 6))
    for row, expected in enumerate(open_model(files[True, False])(IMAGES, SHAPES)):
        for one in found[row::5]:
            assert exporter.compare_detections([expected], [one])[0] == 0


def test_the_predictor_takes_a_runtime(files):
    pytest.importorskip("openvino")
    image = IMAGES[0]
    boxes = [Predictor(files[False, False], runtime=name)(image)[0] for name in ("", "openvino_float32")]
    assert len(boxes[0]) > 10
    np.testing.assert_allclose(boxes[0], boxes[1], atol=0.01)


def test_a_missing_runtime_is_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="inference_runtime: .*OpenVINO, which is not installed: pip install openvino"):
        open_model(files[True, False], runtime="openvino")


def test_a_file_that_openvino_cannot_run(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="inference_runtime: OpenVINO .* cannot run .*; use onnxruntime") as error:
        open_model(str(tmp_path / "x.onnx"), runtime="openvino")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.ckpt", "x.mindir"])
def test_a_runtime_runs_onnx_files_only(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=f"openvino runs ONNX files only, not .*{name}; export it with export.py"):
        open_model(str(tmp_path / name), runtime="openvino")


def test_an_unknown_runtime_is_refused(files):
    with pytest.raises(UserError, match="runtime must be one of onnxruntime, openvino, openvino_float32, got tensorrt"):
        open_model(files[True, False], runtime="tensorrt")
