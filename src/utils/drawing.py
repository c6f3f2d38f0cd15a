"""Drawing of boxes and captions, readable on any background. Images are BGR uint8 [H, W, 3], modified in place."""

from __future__ import annotations

import colorsys
import os
from typing import Iterable, Sequence

import cv2
import numpy as np

from src.utils.output import is_drawing

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)
SMALLEST = 480  # minimum length in pixels of a picture's longer side
DRAWN = 100  # maximum number of detections per picture, as in COCO's protocol


def class_colour(label: int) -> tuple:
    """The colour of a class, BGR; classes with adjacent numbers differ much in hue."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.85, 0.95 if label % 2 else 0.75)
    return int(255 * blue), int(255 * green), int(255 * red)


def draw_box(image: np.ndarray, box_px: Sequence[float], colour: tuple, thickness: int = 2) -> None:
    """Draw the outline of a box y1, x1, y2, x2; a thick one gets a dark border to be visible on any colour."""
    y1, x1, y2, x2 = (int(round(v)) for v in box_px)
    if thickness > 1:
        cv2.rectangle(image, (x1, y1), (x2, y2), BLACK, thickness + 2, cv2.LINE_AA)
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)


def draw_corners(image: np.ndarray, box_px: Sequence[float], colour: tuple = WHITE) -> None:
    """Draw the four corners of a box y1, x1, y2, x2 as brackets."""
    y1, x1, y2, x2 = (int(round(v)) for v in box_px)
    shorter = min(x2 - x1, y2 - y1)
    arm = max(2, shorter // 4)
    for paint, thickness in ((BLACK, 5), (colour, 2)) if shorter > 20 else ((colour, 1),):
        for y, x, down, right in ((y1, x1, 1, 1), (y1, x2, 1, -1), (y2, x1, -1, 1), (y2, x2, -1, -1)):
            cv2.line(image, (x, y), (x + right * arm, y), paint, thickness)
            cv2.line(image, (x, y), (x, y + down * arm), paint, thickness)


def draw_tag(image: np.ndarray, text: str, box_px: Sequence[float], colour: tuple, below: bool = False) -> None:
    """Draw a label on a filled plate at the upper (or lower) left of a box, kept inside the image."""
    _paint(image, text, _plates(image, text, box_px, 1.0)[3 if below else 0], colour, 1.0)


def _plates(image: np.ndarray, text: str, box_px: Sequence[float], scale: float) -> list:
    """Possible plates for a label at a box, the best first: (top, left, bottom, right) inside the image."""
    edge = max(2, round(3 * scale))
    (width, height), _ = cv2.getTextSize(text, FONT, 0.45 * scale, max(1, round(scale)))
    width, height = width + 2 * edge, height + 3 * edge
    y1, x1, y2, x2 = (int(round(v)) for v in box_px)
    corners = ((y1 - height, x1), (y1, x1), (y2, x1), (y2 - edge // 2, x1), (y1 - height, x2 - width), (y2, x2 - width))
    plates = []
    for top, left in corners:
        top = int(np.clip(top, 0, max(image.shape[0] - height, 0)))
        left = int(np.clip(left, 0, max(image.shape[1] - width, 0)))
        plates.append((top, left, top + height, left + width))
    return plates


def _paint(image: np.ndarray, text: str, plate: tuple, colour: tuple, scale: float) -> None:
    top, left, bottom, right = plate
    edge = max(2, round(3 * scale))
    cv2.rectangle(image, (left, top), (right, bottom), colour, -1)
    bright = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] > 140
    origin, pen = (left + edge, bottom - round(1.5 * edge)), max(1, round(scale))
    cv2.putText(image, text, origin, FONT, 0.45 * scale, BLACK if bright else WHITE, pen, cv2.LINE_AA)


def _shared(first: Sequence[float], second: Sequence[float]) -> float:
    rows = min(first[2], second[2]) - max(first[0], second[0])
    columns = min(first[3], second[3]) - max(first[1], second[1])
    return max(rows, 0) * max(columns, 0)


def draw_detections(
    image: np.ndarray, boxes_px: np.ndarray, labels: Sequence[int], scores: Sequence[float], names: Sequence[str]
) -> np.ndarray:
    """A copy of the picture with its `DRAWN` best detections, the highest scores on top, each class in its colour, with
    names.

    Args:
        image: BGR uint8 [H, W, 3]; one smaller than `SMALLEST` pixels comes back enlarged, so that names can be read.
        boxes_px: [D, 4] y1, x1, y2, x2; labels, scores: [D]; names: of all classes.
    """
    boxes_px, longer = np.asarray(boxes_px, np.float64).reshape(-1, 4), max(image.shape[:2])
    image, factor = fitted(image, SMALLEST) if longer < SMALLEST else (image.copy(), 1.0)
    image = np.ascontiguousarray(image)
    scale = max(1.0, longer / 900)
    order = np.argsort(scores, kind="stable")[-DRAWN:]  # an untrained network has thousands
    for row in order:
        box = boxes_px[row] * factor
        # the outline must not cover a box of a few pixels
        thickness = max(1, min(round(2 * scale), int(min(box[2] - box[0], box[3] - box[1]) // 8)))
        # keep the complete outline visible at the image's edge
        inside = np.array(image.shape[:2] * 2) - 1 - thickness
        draw_box(image, np.clip(box, thickness, inside), class_colour(int(labels[row])), thickness)
    tags, small = [], [box for box in boxes_px[order] * factor if _shared(box, box) < 4000 * scale**2]
    for row in order[::-1]:  # by descending score; labels avoid each other and small boxes
        text = f"{ascii_name(names[labels[row]], int(labels[row]))} {scores[row]:.2f}"
        taken = [plate for _, _, plate in tags] + small
        plates = _plates(image, text, boxes_px[row] * factor, scale)
        tags.append((text, row, min(plates, key=lambda plate: sum(_shared(plate, other) for other in taken))))
    for text, row, plate in tags[::-1]:
        _paint(image, text, plate, class_colour(int(labels[row])), scale)
    return image


def ascii_name(name: str, label: int) -> str:
    """A class name that OpenCV's fonts can draw: a non-ASCII one becomes its number."""
    return name if name.isascii() else f"class {label}"


