"""Network + records -> the evaluator's detections."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn

from src.boxes.default_boxes import build_default_boxes
from src.data.mindrecord import Records
from src.data.pipeline import evaluation_batches
from src.evaluation.coco_evaluator import CocoEvaluator
from src.log import progress
from src.models.ssd import SSDInference


def build_inference(model: nn.Cell, cfg) -> SSDInference:
    """The inference network of a config around a model."""
    return SSDInference(model, build_default_boxes(cfg)[0], cfg.prior_scaling)


def build_evaluator(records: Records, cfg) -> CocoEvaluator:
    """The evaluator of a config for its evaluation records."""
    return CocoEvaluator(records.annotation_file, cfg.classes, cfg.min_score, cfg.nms_threshold, cfg.max_boxes)


def detect(
    inference: SSDInference, records: Records, cfg, evaluator: CocoEvaluator, rank: int = 0, size: int = 1
) -> None:
    """Run every image of this rank through the network and hand its detections to the evaluator."""
    inference.set_train(False)
    total = len(range(rank, records.count, size))
    with progress(total, "evaluating", speaks=rank == 0) as bar:
        for ids, images, shapes in evaluation_batches(records, cfg, rank, size):
            count = len(ids)
            if count < cfg.batch_size:
                # one shape for the graph: the last batch is filled up and the filling ignored
                filling = np.zeros((cfg.batch_size - count, *images.shape[1:]), images.dtype)
                images = np.concatenate([images, filling])
            boxes, scores = (output.asnumpy() for output in inference(Tensor(images)))
            for row in range(count):
                evaluator.update(records.own_id(ids[row]), boxes[row], scores[row], shapes[row].tolist())
            bar.update(count)
