"""What an int8 export is calibrated and measured on."""

from __future__ import annotations

import numpy as np

from src.data.pipeline import image_reader
from src.data.records import prepare_records
from src.data.transforms import resize
from src.evaluation.evaluate import build_evaluator, collect_detections
from src.inference.detector import Detector
from src.inference.exporter import Calibration
from src.utils.log import LOGGER


def build_calibration(cfg) -> Calibration:
    """`export_calibration_images` images of the training set, the same ones for a seed, and the evaluation set's mAP.

    Raises:
        UserError: one of the two sets is missing.
    """
    evaluation = prepare_records(cfg, is_training=False)
    training = prepare_records(cfg, is_training=True)
    evaluator = build_evaluator(evaluation, cfg)
    count = min(cfg.export_calibration_images, training.count)
    chosen = np.random.default_rng(cfg.seed).permutation(np.sort(training.rows))[:count]
    read = image_reader(training)
    images = np.stack([resize(read(training.dataset_id(row)), cfg.img_shape) for row in chosen.tolist()])

    def measure(detector: Detector) -> float:
        LOGGER.info("%s: evaluating on %d images", detector.description.precision, evaluation.count)
        evaluator.clear()
        collect_detections(detector, evaluation, cfg, evaluator)
        return evaluator.summarize()["mAP"]

    return Calibration(images, measure, cfg.export_max_loss)
