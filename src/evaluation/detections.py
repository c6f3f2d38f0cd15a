"""Detections of many images as arrays; converted to Python objects or JSON text only on request."""

from __future__ import annotations

import json
from typing import IO, Dict, List, Tuple

import numpy as np

from src.evaluation.decimals import WIDTH, texts
from src.evaluation.scoring import Detections

ROWS_AT_ONCE = 1 << 12  # arrays of this many rows fit into the processor's cache


class Collected:
    """Detections by the position of their image; new detections of an image replace earlier ones."""

    def __init__(self):
        self._images: Dict[int, Detections] = {}

    def put(self, position: int, category: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> None:
        """Set the detections of one image: index of the category [D], boxes [D, 4] x, y, width, height, scores [D]."""
        image = np.full(len(scores), position, np.int32)
        self._images[position] = Detections(
            image, category.astype(np.int32), boxes.astype(np.float64), scores.astype(np.float64)
        )

    def merge(self, found: Detections) -> None:
        """Set the detections of several images, grouped by image (`arrays` of another process)."""
        starts = np.flatnonzero(np.r_[True, found.image[1:] != found.image[:-1]][: len(found.image)])
        for start, stop in zip(starts, np.r_[starts[1:], len(found.image)]):
            self._images[int(found.image[start])] = Detections(*(column[start:stop] for column in found))

    def arrays(self) -> Detections:
        """All detections by ascending position, independent of the order in which images were added."""
        nothing = Detections(np.empty(0, np.int32), np.empty(0, np.int32), np.empty((0, 4)), np.empty(0))
        parts = [nothing, *(self._images[position] for position in sorted(self._images))]
        return Detections(*(np.concatenate(columns) for columns in zip(*parts)))

    def __len__(self) -> int:
        return sum(len(found.scores) for found in self._images.values())


def as_rows(found: Detections, image_ids: list, category_ids: list) -> List[dict]:
    """The detections in the form of predictions.json."""
    columns = (column.tolist() for column in found)
    return [
        {"image_id": image_ids[image], "category_id": category_ids[category], "bbox": box, "score": score}
        for image, category, box, score in zip(*columns)
    ]


def write_rows(handle: IO[bytes], found: Detections, image_ids: list, category_ids: list) -> None:
    """Write the result of `as_rows` as JSON, with exactly the bytes that json.dump writes."""
    images, categories = _fields(image_ids), _fields(category_ids)
    layout = [b'{"image_id": ', images.shape[1], b', "category_id": ', categories.shape[1], b', "bbox": [']
    layout += [WIDTH, b", ", WIDTH, b", ", WIDTH, b", ", WIDTH, b'], "score": ', WIDTH, b"}, "]
    table, fields = _table(layout, ROWS_AT_ONCE)
    handle.write(b"[")
    for start in range(0, len(found.scores), ROWS_AT_ONCE):
        image, category, boxes, scores = (column[start : start + ROWS_AT_ONCE] for column in found)
        numbers = texts(np.stack([*boxes.T, scores]))  # [5, N, WIDTH]
        for field, content in zip(fields, [images[image], categories[category], *numbers]):
            table[: len(scores), field] = content
        text = table[: len(scores)].tobytes().translate(None, b"\0")
        handle.write(text if start + ROWS_AT_ONCE < len(found.scores) else text[:-2])
    handle.write(b"]")


def _fields(ids: list) -> np.ndarray:
    """uint8 [N, W]: the ids as JSON, padded with zero bytes."""
    encoded = [json.dumps(value).encode() for value in ids] or [b"0"]
    width = max(map(len, encoded))
    return np.frombuffer(b"".join(text.ljust(width, b"\0") for text in encoded), np.uint8).reshape(-1, width)


def _table(layout: list, rows: int) -> Tuple[np.ndarray, List[slice]]:
    """(uint8 [rows, W] with the constant texts of a layout in each row, the slices of its fields).

    Args:
        layout: constant texts, and the widths of fields.
    """
    line, fields = b"", []
    for part in layout:
        if isinstance(part, int):
            fields.append(slice(len(line), len(line) + part))
            part = bytes(part)
        line += part
    return np.tile(np.frombuffer(line, np.uint8), (rows, 1)), fields
