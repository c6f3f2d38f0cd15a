"""One network as checkpoint, MINDIR and ONNX file: the same detections, and metadata in the files."""

import json
import os

import numpy as np
import onnx
import onnxruntime
import pytest

from src.boxes.default_boxes import build_default_boxes
from src.boxes.postprocess import postprocess
from src.config import load_config
from src.inference import exporter
from src.inference.detector import NetworkDetector
from src.inference.exporter import compare_detections, export_network, target_path
from src.inference.metadata import description_file, metadata_from_config
from src.inference.open_model import open_model
from src.inference.predictor import Predictor
from src.models.cpu_conv import CpuConv
from src.utils.errors import RunError, UserError
from src.utils.locks import try_lock
from src.utils.output import OutputError
from tests.helpers.paths import QUICKSTART_CONFIG, ROOT


@pytest.fixture(scope="module")
def exported(tmp_path_factory, cfg, inference, pictures):
    """kind -> path of an export."""
    folder, paths = tmp_path_factory.mktemp("exports"), {}
    for kind, file_format, uint8, nms in (
        ("mindir", "MINDIR", False, False),
        ("mindir-uint8", "MINDIR", True, False),
        ("onnx", "ONNX", False, False),
        ("onnx-nms", "ONNX", True, True),
    ):
        path = target_path(str(folder / kind), file_format)
        report = export_network(
            inference, metadata_from_config(cfg, uint8, nms), file_format, path, pictures[1][:5], pictures[2][:5]
        )
        assert "largest difference" in report
        paths[kind] = path
    assert len(os.listdir(folder)) == 6  # two MINDIR with their json, two ONNX: no incomplete file is left
    return paths


@pytest.fixture(scope="module")
def expected(cfg, inference, pictures):
    found = NetworkDetector(inference, metadata_from_config(cfg))(pictures[1], pictures[2])
    assert 500 < sum(len(boxes) for boxes, _, _ in found) < 20000
    return found


@pytest.mark.parametrize("kind", ["mindir", "mindir-uint8", "onnx", "onnx-nms"])
def test_detections_agree(cfg, exported, pictures, expected, kind):
    found = open_model(exported[kind], cfg)(pictures[1], pictures[2])
    missed, count, furthest = compare_detections(expected, found)
    assert missed == 0 and count > 500 and furthest < 0.1
    for (boxes, _, labels), (others, _, _) in zip(expected, found):
        assert len(boxes) == len(others)
        assert (np.diff(labels) >= 0).all() and set(labels) <= {1, 2, 3}


def test_detections_are_those_of_the_evaluation(cfg, inference, pictures, expected):
    """`Detector` against the network called by hand on normalised input, image by image."""
    from mindspore import Tensor

    from src.data.transforms import normalize_image

    for row in (0, 17):
        batch = np.repeat(normalize_image(pictures[1][row])[None], 4, 0)
        boxes, scores = (output.asnumpy()[0] for output in inference(Tensor(batch)))
        want = postprocess(boxes, scores, pictures[2][row], cfg.min_score, cfg.nms_threshold, cfg.max_boxes)
        assert compare_detections([want], [expected[row]])[0] == 0


def test_an_export_has_mindspores_convolutions(exported, inference):
    """The file must run on other devices: our CPU layers are grouped convolutions and matrix products."""
    assert not [cell for _, cell in inference.cells_and_names() if isinstance(cell, CpuConv)]
    nodes = onnx.load(exported["onnx"]).graph.node
    assert "Conv" in {node.op_type for node in nodes} and "MatMul" not in {node.op_type for node in nodes}


def test_an_onnx_file_says_what_it_is(exported, cfg):
    session = onnxruntime.InferenceSession(exported["onnx-nms"], providers=["CPUExecutionProvider"])
    texts = session.get_modelmeta().custom_metadata_map
    assert json.loads(texts["classes"]) == cfg.classes and json.loads(texts["img_shape"]) == [128, 128]
    assert [json.loads(texts[key]) for key in ("min_score", "nms_threshold", "max_boxes")] == [0.6, 0.6, 100]
    layout = [[16, 16, 6], [8, 8, 6], [4, 4, 6], [2, 2, 6], [1, 1, 6]]
    assert json.loads(texts["layout"]) == layout
    np.testing.assert_allclose(json.loads(texts["mean"]), [123.675, 116.28, 103.53], rtol=1e-6)
    np.testing.assert_allclose(json.loads(texts["std"]), [58.395, 57.12, 57.375], rtol=1e-6)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", [4, 128, 128, 3]),
        ("image_shape", "tensor(float)", [4, 2]),
    ]
    assert [o.name for o in session.get_outputs()] == ["boxes", "scores", "labels", "image"]
    with open(description_file(exported["mindir"]), encoding="utf-8") as handle:
        metadata = json.load(handle)
    assert metadata["layout"] == layout
    assert metadata["classes"] == cfg.classes and metadata["uint8_input"] is False and metadata["batch_size"] == 4