def caption(lines: Sequence[str], width: int) -> np.ndarray:
    """A strip [H, width, 3] with dark text on white."""
    strip = np.full((8 + 19 * len(lines), width, 3), 255, np.uint8)
    for number, line in enumerate(lines):
        scale = min(0.45, 0.45 * (width - 12) / max(cv2.getTextSize(line, FONT, 0.45, 1)[0][0], 1))
        cv2.putText(strip, line, (6, 19 + 19 * number), FONT, scale, (40, 40, 40), 1, cv2.LINE_AA)
    return strip


def fitted(image: np.ndarray, size: int) -> tuple:
    """(the image resized to `size` pixels on its longer side, the factor)."""
    scale = size / max(image.shape[:2])
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    height, width = (max(1, int(round(side * scale))) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=interpolation), scale


def sheet(tiles: Sequence[np.ndarray], columns: int = 4, margin: int = 8) -> np.ndarray:
    """A contact sheet: pictures side by side on white, in cells of the size of the largest."""
    height = max(tile.shape[0] for tile in tiles) + 2 * margin
    width = max(tile.shape[1] for tile in tiles) + 2 * margin
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    page = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height + margin, number % columns * width + margin
        page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return page


class DrawingPaths:
    """Paths of drawings in a folder: each gets the name of its original, with a number if two would be the same.

    A file that is not a drawing of this program is never overwritten, nor is one of `originals`; a drawing of an
    earlier run is. If a folder has the name, it is still returned (writing fails, and is reported).
    """

    def __init__(self, folder: str, originals: Iterable[str] = (), reserved: Iterable[str] = ()):
        self._folder = folder
        self._taken = {os.path.realpath(path) for path in originals}
        self._taken |= {os.path.realpath(os.path.join(folder, name)) for name in reserved}
        self._numbers = {}

    def path(self, original: str, extension: str) -> str:
        """The path for the drawing of an original file."""
        stem, ending = os.path.splitext(os.path.basename(original))
        stem += ending * ending[1:].isdigit()  # part of the name, such as a date
        number = self._numbers.get((stem, extension), 0)
        while True:
            number += 1
            suffix = (f"_{number}" if number > 1 else "") + extension
            path = os.path.join(self._folder, _shortened(stem, 255 - len(suffix)) + suffix)
            real = os.path.realpath(path)
            if real not in self._taken and not self._is_foreign(path):
                self._numbers[stem, extension] = number
                self._taken.add(real)
                return path

    @staticmethod
    def _is_foreign(path: str) -> bool:
        return os.path.islink(path) or (os.path.lexists(path) and not os.path.isdir(path) and not is_drawing(path))


def _shortened(name: str, room: int) -> str:
    """The beginning of a name, at most `room` bytes long in a file system."""
    data = os.fsencode(name)
    return name if len(data) <= room else data[:room].decode("utf-8", "ignore")
