"""Boxes and captions on pictures, readable on any background. Images are BGR uint8 [H, W, 3], drawn in place."""

from __future__ import annotations

import colorsys
from typing import Sequence

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)


def class_colour(label: int) -> tuple:
    """A strong colour of its own for each class, BGR; neighbours in number lie far apart in hue."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.85, 0.95 if label % 2 else 0.75)
    return int(255 * blue), int(255 * green), int(255 * red)


def draw_box(image: np.ndarray, box_px: Sequence[float], colour: tuple, thickness: int = 2) -> None:
    """The outline of a box y1, x1, y2, x2 with a dark seam, so that it shows on its own colour too."""
    y1, x1, y2, x2 = (int(round(v)) for v in box_px)
    if thickness > 1:
        cv2.rectangle(image, (x1, y1), (x2, y2), BLACK, thickness + 2, cv2.LINE_AA)
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)


def draw_corners(image: np.ndarray, box_px: Sequence[float], colour: tuple = WHITE) -> None:
    """The four corners of a box y1, x1, y2, x2 as brackets."""
    y1, x1, y2, x2 = (int(round(v)) for v in box_px)
    shorter = min(x2 - x1, y2 - y1)
    arm = max(2, shorter // 4)
    for paint, thickness in ((BLACK, 5), (colour, 2)) if shorter > 20 else ((colour, 1),):
        for y, x, down, right in ((y1, x1, 1, 1), (y1, x2, 1, -1), (y2, x1, -1, 1), (y2, x2, -1, -1)):
            cv2.line(image, (x, y), (x + right * arm, y), paint, thickness)
            cv2.line(image, (x, y), (x, y + down * arm), paint, thickness)


def draw_tag(image: np.ndarray, text: str, box_px: Sequence[float], colour: tuple, below: bool = False) -> None:
    """A text on a filled plate at the upper (or lower) left of a box, kept inside the image."""
    (width, height), _ = cv2.getTextSize(text, FONT, 0.45, 1)
    y1, x1, y2, _ = (int(round(v)) for v in box_px)
    base = y2 + height + 6 if below else y1 - 5
    base = int(np.clip(base, height + 4, max(image.shape[0] - 4, height + 4)))
    left = int(np.clip(x1, 0, max(image.shape[1] - width - 6, 0)))
    cv2.rectangle(image, (left, base - height - 4), (left + width + 6, base + 4), colour, -1)
    bright = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] > 140
    cv2.putText(image, text, (left + 3, base), FONT, 0.45, BLACK if bright else WHITE, 1, cv2.LINE_AA)


def caption(lines: Sequence[str], width: int) -> np.ndarray:
    """Dark text on white, a strip [H, width, 3]."""
    strip = np.full((8 + 19 * len(lines), width, 3), 255, np.uint8)
    for number, line in enumerate(lines):
        scale = min(0.45, 0.45 * (width - 12) / max(cv2.getTextSize(line, FONT, 0.45, 1)[0][0], 1))
        cv2.putText(strip, line, (6, 19 + 19 * number), FONT, scale, (40, 40, 40), 1, cv2.LINE_AA)
    return strip


def fitted(image: np.ndarray, size: int) -> tuple:
    """(the image with its longer side `size`, the factor)."""
    scale = size / max(image.shape[:2])
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    height, width = (max(1, int(round(side * scale))) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=interpolation), scale


def sheet(tiles: Sequence[np.ndarray], columns: int = 4, margin: int = 8) -> np.ndarray:
    """Pictures side by side on white, each in a cell of the largest one's size."""
    height = max(tile.shape[0] for tile in tiles) + 2 * margin
    width = max(tile.shape[1] for tile in tiles) + 2 * margin
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    page = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height + margin, number % columns * width + margin
        page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return page
