"""Drawing of boxes and captions, readable on any background. Images are BGR uint8 [H, W, 3], modified in place."""

from __future__ import annotations

import colorsys
import functools
import os
from typing import Iterable, Sequence

import cv2
import numpy as np

from src.utils.output import is_drawing

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)
SMALLEST = 480  # a picture whose longer side is shorter is enlarged to this
DRAWN = 100  # maximum number of detections per picture, as in COCO's protocol


@functools.lru_cache(maxsize=1024)
def class_colour(label: int) -> tuple:
    """The colour of a class, BGR; classes with adjacent numbers differ much in hue."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.85, 0.95 if label % 2 else 0.75)
    return int(255 * blue), int(255 * green), int(255 * red)


def draw_box(image: np.ndarray, box_px: Sequence[float], colour: tuple, thickness: int = 2) -> None:
    """Draw the outline of a box y1, x1, y2, x2; a thick one gets a dark border to be visible on any colour."""
    y1, x1, y2, x2 = (int(round(v)) for v in box_px)
    reach = thickness // 2
    border = [(-reach - 1, BLACK), (reach + 1, BLACK)] if thickness > 1 else []
    # nested lines of one pixel: a thick line takes OpenCV three times as long, a smooth one ten times
    for inset, paint in border + [(inset, colour) for inset in range(-reach, reach + 1)]:
        cv2.rectangle(image, (x1 + inset, y1 + inset), (x2 - inset, y2 - inset), paint)


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
    plates = _possible_plates(image.shape, [text], np.asarray([box_px], np.float64), 1.0)
    _draw_plate(image, text, plates[0, 3 if below else 0].tolist(), colour, 1.0)


def _edge(scale: float) -> int:
    """Pixels between the text of a plate and its sides."""
    return max(2, round(3 * scale))


def _possible_plates(shape: tuple, texts: Sequence[str], boxes_px: np.ndarray, scale: float) -> np.ndarray:
    """int [D, 6, 4] top, left, bottom, right: possible plates for the label of each box, the best first.

    They lie inside the image of `shape`, unless it is smaller than a plate.
    """
    edge, pen = _edge(scale), max(1, round(scale))
    sizes = np.array([cv2.getTextSize(text, FONT, 0.45 * scale, pen)[0] for text in texts]).reshape(-1, 2)
    width, height = (sizes + [2 * edge, 3 * edge]).T
    y1, x1, y2, x2 = np.rint(boxes_px).astype(int).T
    above, right = y1 - height, x2 - width
    top = np.stack([above, y1, y2, y2 - edge // 2, above, y2], axis=1)
    left = np.stack([x1, x1, x1, x1, right, right], axis=1)
    height, width = height[:, None], width[:, None]
    top = np.clip(top, 0, np.maximum(shape[0] - height, 0))
    left = np.clip(left, 0, np.maximum(shape[1] - width, 0))
    return np.stack([top, left, top + height, left + width], axis=2)


def _choose_plates(plates: np.ndarray, obstacles: np.ndarray) -> np.ndarray:
    """The plate of each label that covers the fewest pixels of obstacles and of the plates chosen before it.

    Args:
        plates: int [D, 6, 4] top, left, bottom, right; of equal ones the first is taken.
        obstacles: int [K, 4].

    Returns:
        int [D, 4].
    """
    corners = np.ascontiguousarray(plates.transpose(2, 0, 1))
    first, last = corners[:2], corners[2:]  # (row, column) of the upper left and of the lower right corner, [2, D, 6]
    cost = np.zeros(plates.shape[:2], int)
    if len(obstacles):
        near, far = obstacles[:, :2].T[:, None, None], obstacles[:, 2:].T[:, None, None]
        rows, columns = np.maximum(np.minimum(last[..., None], far) - np.maximum(first[..., None], near), 0)
        cost += (rows * columns).sum(axis=2)
    chosen = np.empty((len(plates), 4), int)
    for row in range(len(plates)):
        chosen[row] = plate = plates[row, cost[row].argmin()]
        near, far = plate.reshape(2, 2, 1, 1)
        later = slice(row + 1, None)  # the labels that have no plate yet avoid this one
        rows, columns = np.maximum(np.minimum(last[:, later], far) - np.maximum(first[:, later], near), 0)
        cost[later] += rows * columns
    return chosen


def _draw_plate(image: np.ndarray, text: str, plate: Sequence[int], colour: tuple, scale: float) -> None:
    """Draw a label in two parts, the name and the score: both recur, and copying takes a tenth of painting."""
    top, left, bottom, right = plate
    cut = text.rfind(" ") + 1
    painted = [_painted(text[:cut], colour, scale, True, False)] if cut else []
    painted.append(_painted(text[cut:], colour, scale, not cut, True))
    for part in painted:
        area = image[top:bottom, left : min(left + part.shape[1], right)]  # smaller at the edge of a tiny image
        area[...] = part[: area.shape[0], : area.shape[1]]
        left += part.shape[1]


@functools.lru_cache(maxsize=1024)
def _painted(text: str, colour: tuple, scale: float, is_first: bool, is_last: bool) -> np.ndarray:
    """Part of a plate, BGR uint8 [h, w, 3]; the first and the last one have a side."""
    edge, pen = _edge(scale), max(1, round(scale))
    (width, height), _ = cv2.getTextSize(text, FONT, 0.45 * scale, pen)
    part = np.full((height + 3 * edge, width + edge * (is_first + is_last), 3), colour, np.uint8)
    bright = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] > 140
    origin = (edge if is_first else 0, height + 3 * edge - round(1.5 * edge))
    return cv2.putText(part, text, origin, FONT, 0.45 * scale, BLACK if bright else WHITE, pen, cv2.LINE_AA)


def draw_detections(
    image: np.ndarray, boxes_px: np.ndarray, labels: Sequence[int], scores: Sequence[float], names: Sequence[str]
) -> np.ndarray:
    """A copy of the picture with its `DRAWN` best detections, the highest scores on top, each class in its colour, with
    names.

    Args:
        image: BGR uint8 [H, W, 3]; one smaller than `SMALLEST` pixels comes back enlarged, so that names can be read.
        boxes_px: [D, 4] y1, x1, y2, x2; labels, scores: [D]; names: of all classes.
    """
    longer = max(image.shape[:2])
    image, factor = fitted(image, SMALLEST) if longer < SMALLEST else (image.copy(), 1.0)
    image = np.ascontiguousarray(image)
    scale = max(1.0, longer / 900)
    order = np.argsort(scores, kind="stable")[-DRAWN:][::-1]
    boxes_px = np.asarray(boxes_px, np.float64).reshape(-1, 4)[order] * factor
    labels = np.asarray(labels, int)[order].tolist()
    colours = [class_colour(label) for label in labels]
    sides = boxes_px[:, 2:] - boxes_px[:, :2]
    # the outline must not cover a box of a few pixels
    thickness = np.clip(sides.min(axis=1) // 8, 1, round(2 * scale)).astype(int)[:, None]
    # keep the complete outline visible at the image's edge
    outlines = np.clip(boxes_px, thickness, np.array(image.shape[:2] * 2) - 1 - thickness)
    for row in range(len(labels) - 1, -1, -1):
        draw_box(image, outlines[row].tolist(), colours[row], int(thickness[row, 0]))
    texts = [f"{ascii_name(names[k], k)} {score:.2f}" for k, score in zip(labels, np.asarray(scores)[order].tolist())]
    # by descending score; labels avoid each other and small boxes
    small = np.rint(boxes_px[sides.prod(axis=1) < 4000 * scale**2]).astype(int)
    plates = _choose_plates(_possible_plates(image.shape, texts, boxes_px, scale), small).tolist()
    for row in range(len(labels) - 1, -1, -1):
        _draw_plate(image, texts[row], plates[row], colours[row], scale)
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
