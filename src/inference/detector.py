"""Detectors: images -> detections, all called alike; here by a MindSpore cell, in `runtimes` from an ONNX file.

MindSpore is imported only where a cell runs.
"""

from __future__ import annotations

from typing import Callable, Iterator, List, Sequence, Tuple

import numpy as np

from src.boxes.mirror import average_with_mirrored, mirror_permutation
from src.boxes.postprocess import postprocess
from src.data.transforms import normalize_image
from src.inference.metadata import ModelMetadata, metadata_from_config

# names inside an exported ONNX file
IMAGES, IMAGE_SHAPE = "images", "image_shape"
RAW_OUTPUTS = ("boxes", "scores")
NMS_OUTPUTS = ("boxes", "scores", "labels", "image")
# of the keys `nms` and `tta`
NMS_KINDS = ("hard", "soft")
TTA_KINDS = ("none", "flip")

Detections = Tuple[np.ndarray, np.ndarray, np.ndarray]


class Detector:
    """images uint8 RGB [n, H, W, 3] of the network's size, shapes [n, 2] -> detections of each.

    n is any number: images run in batches of `description.batch_size`. `shapes` are (height, width) of the original
    images; detections are what `src.boxes.postprocess.postprocess` gives: boxes_px [D, 4] y1, x1, y2, x2 in pixels of
    the original, scores [D], labels [D] (index in `description.classes`).

    max_score: the highest score seen so far of any class but the background, whatever `min_score` is (where the file
    does NMS itself, among what it kept). soft_nms: lower the scores of overlapping boxes. mirror: None, or the rows of
    the mirrored default boxes, to see each image mirrored too. concurrent_calls: number of threads that may call it at
    the same time.
    """

    concurrent_calls = 1

    def __init__(self, description: ModelMetadata):
        self.description = description
        self.max_score = 0.0
        self.soft_nms, self.mirror = False, None

    def at_test_time(self, nms: str = NMS_KINDS[0], tta: str = TTA_KINDS[0]) -> None:
        """Set `soft_nms` and `mirror`; docs/reference.md, "Soft-NMS and mirrored images".

        Both need outputs before NMS, and flip needs the layout in the description; `src.inference.open_model` checks
        files for that.
        """
        self.soft_nms = nms == "soft"
        self.mirror = mirror_permutation(self.description.layout) if tta == "flip" else None

    def __call__(self, images: np.ndarray, shapes: np.ndarray) -> List[Detections]:
        return [detections for batch in self._batches(images, shapes) for detections in self._found(*batch)]

    def candidates(self, images: np.ndarray) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """What post-processing looks at, before NMS: of each image the boxes y1, x1, y2, x2 in [0, 1] float32 [K, 4]
        with a score above `min_score` of any class but the background, and their scores [K, C]."""
        for outputs, of_batch in self._batches(images, np.ones((len(images), 2), np.int64)):
            for boxes, scores in zip(*self._raw(outputs, len(of_batch))):
                rows = np.flatnonzero((scores[:, 1:] > self.description.min_score).any(axis=1))
                yield boxes.take(rows, axis=0), scores.take(rows, axis=0)

    def _batches(self, images: np.ndarray, shapes: np.ndarray) -> Iterator[Tuple[list, np.ndarray]]:
        """(outputs of the network, shapes [n, 2] of the images that they are for; the other rows are padding)."""
        size = self.description.batch_size
        for start in range(0, len(images), size):
            batch, of_batch = images[start : start + size], np.asarray(shapes[start : start + size])
            count = len(batch)
            # one shape for the graph: padded, and the padding is ignored
            if count < size and not self.description.dynamic_batch:
                batch = np.concatenate([batch, np.zeros((size - count, *batch.shape[1:]), batch.dtype)])
                of_batch = np.concatenate([of_batch, np.ones((size - count, 2), of_batch.dtype)])
            outputs = self.run(self._input(batch), of_batch)
            if self.mirror is not None:
                mirrored = self.run(self._input(batch[:, :, ::-1]), of_batch)
                outputs = average_with_mirrored(*outputs, *mirrored, self.mirror)
            yield outputs, of_batch[:count]

    def run(self, batch: np.ndarray, shapes: np.ndarray) -> list:
        """The network's outputs for a full batch (of any size where the batch is dynamic) of its input type: boxes
        [B, N, 4] and scores [B, N, C], or those of `NMS_OUTPUTS`."""
        raise NotImplementedError

    def _input(self, images: np.ndarray) -> np.ndarray:
        if self.description.uint8_input:
            return np.ascontiguousarray(images)
        return np.stack([normalize_image(image) for image in images])

    def _found(self, outputs: list, shapes: np.ndarray) -> List[Detections]:
        """Detections of the first len(shapes) images; the rest of the batch is padding."""
        description = self.description
        if description.nms:
            kept = outputs[3] < len(shapes)
            boxes, scores, labels, image = (output[kept] for output in outputs)
            self.max_score = max(self.max_score, float(scores.max(initial=0)))
            return [
                _of_image(boxes, scores, labels, (image == number) & (scores > description.min_score))
                for number in range(len(shapes))
            ]
        return [self.postprocess(*rows, shape) for *rows, shape in zip(*self._raw(outputs, len(shapes)), shapes)]

    def _raw(self, outputs: list, count: int) -> Tuple[np.ndarray, np.ndarray]:
        """Boxes and scores of the first images of a batch."""
        boxes, scores = (output[:count] for output in outputs)
        self.max_score = max(self.max_score, float(np.nan_to_num(scores[:, :, 1:]).max()))
        return boxes, scores

    def postprocess(self, boxes: np.ndarray, scores: np.ndarray, shape: Sequence[int]) -> Detections:
        """`src.boxes.postprocess.postprocess` with the thresholds of the description."""
        description = self.description
        options = (description.min_score, description.nms_threshold, description.max_boxes, self.soft_nms)
        return postprocess(boxes, scores, shape, *options)


def _of_image(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Detections:
    """These rows in the order of post-processing: class by class, by falling score."""
    rows = np.flatnonzero(rows)
    rows = rows[np.lexsort((-scores[rows], labels[rows]))]
    return boxes[rows].astype(np.float64), scores[rows], labels[rows]


class NetworkDetector(Detector):
    """A MindSpore cell: the inference network, or a graph loaded from a MINDIR."""

    def __init__(self, cell, description: ModelMetadata):
        super().__init__(description)
        self.cell = cell

    def run(self, batch: np.ndarray, shapes: np.ndarray) -> list:
        from mindspore import Tensor

        return [output.asnumpy() for output in self.cell(Tensor(batch))]


def build_inference(model, cfg) -> Callable:
    """The inference network (`src.models.ssd.SSDInference`) of a config around a model, in evaluation mode."""
    from src.boxes.default_boxes import build_default_boxes
    from src.models.ssd import SSDInference

    return SSDInference(model, build_default_boxes(cfg)[0], cfg.prior_scaling).set_train(False)


def build_detector(model, cfg) -> NetworkDetector:
    """The detector of a config around a model, of a training run for instance."""
    detector = NetworkDetector(build_inference(model, cfg), metadata_from_config(cfg))
    detector.at_test_time(cfg.nms, cfg.tta)
    return detector
