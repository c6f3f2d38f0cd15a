"""An ONNX file in lower precision, by onnxruntime's converters: float16, or int8 with calibrated ranges."""

from __future__ import annotations

import logging
import os
from typing import List

import numpy as np
import onnx
from onnx import TensorProto

from src.inference.detector import IMAGES, Detector
from src.utils.errors import RunError

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def nodes_in_float32(graph) -> List[str]:
    """Names of the nodes before the first convolutions and after the last ones: normalisation and box decoding, which
    cost little and need the digits."""
    nodes, after, before = list(graph.node), set(), set()
    for node in nodes:  # in the order in which they run
        if node.op_type in _PRODUCTS or after.intersection(node.input):
            after.update(node.output)
    for node in reversed(nodes):
        if node.op_type in _PRODUCTS or before.intersection(node.output):
            before.update(node.input)
    return [
        node.name
        for node in nodes
        if node.op_type not in _PRODUCTS and not (after.intersection(node.output) and before.intersection(node.output))
    ]


def to_float16(path: str) -> None:
    """The file at `path` with weights and features in float16; inputs, outputs and box decoding stay float32.

    Raises:
        RunError: onnxruntime cannot convert it.
    """
    model = onnx.load(path)
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        model = convert_float_to_float16(model, keep_io_types=True, node_block_list=nodes_in_float32(model.graph))
        _drop_roundings(model.graph)
        OnnxModel(model).topological_sort()
    except Exception as error:  # kinds of several libraries
        raise _failure("float16", error) from None
    onnx.save(model, path)


def _drop_roundings(graph) -> None:
    """Remove the way to float16 and back that onnxruntime's converter puts between two nodes in float32."""
    sources = {node.output[0]: node.input[0] for node in graph.node if _casts_to(node, TensorProto.FLOAT16)}
    back = [node for node in graph.node if _casts_to(node, TensorProto.FLOAT) and node.input[0] in sources]
    outputs = {value.name for value in graph.output}
    # an output of the graph keeps its name, any other tensor that of the source
    names = {sources[node.input[0]]: node.output[0] for node in back if node.output[0] in outputs}
    for node in back:
        source = sources[node.input[0]]
        names.setdefault(node.output[0], names.get(source, source))
        graph.node.remove(node)
    for node in graph.node:
        for words in (node.input, node.output):
            words[:] = [names.get(word, word) for word in words]
    del graph.value_info[:]  # tensors that were float16
    used = outputs.union(*(node.input for node in graph.node))
    for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]:
        graph.node.remove(node)


def _failure(precision: str, error: Exception) -> RunError:
    return RunError(f"the ONNX file cannot be converted to {precision}: {' '.join(str(error).split())[:300]}")


def _casts_to(node, kind: int) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == kind


def to_int8(path: str, images: np.ndarray, detector: Detector) -> None:
    """The file at `path` with weights in int8 and features in uint8, whose ranges are those on `images`.

    Weights have a scale per channel. Inputs, outputs and box decoding stay float32.

    Args:
        images: uint8 RGB [n, H, W, 3].
        detector: of the same file, for its input.

    Raises:
        RunError: onnxruntime cannot convert it.
    """
    size = 1 if detector.description.dynamic_batch else detector.description.batch_size
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Reader(CalibrationDataReader):
            def __init__(self):
                self.rest = iter([images[at : at + size] for at in range(0, len(images), size)])

            def get_next(self):
                batch = next(self.rest, None)
                if batch is None:
                    return None
                return {IMAGES: detector._input(np.resize(batch, (size, *batch.shape[1:])))}

        logging.disable(logging.WARNING)  # it advises to optimise the file first, which is done
        quantize_static(
            path,
            f"{path}.int8",
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=nodes_in_float32(onnx.load(path).graph),
        )
    except Exception as error:  # kinds of several libraries
        raise _failure("int8", error) from None
    finally:
        logging.disable(logging.NOTSET)
    os.replace(f"{path}.int8", path)
