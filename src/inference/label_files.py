"""Detections as labels for labelling tools: text files of YOLO, and tasks of Label Studio with predictions."""

from __future__ import annotations

import json
import os
import urllib.parse

import numpy as np

from src.inference.results import CocoResults
from src.utils.log import LOGGER
from src.utils.output import atomic_write, write_text
from src.utils.text import one_line

YOLO_FOLDER, CLASS_FILE, TASK_FILE = "labels", "classes.txt", "label_studio.json"
LOCAL_FILES = "/data/local-files/?d="
"""Before the path of a picture that Label Studio reads from a disk."""


def write_yolo(found: CocoResults, folder: str) -> str:
    """Write a text file for each picture into `folder/labels`, and the class names into `classes.txt` there.

    The files lie as the pictures do below the folder that all of them have in common. A line is `class cx cy w h` in
    fractions of the picture, class 0 being the first after the background; a picture without detections has an empty
    file. Frames of videos are left out.

    Returns:
        What was written, in words.

    Raises:
        OutputError: a file could not be written.
    """
    rows = _pictures(found)
    target = os.path.join(folder, YOLO_FOLDER)
    top = os.path.commonpath([os.path.dirname(os.path.abspath(row[0]["file_name"])) for row in rows]) if rows else ""
    written, shared = set(), []
    write_text(os.path.join(target, CLASS_FILE), "".join(f"{name}\n" for name in found.classes[1:]))
    for picture, boxes, labels, _ in rows:
        inside = os.path.relpath(os.path.abspath(picture["file_name"]), top)
        path = os.path.join(target, os.path.splitext(inside)[0] + ".txt")
        if path in written or path == os.path.join(target, CLASS_FILE):
            shared.append(picture["file_name"])
            continue
        written.add(path)
        size = np.array([picture["width"], picture["height"]], np.float64)
        numbers = np.concatenate([(boxes[:, :2] + boxes[:, 2:] / 2) / size, boxes[:, 2:] / size], axis=1)
        lines = (
            f"{label - 1} {' '.join(f'{value:.10g}' for value in row)}\n"
            for label, row in zip(labels.tolist(), numbers.tolist())
        )
        with atomic_write(path, durable=False) as handle:
            handle.write("".join(lines))
    if shared:
        LOGGER.warning(
            "%d pictures have no label file: another file in their folder has the same name, first %s",
            len(shared),
            one_line(shared[0]),
        )
    return f"{len(written)} label files and {CLASS_FILE}: {one_line(target)}"


def write_label_studio(found: CocoResults, folder: str) -> str:
    """Write `folder/label_studio.json`: a task with a prediction for each picture, to be imported into a project.

    The labels have the names of Label Studio's template for bounding boxes: from_name "label", to_name "image",
    `$image`. Frames of videos are left out.

    Returns:
        What was written, in words.

    Raises:
        OutputError: the file could not be written.
    """
    rows, path = _pictures(found), os.path.join(folder, TASK_FILE)
    with atomic_write(path) as handle:
        handle.write("[")
        for number, row in enumerate(rows):
            handle.write((",\n" if number else "\n") + json.dumps(_task(*row, found.classes)))
        handle.write("\n]\n")
    return f"{len(rows)} tasks for Label Studio: {one_line(path)}"


def _pictures(found: CocoResults) -> list:
    """The pictures with their detections, without frames of videos, which are counted in the log."""
    rows = list(found.pictures())
    pictures = [row for row in rows if "frame" not in row[0]]
    if len(pictures) < len(rows):
        LOGGER.warning("labels are written for pictures only: %d frames of videos have none", len(rows) - len(pictures))
    return pictures


def _task(picture: dict, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, classes: list) -> dict:
    width, height = picture["width"], picture["height"]
    percent = boxes.astype(np.float64) / np.array([width, height, width, height]) * 100
    results = [
        {
            "id": str(number),
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": score,
            "value": {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [classes[label]]},
        }
        for number, ((x, y, w, h), label, score) in enumerate(
            zip(percent.tolist(), labels.tolist(), scores.tolist()), 1
        )
    ]
    path = urllib.parse.quote(os.path.abspath(picture["file_name"]).lstrip("/"), errors="surrogateescape")
    mean = float(np.mean(scores)) if len(scores) else 0.0
    prediction = {"model_version": "ssd", "score": mean, "result": results}
    return {"data": {"image": LOCAL_FILES + path}, "predictions": [prediction]}


LABEL_FORMATS = {"yolo": write_yolo, "label_studio": write_label_studio}
"""Name of a format -> function (detections, output folder) -> what was written, in words."""
