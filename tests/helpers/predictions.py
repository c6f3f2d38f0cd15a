"""ONNX files whose detections are known by hand, and pictures for them."""

from __future__ import annotations

import os
from dataclasses import replace

import cv2
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from src.data.transforms import MEAN, STD
from src.inference.metadata import ModelMetadata, to_onnx_props

CLASSES = ["background", "cat", "dog"]


def write_fixed_model(path, **changes):
    """Write a model that finds a cat (0.9) in the upper left quarter and a dog (0.4) in the lower right one.

    changes: fields of its description.
    """
    boxes = np.array([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]], np.float32)
    scores = np.array([[[0.99, 0.9, 0.05], [0.99, 0.05, 0.4]]], np.float32)
    nodes = [helper.make_node("Identity", ["b"], ["boxes"]), helper.make_node("Identity", ["s"], ["scores"])]
    _write_model(path, nodes, [numpy_helper.from_array(boxes, "b"), numpy_helper.from_array(scores, "s")], 1, **changes)


def write_brightness_model(path, batch):
    """Write a model whose cat in the upper left quarter has the picture's mean brightness (0 to 1) as its score, and
    whose dog in the lower right quarter has half of it."""
    boxes = np.tile(np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32), (batch, 1, 1))
    share = np.array([[[0, 1, 0], [0, 0, 0.5]]], np.float32) / 255
    nodes = [
        helper.make_node("Identity", ["b"], ["boxes"]),
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "shape"], ["column"]),
        helper.make_node("Mul", ["column", "share"], ["scores"]),
    ]
    constants = [
        numpy_helper.from_array(boxes, "b"),
        numpy_helper.from_array(share, "share"),
        numpy_helper.from_array(np.array([batch, 1, 1], np.int64), "shape"),
    ]
    _write_model(path, nodes, constants, batch)


def _write_model(path, nodes, constants, batch, **changes):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "fixed",
        [value("images", TensorProto.UINT8, [batch, 64, 64, 3])],
        [value("boxes", TensorProto.FLOAT, [batch, 2, 4]), value("scores", TensorProto.FLOAT, [batch, 2, 3])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    description = ModelMetadata(CLASSES, [64, 64], batch, 0.1, 0.6, 100, MEAN.tolist(), STD.tolist())
    helper.set_model_props(model, to_onnx_props(replace(description, **changes)))
    save(model, path)


def picture(path, height=80, width=120):
    """Write a grey picture."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 200, np.uint8))
