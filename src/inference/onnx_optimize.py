"""MindSpore's ONNX file (opset 11, sequences, BN not folded, a fixed batch) as one that every runtime takes."""

from __future__ import annotations

import os
from typing import Dict, List

import numpy as np
import onnx
from onnx import helper, numpy_helper

from src.utils.errors import RunError

# what onnxruntime 1.14, the oldest that is supported, reads
OPSET, IR_VERSION = 17, 8
# images that a network is exported with where its batch becomes dynamic: a number that stands for nothing else
TRACED_BATCH = 7
BATCH = "batch"


def optimize(path: str, dynamic_batch: bool = False) -> None:
    """Rewrite the file at `path`: opset 17, tensors only, BN folded into the convolutions, constants computed.

    A convolution that several levels share becomes one for each BN that follows it, so the file grows.

    Args:
        dynamic_batch: the file was exported with `TRACED_BATCH` images, and is to take any number of them.

    Raises:
        RunError: onnx or onnxruntime cannot convert it, or its batch cannot be made dynamic.
    """
    model = onnx.load(path)
    _replace_sequences(model.graph)
    model.ir_version = IR_VERSION
    try:
        model = onnx.version_converter.convert_version(model, OPSET)
        if dynamic_batch:
            _free_batch(model)
        onnx.save(model, path)
        _fold(path)
    except RunError:
        raise
    except Exception as error:  # onnx's and onnxruntime's kinds, few of them public
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"the ONNX file cannot be converted to opset {OPSET}: {reason}") from None


def _replace_sequences(graph) -> None:
    """Concat in place of SequenceConstruct + ConcatFromSequence: not every runtime has sequences."""
    parts = {node.output[0]: list(node.input) for node in graph.node if node.op_type == "SequenceConstruct"}
    nodes: List[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "SequenceConstruct":
            continue
        if node.op_type == "ConcatFromSequence":
            attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            inputs, axis = parts[node.input[0]], attributes["axis"]
            if attributes.get("new_axis"):
                stacked = [f"{node.output[0]}/part{number}" for number in range(len(inputs))]
                nodes += [helper.make_node("Unsqueeze", [x], [y], axes=[axis]) for x, y in zip(inputs, stacked)]
                inputs = stacked
            node = helper.make_node("Concat", inputs, node.output, node.name, axis=axis)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _free_batch(model) -> None:
    """Give inputs and outputs the first dimension `BATCH`, and Reshape and Slice no number of images. An operator that
    takes the number in another way is found by the comparison of an export.

    Raises:
        RunError: a Reshape that needs the number.
    """
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph
    images_first = {
        value.name for value in [*inferred.input, *inferred.value_info, *inferred.output] if _batch(value) is not None
    }
    constants = _constants(graph)

    def replace_input(node, number: int, value: np.ndarray) -> None:
        name = f"{node.output[0]}/input{number}"
        graph.initializer.append(numpy_helper.from_array(value, name))
        node.input[number] = name

    for node in graph.node:
        values = [constants.get(name) for name in node.input[1:]]
        if node.op_type == "Reshape" and values[0] is not None and values[0][:1] == TRACED_BATCH:
            replace_input(node, 1, _without_count(node, values[0], node.input[0] in images_first))
        if node.op_type == "Slice" and node.input[0] in images_first:
            starts, ends, axes = [*values, None][:3]
            if starts is None or ends is None:
                continue
            axes = np.arange(len(ends)) if axes is None else axes
            every_image = (axes == 0) & (starts == 0) & (ends == TRACED_BATCH)
            if every_image.any():
                replace_input(node, 2, np.where(every_image, np.iinfo(ends.dtype).max, ends))
    for value in [*graph.input, *graph.output]:
        dimension = _batch(value)
        if dimension is not None:
            dimension.dim_param = BATCH
    del graph.value_info[:]


def _without_count(node, target: np.ndarray, images_first: bool) -> np.ndarray:
    """A shape of `TRACED_BATCH` images as one of any number.

    Raises:
        RunError: the number is needed.
    """
    target = target.copy()
    if images_first:
        target[0] = 0  # as many as come in
    elif (target[1:] > 0).all():
        target[0] = -1
    else:
        raise RunError(
            f"export_dynamic_batch: the network's {node.name or node.output[0]} needs the number of images; export "
            f"with a fixed --batch_size"
        )
    return target


def _batch(value):
    """The first dimension of a tensor of `TRACED_BATCH` images, None of another."""
    dimensions = value.type.tensor_type.shape.dim
    return dimensions[0] if dimensions and dimensions[0].dim_value == TRACED_BATCH else None


def _constants(graph) -> Dict[str, np.ndarray]:
    """Small constants by name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items() if np.prod(tensor.dims) < 16}


def _fold(path: str) -> None:
    """onnxruntime's basic optimisations, which give ONNX's own operators: BN into Conv, constants, unused nodes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = f"{path}.folded"
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = onnx.load(f"{path}.folded")
    used = {node.domain for node in model.graph.node}
    # onnxruntime lists every domain that it knows
    domains = [domain for domain in model.opset_import if domain.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.save(model, path)
    os.remove(f"{path}.folded")
