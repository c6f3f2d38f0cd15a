"""Files of an evaluation: report.html (self-contained, works offline), evaluation.json and evaluation.csv."""

from __future__ import annotations

import csv
import io
import json
import os
from typing import Callable, Dict, List, Sequence, Tuple

import cv2
import numpy as np

from src.evaluation.analysis import ImageResult, best_and_worst, confusion_matrix, diagnosis
from src.evaluation.coco_evaluator import CocoEvaluator
from src.evaluation.metrics_table import COCO_METRICS
from src.evaluation.report_page import report_page
from src.evaluation.training_history import likely_causes, read_history
from src.utils.drawing import draw_box, draw_detections, fitted
from src.utils.log import write_or_go_on
from src.utils.output import write_text

IMAGES_PER_GALLERY = 20
DIAGNOSE_BELOW = 0.01
TILE = 420
GREEN = (70, 220, 70)  # BGR


def write_report(
    evaluator: CocoEvaluator,
    result: dict,
    read_image: Callable[[object], np.ndarray],
    folder: str,
    model: str,
    highest: float,
) -> Tuple[Dict[str, str], List[str]]:
    """Write the three files, each completely or not at all; if one cannot be written, the others still are.

    Args:
        result: from `evaluator.summarize()`.
        read_image: image id of the annotation file -> uint8 RGB [H, W, 3].
        model: path of the evaluated model, for the title and to find out how it was trained.
        highest: highest score of any box (`Detector.max_score`).

    Returns:
        name -> path of each file that was written; lines that explain a mAP close to zero, else [].
    """
    images = evaluator.images()
    thresholds = evaluator.score_thresholds()
    min_score = thresholds["overall"]["threshold"] if thresholds else evaluator.min_score
    best, worst = best_and_worst(images, min_score, IMAGES_PER_GALLERY)
    why: List[str] = []
    if result["mAP"] < DIAGNOSE_BELOW:
        unmapped = [row["name"] for row in result["per_class"] if row["category_id"] is None]
        why = diagnosis(
            images,
            evaluator.classes,
            unmapped,
            highest,
            evaluator.min_score,
            likely_causes(read_history(model)),
        )
    metrics = dict(result, model=model, confusion=confusion_matrix(images, len(evaluator.classes), min_score).tolist())
    metrics.update(classes=evaluator.classes, confusion_min_score=min_score, curves=evaluator.curves(), diagnosis=why)
    metrics.update(intervals=evaluator.intervals(), errors=evaluator.errors())
    metrics.update(evaluator.source())
    metrics.update(score_thresholds=thresholds, model_file=_relative(model, folder))
    tiles = [
        [
            (f"image {result.image_id}, F1 {score:.2f}", _tile(result, read_image, evaluator.classes, min_score))
            for score, result in part
        ]
        for part in (best, worst)
    ]
    texts = {
        "report.html": report_page(metrics, *tiles),
        "evaluation.json": json.dumps(metrics, indent=1) + "\n",
        "evaluation.csv": _csv(result),
    }
    paths = {name: os.path.join(folder, name) for name in texts}
    written = {name: path for name, path in paths.items() if write_or_go_on(path, write_text, path, texts[name])}
    return written, why


def _relative(model: str, folder: str) -> str:
    """Relative, so that the folder can be moved (`src.inference.score_threshold`)."""
    try:
        return os.path.relpath(model, folder)
    except ValueError:  # another drive (Windows)
        return os.path.abspath(model)


def _tile(result: ImageResult, read_image: Callable, classes: Sequence[str], min_score: float) -> bytes:
    """A JPEG: ground truth as green outlines, detections in the colour of their class with name and score."""
    image, scale = fitted(np.ascontiguousarray(read_image(result.image_id)[..., ::-1]), TILE)
    keep = result.scores >= min_score
    image = np.ascontiguousarray(image)
    for box in result.truth:
        draw_box(image, box * scale, GREEN, 3)
    if keep.any():
        boxes, labels, scores = result.found[keep] * scale, result.found_labels[keep], result.scores[keep]
        image = draw_detections(image, boxes, labels, scores, classes)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()


def _csv(result: dict) -> str:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["figure", "IoU", "area", "detections", "all images", "published subset"])
    for (name, overlap, area, most), value, published in zip(COCO_METRICS, result["stats"], result["stats_published"]):
        rows.writerow([name, overlap, area, most, value, published])
    rows.writerow([])
    rows.writerow(["class", "boxes", "AP", "AP50", "AR100"])
    for row in result["per_class"]:
        rows.writerow([row["name"], row["boxes"], row["AP"], row["AP50"], row["AR100"]])
    return text.getvalue()
