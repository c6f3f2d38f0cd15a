"""Samples and data sets: what every reader returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional

import numpy as np

from src.data.issues import Issues


@dataclass
class Sample:
    """An image and its boxes.

    image_id: the data set's id (int or str); path: absolute; boxes: int32 [M, 5] y1, x1, y2, x2, label
    in pixels; width, height: as annotated, 0 if unknown; file_name: for a COCO-style json, relative
    to the folder of the images, or absolute if the file is elsewhere; difficult: bool [M], None if no box is difficult.
    """

    image_id: object
    path: str
    boxes: np.ndarray
    width: int = 0
    height: int = 0
    file_name: str = ""
    difficult: Optional[np.ndarray] = None

    def clip(self, height: int, width: int) -> tuple:
        """Clip the boxes in place as `clip_boxes` does; (number of clipped boxes, number of boxes without area)."""
        clipped, kept = _clipped(self.boxes, height, width)
        cut = int((clipped != self.boxes).any(axis=1).sum())
        self.boxes = clipped[kept]
        if self.difficult is not None:
            self.difficult = self.difficult[kept]
        return cut, int((~kept).sum())


@dataclass
class DataSet:
    """The result of a reader.

    sources: the annotation files, for the fingerprint of the records; where: the file or folder that messages
    name; annotation_file: COCO-style json for the evaluator, "" if none exists yet; form: of the boxes in the file;
    left_out: images without a box, which are not used in training without `negative_images`.
    """

    samples: List[Sample]
    sources: List[str]
    where: str
    issues: Issues
    annotation_file: str = ""
    form: str = "xyxy"
    left_out: List[Sample] = field(default_factory=list)


def boxes_array(rows) -> np.ndarray:
    """Rows of y1, x1, y2, x2, label as int32 [M, 5]; M may be 0."""
    return np.array(rows, np.int64).clip(-(2**31), 2**31 - 1).astype(np.int32).reshape(-1, 5)


def clip_boxes(boxes: np.ndarray, height: int, width: int) -> tuple:
    """Boxes clipped to the image, those without area left out.

    Args:
        boxes: int32 [M, 5] y1, x1, y2, x2, label in pixels.
        height, width: of the image; if 0, boxes are clipped at the left and upper edges only.

    Returns:
        (boxes int32 [K, 5], number of clipped boxes, number of boxes without area). A box completely outside
        the image has no area left.
    """
    clipped, kept = _clipped(boxes, height, width)
    return clipped[kept], int((clipped != boxes).any(axis=1).sum()), int((~kept).sum())


def _clipped(boxes: np.ndarray, height: int, width: int) -> tuple:
    """(clipped boxes [M, 5], bool [M]: the box has an area)."""
    clipped = np.maximum(boxes, 0)
    if height and width:
        clipped = np.minimum(clipped, np.array([height, width, height, width, 2**31 - 1]).astype(np.int32))
    return clipped, (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])


def clip_to_image(sample: Sample, size: tuple, orientation: int, issues: Issues) -> np.ndarray:
    """Clip a sample's boxes to its image file, in place, and return them: int32 [K, 5]. Changes are noted.

    Args:
        size: (height, width) of the stored image; it overrides the annotated size.
        orientation: of its EXIF data, 1 where it has none.
    """
    annotated = (sample.height, sample.width)
    if orientation != 1:
        issues.warn("images have an EXIF orientation, which is not applied", sample.path)
    if sample.width and annotated != tuple(size):
        issues.warn("images differ in size from their annotation (the image file's size is used)", sample.path)
        if orientation > 4 and annotated == tuple(size[::-1]):
            issues.warn(
                "images were annotated as rotated by their EXIF orientation, but are stored unrotated: their boxes are "
                "wrong (save the images rotated, without the tag)",
                sample.path,
            )
    cut, empty = sample.clip(*size)
    if cut:
        issues.warn("images with boxes that extend beyond the image (clipped)", sample.path)
    if empty:
        issues.warn("images with boxes completely outside the image (dropped)", sample.path)
        if len(sample.boxes) == 0:
            issues.warn("images have no box left (left out of training without negative_images)", sample.path)
    return sample.boxes


def note_absent_classes(samples: List[Sample], classes: List[str], issues: Issues) -> None:
    """Note the classes that have no box: their name is spelled differently, or there is nothing to learn."""
    present = {label for sample in samples for label in sample.boxes[:, 4].tolist()}
    for label, name in enumerate(classes):
        if label > 0 and label not in present:
            issues.warn("classes of 'classes' have no box", name)
