"""The one form of an annotated image that every reader gives, and the faults that a reader finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional

import numpy as np

from src.utils.errors import UserError
from src.utils.log import one_line

SHOWN = 5


@dataclass
class Sample:
    """An image and its boxes.

    image_id: the data set's own id (int or str); path: absolute; boxes: int32 [M, 5] y1, x1, y2, x2, label
    in pixels; width, height: as annotated, 0 where the format does not say; file_name: for a COCO-style json, relative
    to the folder of the images, or absolute where the file lies elsewhere; difficult: bool [M], None where no box is.
    """

    image_id: object
    path: str
    boxes: np.ndarray
    width: int = 0
    height: int = 0
    file_name: str = ""
    difficult: Optional[np.ndarray] = None

    def clip(self, height: int, width: int) -> tuple:
        """Cut the boxes in place as `clip_boxes` does; (how many were cut, how many had no area)."""
        clipped, kept = _clipped(self.boxes, height, width)
        cut = int((clipped != self.boxes).any(axis=1).sum())
        self.boxes = clipped[kept]
        if self.difficult is not None:
            self.difficult = self.difficult[kept]
        return cut, int((~kept).sum())


@dataclass
class Fault:
    """One kind of fault: how often, where first, and whether the data can be used in spite of it."""

    kind: str
    refused: bool
    number: int = 0
    places: List[str] = field(default_factory=list)

    def line(self) -> str:
        """The kind with its number and first five places."""
        more = ", ..." if self.number > len(self.places) else ""
        places = f": {', '.join(self.places)}{more}" if self.places else ""
        return f"{self.number} {self.kind}{places}"


class Faults:
    """Faults of a data set by kind. Memory does not grow with their number."""

    def __init__(self):
        self._kinds: Dict[str, Fault] = {}

    def _note(self, kind: str, place, refused: bool) -> None:
        fault = self._kinds.setdefault(kind, Fault(kind, refused))
        fault.number += 1
        if len(fault.places) < SHOWN:
            fault.places.append(one_line(place)[:200])

    def repair(self, kind: str, place) -> None:
        """Note one case that was mended or left out at `place` (a file name, a line, an id)."""
        self._note(kind, place, False)

    def refuse(self, kind: str, place) -> None:
        """Note one case that cannot be mended."""
        self._note(kind, place, True)

    def all(self) -> List[Fault]:
        """Every kind, those that cannot be mended first."""
        return sorted(self._kinds.values(), key=lambda fault: not fault.refused)

    def raise_refused(self, where: str) -> None:
        """Nothing when all could be mended.

        Raises:
            UserError: one line with every kind that could not, its number and first places.
        """
        lines = [fault.line() for fault in self.all() if fault.refused]
        if lines:
            raise UserError(f"{where}: {'; '.join(lines)}")

    def repaired_lines(self) -> List[str]:
        """One line a kind that was mended."""
        return [fault.line() for fault in self.all() if not fault.refused]


@dataclass
class DataSet:
    """What a reader found.

    sources: the annotation files, for the fingerprint of the records; where: the file or folder that messages
    name; annotation_file: COCO-style json for the evaluator, "" where none exists yet; form: of the boxes in the file;
    left_out: images without a box, which are not among the samples of a training.
    """

    samples: List[Sample]
    sources: List[str]
    where: str
    faults: Faults
    annotation_file: str = ""
    form: str = "xyxy"
    left_out: List[Sample] = field(default_factory=list)


def boxes_array(rows) -> np.ndarray:
    """Rows of y1, x1, y2, x2, label as int32 [M, 5]; M may be 0."""
    return np.array(rows, np.int64).clip(-(2**31), 2**31 - 1).astype(np.int32).reshape(-1, 5)


def clip_boxes(boxes: np.ndarray, height: int, width: int) -> tuple:
    """Boxes cut at the image's edges, those without area left out.

    Args:
        boxes: int32 [M, 5] y1, x1, y2, x2, label in pixels.
        height, width: of the image; where 0, only the left and upper edges cut.

    Returns:
        (boxes int32 [K, 5], how many were cut, how many had no area). A box wholly beyond the image is cut
        to no area.
    """
    clipped, kept = _clipped(boxes, height, width)
    return clipped[kept], int((clipped != boxes).any(axis=1).sum()), int((~kept).sum())


def _clipped(boxes: np.ndarray, height: int, width: int) -> tuple:
    """(boxes cut at the edges [M, 5], bool [M]: it has an area)."""
    clipped = np.maximum(boxes, 0)
    if height and width:
        clipped = np.minimum(clipped, np.array([height, width, height, width, 2**31 - 1]).astype(np.int32))
    return clipped, (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])


def fit_to_file(sample: Sample, size: tuple, orientation: int, faults: Faults) -> np.ndarray:
    """Fit a sample's boxes to its file, in place, and return them: int32 [K, 5]. What that changes is noted.

    Args:
        size: (height, width) of the stored picture; it counts, whatever was annotated.
        orientation: of its EXIF data, 1 where it has none.
    """
    annotated = (sample.height, sample.width)
    if orientation != 1:
        faults.repair("images have an EXIF orientation, which is not applied", sample.path)
    if sample.width and annotated != tuple(size):
        faults.repair("images have another size than annotated (the file's counts)", sample.path)
        if orientation > 4 and annotated == tuple(size[::-1]):
            faults.repair(
                "images were annotated as turned by their EXIF orientation, but are stored unturned: their boxes are "
                "wrong (save the pictures turned, without the tag)",
                sample.path,
            )
    cut, empty = sample.clip(*size)
    if cut:
        faults.repair("images with boxes beyond the image (clipped)", sample.path)
    if empty:
        faults.repair("images with boxes wholly beyond the image (dropped)", sample.path)
        if len(sample.boxes) == 0:
            faults.repair("images have no box left (not used in training)", sample.path)
    return sample.boxes


def note_absent_classes(samples: List[Sample], classes: List[str], faults: Faults) -> None:
    """Note the classes that have no box: a name that is spelt in another way, or nothing to learn."""
    present = {label for sample in samples for label in sample.boxes[:, 4].tolist()}
    for label, name in enumerate(classes):
        if label > 0 and label not in present:
            faults.repair("classes of 'classes' have no box", name)
