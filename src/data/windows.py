"""The part of an image that a training sample shows; docs/reference.md, "Training pipeline" and "Training options".

A window is (top, left, bottom, right) in whole pixels. It may extend beyond the image; there the mean colour is seen.
Nothing here reads pixels until `view`. Boxes are [M, 5] rows y1, x1, y2, x2, label in pixels.
"""

from __future__ import annotations

import math
from typing import Sequence, Tuple

import cv2
import numpy as np

MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
_MIN_IOUS = (None, 0.1, 0.3, 0.5, 0.7, 0.9)
_TRIALS = 50
_ZOOM_OUT_SHARE = 0.5
Window = Tuple[int, int, int, int]


def draw_window(
    height: int, width: int, boxes: np.ndarray, augmentation, rng: np.random.Generator
) -> tuple[Window, np.ndarray]:
    """The window of a sample: zoom-out, scale jitter and crop in this order, each within the result of the one before.

    Args:
        height, width: of the image.
        augmentation: a `transforms.Augmentation`.

    Returns:
        The window, and the boxes in it relative to its corner.
    """
    draws = []
    if augmentation.zoom_out > 1:
        draws.append(lambda *frame: draw_zoom_out(*frame, augmentation.zoom_out, rng))
    if tuple(augmentation.scale_jitter) != (1, 1):
        draws.append(lambda *frame: draw_scale(*frame, *augmentation.scale_jitter, rng))
    draws.append(lambda *frame: _draw_crop_or_none(*frame, augmentation.crop_probability, rng))
    top = left = 0
    for draw in draws:
        (first_row, first_column, last_row, last_column), boxes = draw(height, width, boxes)
        top, left = top + first_row, left + first_column
        height, width = last_row - first_row, last_column - first_column
    return (top, left, top + height, left + width), boxes


def draw_zoom_out(
    height: int, width: int, boxes: np.ndarray, most: float, rng: np.random.Generator
) -> tuple[Window, np.ndarray]:
    """In half of the calls a canvas of up to `most` times the height and width, with the image at a random place."""
    if rng.random() >= _ZOOM_OUT_SHARE:
        return (0, 0, height, width), boxes
    factor = rng.uniform(1, most)
    rows, columns = int(height * factor), int(width * factor)
    top, left = int(rng.uniform(0, rows - height)), int(rng.uniform(0, columns - width))
    moved = boxes.copy()
    moved[:, :4] += np.array([top, left, top, left], boxes.dtype)
    return (-top, -left, rows - top, columns - left), moved


def draw_scale(
    height: int, width: int, boxes: np.ndarray, low: float, high: float, rng: np.random.Generator
) -> tuple[Window, np.ndarray]:
    """The window in which the image appears `low` to `high` times as large: larger than the image for factors below 1,
    a part of it for factors above 1. The complete image if no box's centre lies in any of 50 windows."""
    for _ in range(_TRIALS):
        factor = rng.uniform(low, high)
        rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
        # one of the two limits is 0: a window beyond the image contains it, a smaller one lies in it
        top = math.floor(rng.uniform(*sorted((0, height - rows))))
        left = math.floor(rng.uniform(*sorted((0, width - columns))))
        window = np.array([top, left, top + rows, left + columns])
        keep = _centre_within(boxes, window)
        if keep.any() or len(boxes) == 0:
            return tuple(window.tolist()), _relative(boxes[keep], window)
    return (0, 0, height, width), boxes


def _draw_crop_or_none(
    height: int, width: int, boxes: np.ndarray, probability: float, rng: np.random.Generator
) -> tuple[Window, np.ndarray]:
    if probability < 1 and rng.random() >= probability:
        return (0, 0, height, width), boxes
    return draw_crop(height, width, boxes, rng)


def draw_crop(height: int, width: int, boxes: np.ndarray, rng: np.random.Generator) -> tuple[Window, np.ndarray]:
    """The window of `transforms.random_crop`, and its boxes; the complete image where that keeps the image."""
    minimum = _MIN_IOUS[rng.integers(len(_MIN_IOUS))]
    if minimum is None or len(boxes) == 0:
        return (0, 0, height, width), boxes
    corners = boxes[:, :4].astype(np.float32)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    for _ in range(_TRIALS):
        w = rng.uniform(0.3 * width, width)
        h = rng.uniform(0.3 * height, height)
        if not 0.5 <= h / w <= 2:
            continue
        left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
        crop = np.array([int(top), int(left), int(top + h), int(left + w)])
        if crop[2] <= crop[0] or crop[3] <= crop[1]:
            continue
        sides = np.maximum(np.minimum(corners[:, 2:], crop[2:]) - np.maximum(corners[:, :2], crop[:2]), 0)
        inter = sides[:, 0] * sides[:, 1]
        overlap = inter / ((crop[2] - crop[0]) * (crop[3] - crop[1]) + areas - inter)
        hit = overlap > 0
        if not hit.any() or (overlap[hit].min() < minimum and overlap.max() > minimum + 0.2):
            continue
        keep = hit & _centre_within(boxes, crop)
        if keep.any():
            return tuple(crop.tolist()), _relative(boxes[keep], crop)
    return (0, 0, height, width), boxes


def _centre_within(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
    """bool [M]: the box's centre lies strictly inside the window."""
    corners = boxes[:, :4].astype(np.float32)
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    return (centres > window[:2]).all(axis=1) & (centres < window[2:]).all(axis=1)


def _relative(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The boxes clipped to the window and relative to its corner, in the same dtype."""
    kept = boxes.copy()
    kept[:, :2] = np.maximum(kept[:, :2], window[:2]) - window[:2]
    kept[:, 2:4] = np.minimum(kept[:, 2:4], window[2:]) - window[:2]
    return kept


def view(image: np.ndarray, window: Window, shape: Sequence[int]) -> np.ndarray:
    """What the window shows of an image [H, W, 3]: a part of the array, or, where it extends beyond the image, pixels
    [*shape, 3] that are scaled already. A canvas of the window's size would be 16 times the image."""
    top, left, bottom, right = window
    if top >= 0 and left >= 0 and bottom <= image.shape[0] and right <= image.shape[1]:
        return image[top:bottom, left:right]
    down, across = (bottom - top) / shape[0], (right - left) / shape[1]
    # centres of pixels, as in a bilinear resize of the canvas
    to_image = np.array([[across, 0, left + across / 2 - 0.5], [0, down, top + down / 2 - 0.5]])
    return cv2.warpAffine(
        image,
        to_image,
        (int(shape[1]), int(shape[0])),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=MEAN.round().tolist(),
    )
