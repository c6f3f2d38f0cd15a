"""Detections as arrays from the network to the figures; Python objects and text only where someone asks for them."""

from __future__ import annotations

import json
from typing import IO, Dict, List

import numpy as np

from src.evaluation.decimals import texts
from src.evaluation.scoring import Found

ROWS_AT_ONCE = 1 << 13


class Collected:
    """Detections by the position of their image. An image that is given again replaces what was there."""

    def __init__(self):
        self._images: Dict[int, Found] = {}

    def put(self, position: int, category: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> None:
        """One image's detections: category [D] by position, boxes [D, 4] x, y, width, height, scores [D]."""
        image = np.full(len(scores), position, np.int32)
        self._images[position] = Found(
            image, category.astype(np.int32), boxes.astype(np.float64), scores.astype(np.float64)
        )

    def merge(self, found: Found) -> None:
        """Detections of several images, those of an image together (`arrays` of another process)."""
        starts = np.flatnonzero(np.r_[True, found.image[1:] != found.image[:-1]][: len(found.image)])
        for start, stop in zip(starts, np.r_[starts[1:], len(found.image)]):
            self._images[int(found.image[start])] = Found(*(column[start:stop] for column in found))

    def arrays(self) -> Found:
        """All detections by rising position, independent of the order in which images came."""
        nothing = Found(np.empty(0, np.int32), np.empty(0, np.int32), np.empty((0, 4)), np.empty(0))
        parts = [nothing, *(self._images[position] for position in sorted(self._images))]
        return Found(*(np.concatenate(columns) for columns in zip(*parts)))

    def __len__(self) -> int:
        return sum(len(found.scores) for found in self._images.values())


def as_rows(found: Found, image_ids: list, category_ids: list) -> List[dict]:
    """The detections in the form of predictions.json."""
    columns = (column.tolist() for column in found)
    return [
        {"image_id": image_ids[image], "category_id": category_ids[category], "bbox": box, "score": score}
        for image, category, box, score in zip(*columns)
    ]


def write_rows(handle: IO[bytes], found: Found, image_ids: list, category_ids: list) -> None:
    """Write the JSON text of `as_rows`, byte by byte what json.dump writes, as UTF-8."""
    images, categories = _fields(image_ids), _fields(category_ids)
    handle.write(b"[")
    for start in range(0, len(found.scores), ROWS_AT_ONCE):
        image, category, boxes, scores = (column[start : start + ROWS_AT_ONCE] for column in found)
        numbers = texts(np.column_stack([boxes, scores]))  # [N, 5, W]
        parts = [b'{"image_id": ', images[image], b', "category_id": ', categories[category], b', "bbox": [']
        for column in range(4):
            parts += [numbers[:, column], b"], " if column == 3 else b", "]
        parts += [b'"score": ', numbers[:, 4], b"}, "]
        text = _join(parts, len(scores))
        handle.write(text if start + ROWS_AT_ONCE < len(found.scores) else text[:-2])
    handle.write(b"]")


def _fields(ids: list) -> np.ndarray:
    """uint8 [N, W]: the ids as JSON, filled up with zero bytes."""
    encoded = [json.dumps(own).encode() for own in ids] or [b"0"]
    width = max(map(len, encoded))
    return np.frombuffer(b"".join(own.ljust(width, b"\0") for own in encoded), np.uint8).reshape(-1, width)


def _join(parts: list, rows: int) -> bytes:
    """Row by row the parts (bytes, or uint8 [rows, W]) one behind the other, without the zero bytes."""
    widths = [len(part) if isinstance(part, bytes) else part.shape[1] for part in parts]
    ends = np.cumsum(widths)
    table = np.empty((rows, ends[-1]), np.uint8)
    for part, end, width in zip(parts, ends, widths):
        table[:, end - width : end] = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
    table = table.reshape(-1)
    return table[table != 0].tobytes()
