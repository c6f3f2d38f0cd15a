"""What an exported ONNX file consists of, and batches of any size."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from src.inference import onnx_optimize
from src.inference.detector import NetworkDetector
from src.inference.exporter import compare_detections, export_network
from src.inference.metadata import metadata_from_config
from src.inference.onnx_optimize import TRACED_BATCH, optimize
from src.inference.open_model import open_model
from src.utils.errors import RunError


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory, cfg, inference, pictures):
    """Whether NMS is inside -> path of an export that takes any number of images: pixels, with NMS floats."""
    paths = {}
    for nms in (False, True):
        paths[nms] = str(tmp_path_factory.mktemp("dynamic") / "ssd.onnx")
        # other inputs too, as MindSpore does not export a network twice for the same ones
        description = replace(metadata_from_config(cfg, not nms, nms), dynamic_batch=True)
        export_network(inference, description, "ONNX", paths[nms], pictures[1][:4], pictures[2][:4])
    return paths


def test_standard_operators_only(dynamic):
    """What other runtimes want: a recent opset, BN in the convolutions, no sequences, nothing of onnxruntime's."""
    model = onnx.load(dynamic[False])
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert [(domain.domain, domain.version) for domain in model.opset_import] == [("", 17)] and model.ir_version == 8
    assert kinds["Conv"] == 111 and not {"BatchNormalization", "Identity", "Constant"} & set(kinds)
    assert not any("Sequence" in kind for kind in kinds)
    assert {node.domain for node in model.graph.node} == {""}


def test_the_batch_is_dynamic(dynamic, inference, pictures):
    """1, 3 and 5 images in one call against the network, which always gets 4."""
    from mindspore import Tensor

    wanted = [output.asnumpy() for output in inference(Tensor(pictures[1][:4]))]
    session = onnxruntime.InferenceSession(dynamic[False], providers=["CPUExecutionProvider"])
    assert [value.shape[0] for value in [*session.get_inputs(), *session.get_outputs()]] == ["batch"] * 3
    for rows in ([2], [0, 3, 1], [3, 3, 0, 1, 2]):
        found = session.run(["boxes", "scores"], {"images": pictures[1][rows]})
        for ours, theirs in zip(found, wanted):
            assert ours.shape == theirs[rows].shape
            np.testing.assert_allclose(ours, theirs[rows], atol=1e-4)


@pytest.mark.parametrize("nms", [False, True])
def test_detections_of_a_dynamic_file(dynamic, cfg, inference, pictures, nms):
    expected = NetworkDetector(inference, metadata_from_config(cfg))(pictures[1][:7], pictures[2][:7])
    detector = open_model(dynamic[nms])
    assert detector.description.dynamic_batch and detector.description.batch_size == 4
    sizes = []
    run = detector.run
    detector.run = lambda batch, shapes: sizes.append(len(batch)) or run(batch, shapes)
    for size, calls in ((4, [4, 3]), (3, [3, 3, 1])):
        sizes.clear()
        detector.description = replace(detector.description, batch_size=size)
        missed, count, _ = compare_detections(expected, detector(pictures[1][:7], pictures[2][:7]))
        assert missed == 0 and count > 50 and sizes == calls


def test_the_configuration_gives_the_batch_of_a_dynamic_file(dynamic, cfg):
    assert open_model(dynamic[False], type(cfg)(cfg, batch_size=9)).description.batch_size == 9


def small_model(path, shape, target, weight=(4, 3, 1, 1)):
    """images [7, 3, 2, 2] -> 1 x 1 convolution -> BN -> Reshape to `target`."""
    rng = np.random.default_rng(0)
    tensors = {"w": rng.normal(size=weight), "target": np.array(target, np.int64)}
    tensors.update({name: rng.uniform(0.5, 1.5, weight[0]) for name in ("gamma", "beta", "mean", "var")})
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "w"], ["c"]),
            helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], epsilon=1e-3),
            helper.make_node("Reshape", ["n", "target"], ["out"]),
        ],
        "small",
        [value("images", TensorProto.FLOAT, [TRACED_BATCH, 3, 2, 2])],
        [value("out", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(array if name == "target" else array.astype(np.float32), name)
            for name, array in tensors.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return tensors


def test_folding_by_hand(tmp_path):
    path = str(tmp_path / "small.onnx")
    tensors = small_model(path, [TRACED_BATCH, 16], [TRACED_BATCH, -1])
    optimize(path, dynamic_batch=True)
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Conv", "Reshape"]
    images = np.random.default_rng(1).normal(size=(2, 3, 2, 2)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    convolved = np.einsum("dc,bchw->bdhw", tensors["w"][:, :, 0, 0], images)
    column = {name: tensors[name][:, None, None] for name in ("gamma", "beta", "mean", "var")}
    wanted = (convolved - column["mean"]) / np.sqrt(column["var"] + 1e-3) * column["gamma"] + column["beta"]
    np.testing.assert_allclose(session.run(None, {"images": images})[0], wanted.reshape(2, 16), atol=1e-5)


def test_a_graph_that_needs_the_number_of_images(tmp_path):
    """All images become one row: no other number of images has that shape."""
    path = str(tmp_path / "small.onnx")
    small_model(path, [4, TRACED_BATCH * 4], [4, TRACED_BATCH * 4])
    optimize(path, dynamic_batch=True)
    with pytest.raises(Exception, match="[Rr]eshape"):  # found by the comparison of an export
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
            None, {"images": np.zeros((1, 3, 2, 2), np.float32)}
        )


def test_a_graph_that_onnx_cannot_convert(tmp_path, monkeypatch):
    path = str(tmp_path / "small.onnx")
    small_model(path, [TRACED_BATCH, 16], [TRACED_BATCH, -1])
    monkeypatch.setattr(onnx_optimize, "OPSET", 999)
    with pytest.raises(RunError, match="cannot be converted to opset 999: ") as error:
        optimize(path)
    assert "\n" not in str(error.value)


def test_slices_of_every_image(tmp_path):
    """MindSpore 1.10 writes [:, 1:] with the number of images as an end."""
    path = str(tmp_path / "slice.onnx")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Slice", ["images", "starts", "ends", "axes"], ["out"])],
        "slice",
        [value("images", TensorProto.FLOAT, [TRACED_BATCH, 3])],
        [value("out", TensorProto.FLOAT, [TRACED_BATCH, 2])],
        [
            numpy_helper.from_array(np.array(array, np.int32), name)
            for name, array in (("starts", [0, 1]), ("ends", [TRACED_BATCH, 3]), ("axes", [0, 1]))
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    optimize(path, dynamic_batch=True)
    images = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"images": images})[0], images[:, 1:])
