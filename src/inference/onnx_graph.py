"""What MindSpore's ONNX file still lacks: names, metadata, and on request NMS."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from src.inference.detector import IMAGE_SHAPE, IMAGES, NMS_OUTPUTS, RAW_OUTPUTS
from src.inference.metadata import ModelMetadata, to_onnx_props
from src.inference.onnx_optimize import BATCH
from src.utils.errors import RunError


def add_metadata(path: str, description: ModelMetadata) -> None:
    """Write the description into the file at `path`, and check it.

    Raises:
        RunError: the onnx checker refuses it.
    """
    _save(onnx.load(path), path, description)


def name_outputs_and_add_metadata(path: str, description: ModelMetadata) -> None:
    """Give the file at `path` fixed names and its description, and check it.

    Raises:
        RunError: the onnx checker refuses it.
    """
    model = onnx.load(path)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    _rename(graph, dict(zip([*inputs, *(value.name for value in graph.output)], [IMAGES, *RAW_OUTPUTS])))
    _save(model, path, description)


def add_nms(path: str, description: ModelMetadata) -> None:
    """Put post-processing (docs/reference.md, "Post-processing") into the file at `path`, after
    `name_outputs_and_add_metadata`.

    A second input `image_shape` float32 [B, 2] holds height and width of the original images. Outputs, with D
    detections of all images together: boxes [D, 4] y1, x1, y2, x2 in pixels, scores [D], labels [D], image [D].

    ONNX's NonMaxSuppression counts areas without the "+ 1" pixel; it is given boxes in pixels whose lower right corner
    lies one pixel further, so that their plain areas and intersections are those of the published evaluation.
    """
    model = onnx.load(path)
    graph = model.graph
    batch = BATCH if description.dynamic_batch else description.batch_size
    inner = dict(zip(RAW_OUTPUTS, ("boxes_norm", "scores_all")))
    _rename(graph, inner)
    del graph.output[:]
    graph.input.append(helper.make_tensor_value_info(IMAGE_SHAPE, TensorProto.FLOAT, [batch, 2]))
    last = np.iinfo(np.int64).max
    for name, value in {
        "nms/scale_shape": np.array([-1, 1, 4], np.int64),
        "nms/pixel": np.array([0, 0, 1, 1], np.float32),
        "nms/one": np.array([1], np.int64),
        # not shared with the Slice: OpenVINO 2025.3 makes this one a scalar
        "nms/background": np.array([1], np.int64),
        "nms/last": np.array([last], np.int64),
        "nms/max_boxes": np.array([description.max_boxes], np.int64),
        "nms/threshold": np.array([description.nms_threshold], np.float32),
        "nms/min_score": np.array([description.min_score], np.float32),
        "nms/image_and_box": np.array([0, 2], np.int64),
        "nms/column_image": np.array(0, np.int64),
        "nms/column_class": np.array(1, np.int64),
    }.items():
        graph.initializer.append(numpy_helper.from_array(value, name))

    def node(kind: str, inputs: Sequence[str], output: str, **attributes) -> None:
        graph.node.append(helper.make_node(kind, list(inputs), [output], name=f"nms/{output}", **attributes))

    node("Concat", [IMAGE_SHAPE, IMAGE_SHAPE], "nms/sides", axis=1)
    node("Reshape", ["nms/sides", "nms/scale_shape"], "nms/scale")
    node("Mul", [inner["boxes"], "nms/scale"], "nms/boxes_px")
    node("Add", ["nms/boxes_px", "nms/pixel"], "nms/boxes_grown")
    node("Transpose", [inner["scores"]], "nms/by_class", perm=[0, 2, 1])
    node("Slice", ["nms/by_class", "nms/one", "nms/last", "nms/one"], "nms/foreground")
    node(
        "NonMaxSuppression",
        ["nms/boxes_grown", "nms/foreground", "nms/max_boxes", "nms/threshold", "nms/min_score"],
        "nms/selected",
    )
    boxes, scores, labels, image = NMS_OUTPUTS
    node("Gather", ["nms/selected", "nms/image_and_box"], "nms/places", axis=1)
    node("GatherND", ["nms/boxes_px", "nms/places"], boxes)
    node("GatherND", ["nms/foreground", "nms/selected"], scores)
    node("Gather", ["nms/selected", "nms/column_class"], "nms/class", axis=1)
    node("Add", ["nms/class", "nms/background"], labels)
    node("Gather", ["nms/selected", "nms/column_image"], image, axis=1)
    for name, kind, shape in (
        (boxes, TensorProto.FLOAT, ["detections", 4]),
        (scores, TensorProto.FLOAT, ["detections"]),
        (labels, TensorProto.INT64, ["detections"]),
        (image, TensorProto.INT64, ["detections"]),
    ):
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    _save(model, path, description)


def _rename(graph, names: dict) -> None:
    for value in [*graph.input, *graph.output]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for words in (node.input, node.output):
            words[:] = [names.get(word, word) for word in words]


def _save(model, path: str, description: ModelMetadata) -> None:
    del model.metadata_props[:]
    helper.set_model_props(model, to_onnx_props(description))
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's kinds differ from version to version
        raise RunError(f"the onnx checker refuses the exported file: {' '.join(str(error).split())[:300]}") from None
    onnx.save(model, path)
