"""Ground truth and detections of single images."""

from __future__ import annotations

import numpy as np

from src.evaluation.analysis import ImageResult

CLASSES = ["background", "cat", "dog"]
LEFT, RIGHT, AWAY = [0, 0, 10, 10], [0, 20, 10, 30], [50, 50, 60, 60]


def image(image_id, truth, found):
    """The result of an image. truth: [(box, label)]; found: [(box, label, score)] by descending score."""

    def corners(rows):
        return np.array([row[0] for row in rows], np.float64).reshape(-1, 4)

    return ImageResult(
        image_id,
        corners(truth),
        np.array([row[1] for row in truth], np.int64),
        corners(found),
        np.array([row[1] for row in found], np.int64),
        np.array([row[2] for row in found], np.float64),
    )