def test_predictor_without_mindspore(exported, pictures, expected):
    """In a separate process, which must not import MindSpore."""
    import subprocess
    import sys

    code = (
        "import sys, json; from src.inference.predictor import Predictor; "
        "from src.inference.pictures import read_picture; "
        "p = Predictor(sys.argv[1]); out = p(read_picture(sys.argv[2])); assert 'mindspore' not in sys.modules; "
        "print(json.dumps([a.tolist() for a in out]))"
    )
    for kind in ("onnx", "onnx-nms"):
        words = [sys.executable, "-c", code, exported[kind], pictures[0][3]]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        boxes, labels, scores = (np.array(part) for part in json.loads(done.stdout))
        assert compare_detections([expected[3]], [(boxes, scores, labels)])[0] == 0


def test_predictor_and_thresholds(exported, pictures, expected):
    from src.inference.pictures import read_picture

    boxes, labels, scores = Predictor(exported["mindir"], min_score=0.8)(read_picture(pictures[0][0]))
    keep = expected[0][1] > 0.8
    assert compare_detections([tuple(part[keep] for part in expected[0])], [(boxes, scores, labels)])[0] == 0
    with pytest.raises(UserError, match="with NMS inside, with min_score 0.6, not 0.5"):
        Predictor(exported["onnx-nms"], min_score=0.5)
    with pytest.raises(ValueError, match="uint8"):
        Predictor(exported["onnx"])(np.zeros((4, 4)))


def test_mirrored_images_and_soft_nms_in_every_file(exported, cfg, inference, pictures):
    """The network called by hand on images and mirrored images; the default box that mirrors one is looked up."""
    images, shapes = pictures[1][:4], pictures[2][:4]
    plain = NetworkDetector(inference, metadata_from_config(cfg))
    boxes, scores = plain.run(plain._input(images), shapes)
    other_boxes, other_scores = plain.run(plain._input(images[:, :, ::-1]), shapes)
    corners = build_default_boxes(cfg)[1].astype(np.float64)
    mirrors = corners[:, [0, 3, 2, 1]] * [1, -1, 1, -1] + [0, 1, 0, 1]
    rows = [int(np.abs(corners - box).max(axis=1).argmin()) for box in mirrors]
    mirrored = other_boxes[:, rows][..., [0, 3, 2, 1]] * np.float32([1, -1, 1, -1]) + np.float32([0, 1, 0, 1])
    means = zip((boxes + mirrored) / 2, (scores + other_scores[:, rows]) / 2)
    wanted = [postprocess(*mean, shape, 0.6, 0.6, 100, soft=True) for mean, shape in zip(means, shapes)]
    asked = type(cfg)(cfg, nms="soft", tta="flip")
    for kind in ("mindir", "mindir-uint8", "onnx"):
        missed, count, _ = compare_detections(wanted, open_model(exported[kind], asked)(images, shapes))
        assert missed == 0 and count > 50
    with pytest.raises(UserError, match="with NMS inside, which excludes nms soft and tta flip"):
        open_model(exported["onnx-nms"], asked)


def test_another_configuration_is_refused(exported, cfg):
    path = QUICKSTART_CONFIG
    for option, words in (
        ("--classes=[background, kite, sports ball, stop sign]", "'stop sign' there and 'kite' here"),
        ("--img_shape=[256, 256]", "img_shape [128, 128], here it is [256, 256]"),
        ("--nms_threshold=0.5", "nms_threshold 0.6, not 0.5"),
    ):
        with pytest.raises(UserError) as error:
            open_model(exported["onnx-nms"], load_config([f"--config_path={path}", option, "--min_score=0.7"]))
        assert words in str(error.value)


