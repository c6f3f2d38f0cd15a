"""A trained detector from a checkpoint, a MINDIR or an ONNX file, all called alike.

An ONNX file needs no MindSpore: it is imported only where a checkpoint or a MINDIR is opened.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Callable, List, Optional, Tuple

import numpy as np

from src.boxes.postprocess import postprocess
from src.data.transforms import to_network
from src.errors import UserError
from src.inference.description import ModelDescription, describe, from_texts, read_description
from src.models.trained_classes import classes_options, first_difference

ENDINGS = (".ckpt", ".mindir", ".onnx")
# names inside an exported ONNX file
IMAGES, IMAGE_SHAPE = "images", "image_shape"
RAW_OUTPUTS = ("boxes", "scores")
NMS_OUTPUTS = ("boxes", "scores", "labels", "image")

Detections = Tuple[np.ndarray, np.ndarray, np.ndarray]


class Detector:
    """images uint8 RGB [n, H, W, 3] of the network's size, shapes [n, 2] -> detections of each.

    n is any number: images run in batches of the file's size. `shapes` are (height, width) of the original images;
    detections are what `src.boxes.postprocess.postprocess` gives: boxes_px [D, 4] y1, x1, y2, x2 in pixels of the
    original, scores [D], labels [D] (index in `description.classes`).

    highest: the highest score seen so far of any class but the background, whatever `min_score` is (where the file
    does NMS itself, among what it kept).
    """

    def __init__(self, description: ModelDescription):
        self.description = description
        self.highest = 0.0

    def __call__(self, images: np.ndarray, shapes: np.ndarray) -> List[Detections]:
        size, found = self.description.batch_size, []
        for start in range(0, len(images), size):
            batch, of_batch = images[start : start + size], np.asarray(shapes[start : start + size])
            count = len(batch)
            if count < size:  # one shape for the graph: filled up, and the filling ignored
                batch = np.concatenate([batch, np.zeros((size - count, *batch.shape[1:]), batch.dtype)])
                of_batch = np.concatenate([of_batch, np.ones((size - count, 2), of_batch.dtype)])
            found += self._found(self.run(self._input(batch), of_batch), of_batch[:count])
        return found

    def run(self, batch: np.ndarray, shapes: np.ndarray) -> list:
        """The network's own outputs for a whole batch of its own input: boxes [B, N, 4] and scores [B, N, C], or
        those of `NMS_OUTPUTS`."""
        raise NotImplementedError

    def _input(self, images: np.ndarray) -> np.ndarray:
        if self.description.uint8_input:
            return np.ascontiguousarray(images)
        return np.stack([to_network(image) for image in images])

    def _found(self, outputs: list, shapes: np.ndarray) -> List[Detections]:
        """Of the first images of the batch, as many as there are shapes."""
        description = self.description
        if description.nms:
            kept = outputs[3] < len(shapes)
            boxes, scores, labels, image = (output[kept] for output in outputs)
            self.highest = max(self.highest, float(scores.max(initial=0)))
            return [
                _of_image(boxes, scores, labels, (image == number) & (scores > description.min_score))
                for number in range(len(shapes))
            ]
        boxes, scores = (output[: len(shapes)] for output in outputs)
        self.highest = max(self.highest, float(np.nan_to_num(scores[:, :, 1:]).max()))
        thresholds = (description.min_score, description.nms_threshold, description.max_boxes)
        return [postprocess(*rows, shape, *thresholds) for *rows, shape in zip(boxes, scores, shapes)]


def _of_image(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Detections:
    """These rows in the order of post-processing: class by class, by falling score."""
    rows = np.flatnonzero(rows)
    rows = rows[np.lexsort((-scores[rows], labels[rows]))]
    return boxes[rows].astype(np.float64), scores[rows], labels[rows]


class NetworkDetector(Detector):
    """A MindSpore cell: the inference network, or a graph loaded from a MINDIR."""

    def __init__(self, cell, description: ModelDescription):
        super().__init__(description)
        self.cell = cell

    def run(self, batch: np.ndarray, shapes: np.ndarray) -> list:
        from mindspore import Tensor

        return [output.asnumpy() for output in self.cell(Tensor(batch))]


class OnnxDetector(Detector):
    """An ONNX file of export.py, in onnxruntime on the CPU."""

    def __init__(self, path: str):
        self.session = _onnx_session(path)
        super().__init__(from_texts(self.session.get_modelmeta().custom_metadata_map, path))

    def run(self, batch: np.ndarray, shapes: np.ndarray) -> list:
        inputs = {IMAGES: batch}
        if self.description.nms:
            inputs[IMAGE_SHAPE] = shapes.astype(np.float32)
        return self.session.run(NMS_OUTPUTS if self.description.nms else RAW_OUTPUTS, inputs)


def _onnx_session(path: str):
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path}: an ONNX file needs the package onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, none of them public
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged or no ONNX file: {reason}") from None


def load_mindir(path: str) -> Callable:
    """The cell of a MINDIR.

    Raises:
        UserError: MindSpore cannot read it.
    """
    import mindspore as ms
    from mindspore import nn

    try:
        return nn.GraphCell(ms.load(path))
    except Exception as error:  # MindSpore raises many kinds for a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or no MINDIR of this MindSpore: {reason}") from None


def build_inference(model, cfg) -> Callable:
    """The inference network (`src.models.ssd.SSDInference`) of a config around a model, in evaluation mode."""
    from src.boxes.default_boxes import build_default_boxes
    from src.models.ssd import SSDInference

    return SSDInference(model, build_default_boxes(cfg)[0], cfg.prior_scaling).set_train(False)


def build_detector(model, cfg) -> NetworkDetector:
    """The detector of a config around a model, of a training run for instance."""
    return NetworkDetector(build_inference(model, cfg), describe(cfg))


def open_model(path: str, cfg=None, key: str = "checkpoint_file_path") -> Detector:
    """A checkpoint, MINDIR or ONNX file, by the ending of its name.

    For a checkpoint or MINDIR the device must have been set (`src.device.init_device`).

    Args:
        cfg: the configuration. A checkpoint needs it; for an exported file its thresholds count, and classes and
            image size must be the file's.
        key: the option that named the file, for messages.

    Raises:
        UserError: no such file, a damaged one, one of another network or other classes.
    """
    if not os.path.isfile(path):
        raise UserError(f"{key}: no such file: {os.path.abspath(path)}")
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise UserError(f"{key}: a model's name ends in {', '.join(ENDINGS)}, got {path}")
    if ending == ".ckpt":
        return _open_checkpoint(path, cfg, key)
    if ending == ".onnx":
        detector = OnnxDetector(path)
    else:
        description = read_description(path)
        detector = NetworkDetector(load_mindir(path), description)
    if cfg is not None:
        detector.description = _fitting(detector.description, cfg, path, key)
    return detector


def _open_checkpoint(path: str, cfg, key: str) -> Detector:
    from src.models.build import build_model
    from src.models.weights import load_network

    model = build_model(cfg)
    load_network(model, path, key, needs_all=True, classes=cfg.classes)
    return build_detector(model, cfg)


def _fitting(found: ModelDescription, cfg, path: str, key: str) -> ModelDescription:
    """The description of an exported file with the config's thresholds.

    Raises:
        UserError: naming what differs, with both values.
    """
    wanted, where = describe(cfg), f"{key}: {path} was exported"
    if found.classes != wanted.classes:
        differs = first_difference(found.classes, wanted.classes)
        advice = f"use its classes: {classes_options(found.classes)}" if key != "model" else "leave out --config_path"
        raise UserError(f"{where} for other classes: {differs}; {advice}")
    for name in ("img_shape", "mean", "std"):
        if getattr(found, name) != getattr(wanted, name):
            advice = "leave out --config_path" if key == "model" else "use that value, or export the checkpoint again"
            raise UserError(f"{where} with {name} {getattr(found, name)}, here it is {getattr(wanted, name)}; {advice}")
    return with_thresholds(found, where, wanted.min_score, wanted.nms_threshold, wanted.max_boxes)


def with_thresholds(
    found: ModelDescription,
    where: str,
    min_score: Optional[float] = None,
    nms_threshold: Optional[float] = None,
    max_boxes: Optional[int] = None,
) -> ModelDescription:
    """The description with other thresholds. A file that does NMS itself can only be asked for a higher score.

    Raises:
        UserError: naming the threshold and both values.
    """
    given = {"min_score": min_score, "nms_threshold": nms_threshold, "max_boxes": max_boxes}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items() if found.nms else ():
        inside = getattr(found, name)
        if value < inside or (value != inside and name != "min_score"):
            raise UserError(f"{where} with NMS inside, with {name} {inside}, not {value}; export it again")
    return replace(found, **given)
