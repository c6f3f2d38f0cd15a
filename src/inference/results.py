"""detections.json of predict.py: the detections of many pictures in COCO's form, kept as arrays until it is written."""

from __future__ import annotations

import json
from typing import Iterator, List, Tuple

import numpy as np

from src.utils.output import atomic_write

_AT_ONCE = 256  # pictures whose text is made at a time
_ROW = '{"id": %d, "image_id": %d, "category_id": %d, "bbox": [%r, %r, %r, %r], "area": %r, "iscrowd": 0, "score": %r}'


class CocoResults:
    """Detections in COCO's form; a detection takes 40 bytes of memory.

    Args:
        classes: names by label, the background first.
        max_detections: at most this many of a picture are kept, those with the highest scores.
    """

    def __init__(self, classes: List[str], max_detections: int):
        self.classes, self.max_detections = classes, max_detections
        self.images: List[dict] = []
        self.reduced = 0  # pictures of which detections were left out
        self.max_score = 0.0  # of those pictures
        self._found: List[tuple] = []  # boxes x, y, width, height [D, 4], labels [D], scores [D] of each picture

    def add(self, file_name: str, shape: tuple, detections: tuple, **more) -> None:
        """Add a picture of `shape` (height, width) with its (boxes y1, x1, y2, x2, labels, scores) in pixels.

        more: further entries of its row.
        """
        boxes, labels, scores = detections
        if len(scores) > self.max_detections:
            kept = np.sort(np.argsort(-scores, kind="stable")[: self.max_detections])
            self.reduced += 1
            self.max_score = max(self.max_score, float(scores.max()))
            boxes, labels, scores = boxes[kept], labels[kept], scores[kept]
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": file_name, "height": shape[0], "width": shape[1], **more})
        xywh = np.column_stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]])
        self._found.append((xywh, labels.astype(np.int32), np.array(scores)))

    def count_by_class(self) -> List[int]:
        """Number of detections of each class."""
        counts = np.zeros(len(self.classes), np.int64)
        for _, labels, _ in self._found:
            counts += np.bincount(labels, minlength=len(counts))
        return counts.tolist()

    def pictures(self) -> Iterator[Tuple[dict, np.ndarray, np.ndarray, np.ndarray]]:
        """(row of the picture, boxes x, y, width, height [D, 4] in pixels, labels [D], scores [D]) of each."""
        for row, (boxes, labels, scores) in zip(self.images, self._found):
            yield row, boxes, labels, scores

    def save(self, path: str) -> None:
        """Write all to `path`, picture by picture.

        Raises:
            OutputError: it could not be written.
        """
        categories = [{"id": label, "name": name} for label, name in enumerate(self.classes) if label]
        with atomic_write(path) as handle:
            handle.write('{"images": [')
            for start in range(0, len(self.images), _AT_ONCE):
                rows = ", ".join(json.dumps(row) for row in self.images[start : start + _AT_ONCE])
                handle.write((", " if start else "") + rows)
            handle.write(f'], "categories": {json.dumps(categories)}, "annotations": [')
            separator = ""
            for text in self._annotations():
                handle.write(separator + text)
                separator = ", "
            handle.write("]}")

    def _annotations(self) -> Iterator[str]:
        """The rows of each picture that has some, as text."""
        number = 0
        for image_id, (boxes, labels, scores) in enumerate(self._found, 1):
            rows = []
            for (x, y, width, height), label, score in zip(boxes.tolist(), labels.tolist(), scores.tolist()):
                number += 1
                rows.append(_ROW % (number, image_id, label, x, y, width, height, width * height, score))
            if rows:
                yield ", ".join(rows)