def test_damaged_files_are_reported(exported, tmp_path, cfg):
    for kind, change in (("mindir", "flip"), ("mindir", "no json"), ("onnx", "cut"), ("onnx", "text")):
        with open(exported[kind], "rb") as handle:
            data = bytearray(handle.read())
        path = tmp_path / f"{change.replace(' ', '')}.{kind}"
        if change == "flip":
            data[len(data) // 2] ^= 0xFF
        path.write_bytes(b"no model" if change == "text" else data[: len(data) // 2] if change == "cut" else data)
        if change != "no json" and kind == "mindir":
            with open(description_file(exported[kind]), "rb") as handle:
                (tmp_path / (path.name + ".json")).write_bytes(handle.read())
        with pytest.raises(UserError, match="damaged|missing"):
            open_model(str(path), cfg)


def test_an_onnx_file_of_another_program(tmp_path, cfg):
    from onnx import TensorProto, helper, save

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), str(tmp_path / "a.onnx"))
    with pytest.raises(UserError, match="does not say which classes"):
        open_model(str(tmp_path / "a.onnx"), cfg)


def test_a_mismatch_leaves_no_file(tmp_path, cfg, inference, pictures, monkeypatch):
    """The outputs of the file are changed, as by a faulty operator."""
    true_run = NetworkDetector.run
    loaded = exporter.load_mindir

    def other(path):
        cell = loaded(path)
        return lambda batch: [output + 0.01 for output in cell(batch)]

    monkeypatch.setattr(exporter, "load_mindir", other)
    (tmp_path / "ssd.mindir").write_bytes(b"the export before")
    with pytest.raises(RunError, match="differs from the network by 0.01"):
        export_network(
            inference, metadata_from_config(cfg, False), "MINDIR", str(tmp_path / "ssd.mindir"), *pictures[1:]
        )
    assert os.listdir(tmp_path) == ["ssd.mindir"] and NetworkDetector.run is true_run
    assert (tmp_path / "ssd.mindir").read_bytes() == b"the export before"


def test_compare_detections_by_hand():
    box = np.array([[1.0, 2, 30, 40]])
    one = (box, np.array([0.9]), np.array([1]))
    assert compare_detections([one], [one]) == (0, 1, 0.0)
    for other in (
        (box + 0.2, one[1], one[2]),
        (box, np.array([0.8]), one[2]),
        (box, one[1], np.array([2])),
    ):
        assert compare_detections([one], [other])[:2] == (2, 1)
    assert compare_detections([one], [(box[:0], one[1][:0], one[2][:0])])[:2] == (1, 1)
    assert compare_detections([one], [(np.repeat(box + 0.05, 2, 0), np.array([0.9, 0.9]), np.array([1, 1]))])[0] == 1


def test_what_killed_exports_left_is_removed(tmp_path):
    old, new, used = (tmp_path / f".part-export-{name}" for name in ("old", "new", "used"))
    for folder in (old, new, used):
        folder.mkdir()
        (folder / "model.onnx").write_text("half")
    for folder in (old, used):
        os.utime(folder, (1e9, 1e9))
    with try_lock(str(used)), exporter._part_folder(str(tmp_path / "ssd.onnx")) as folder:
        assert os.path.isdir(folder)
        assert {path.name for path in tmp_path.iterdir()} == {new.name, used.name, os.path.basename(folder)}
    assert not os.path.exists(folder)


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_an_export_that_cannot_be_written(tmp_path, monkeypatch, cfg, inference, pictures, file_format):
    """One line that names the file; the earlier file is unchanged, and no other file is left."""
    _, images, shapes = pictures
    path = target_path(str(tmp_path / "ssd"), file_format)
    with open(path, "w", encoding="utf-8") as handle:
        handle.write("an earlier file")
    before = sorted(os.listdir(tmp_path))

    def full(*_, file_name, file_format):
        with open(f"{file_name}.{file_format.lower()}", "w", encoding="utf-8") as half:
            half.write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mindspore.export", full)
    with pytest.raises(OutputError) as error:
        export_network(inference, metadata_from_config(cfg), file_format, path, images[:1], shapes[:1])
    assert str(error.value).startswith(f"cannot write {path}: No space left on device")
    assert sorted(os.listdir(tmp_path)) == before and open(path, encoding="utf-8").read() == "an earlier file"
