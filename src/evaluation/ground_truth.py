"""The ground truth of an evaluation as arrays."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import Iterable, Optional, Sequence

import numpy as np

from src.data.readers.coco import load_coco_json
from src.evaluation.scoring import Truth
from src.utils.errors import UserError
from src.utils.log import LOGGER


class GroundTruth:
    """The annotations of a file for the listed classes and the evaluated images.

    Args:
        annotation_file: COCO-style JSON.
        classes: names, the first is the background. Categories of the file are found by name; None for all of them.
        image_ids: the images to evaluate; None for all images of the file.

    Attributes:
        image_ids: ids as pycocotools sorts them (the order of images decides between equal scores); strings last.
        category_ids: ids of the listed classes that the file has, sorted in the same way.
        category_of: class name -> category id of the file, in the order of the file.
        position_of: image id -> index in `image_ids`.
        index_of: category id of the file -> index in `category_ids`, -1 if it is not evaluated.
        file_names: image id -> file name, of the evaluated images.
        is_part: whether images of the file are left out.
        truth: annotations of the listed classes (`Truth`).
        boxes: number of annotations of each category, without crowds.
        published: bool [I], the images that the published scripts evaluated: with a box of the listed classes and
            without a crowd of any category.

    Raises:
        UserError: the annotation file cannot be read (see `load_coco_json`), or lacks some of `image_ids`.
    """

    def __init__(self, annotation_file: str, classes: Optional[Sequence[str]], image_ids: Optional[Iterable] = None):
        self.annotation_file = annotation_file
        content = load_coco_json(annotation_file)
        if classes is None:
            classes = ["background", *(category["name"] for category in content["categories"])]
        self.category_of = {}
        for category in content["categories"]:
            if category["name"] in classes[1:]:
                self.category_of.setdefault(category["name"], category["id"])
        missing = [name for name in classes[1:] if name not in self.category_of]
        if missing:
            LOGGER.warning(
                "%d of %d classes are not in %s and cannot be evaluated: %s",
                len(missing),
                len(classes) - 1,
                annotation_file,
                ", ".join(missing[:5]),
            )
        in_file = {image["id"] for image in content["images"]}
        measured = in_file if image_ids is None else self._selection(in_file, set(image_ids))
        self.image_ids = sorted(measured, key=_sort_key)
        self.is_part = len(measured) < len(in_file)
        self.file_names = {row["id"]: row["file_name"] for row in content["images"] if row["id"] in measured}
        self.position_of = {image_id: position for position, image_id in enumerate(self.image_ids)}
        self.category_ids = sorted(self.category_of.values(), key=_sort_key)
        self.index_of = {category["id"]: -1 for category in content["categories"]}
        self.index_of.update((category_id, index) for index, category_id in enumerate(self.category_ids))
        self._read(content["annotations"])

    def _selection(self, in_file: set, selected: set) -> set:
        missing = selected - in_file
        if missing:
            raise UserError(
                f"{len(missing)} of {len(selected)} images in the records are not in {self.annotation_file}, "
                f"first id {min(missing, key=_sort_key)!r}: the records were made from another annotation file; remove "
                f"the records, and the next run converts the data again"
            )
        if len(selected) < len(in_file):
            LOGGER.warning(
                "the records hold %d of the %d images of %s; only these %d images are evaluated",
                len(selected),
                len(in_file),
                self.annotation_file,
                len(selected),
            )
        return selected

    def _read(self, annotations: list) -> None:
        annotations = [row for row in annotations if row["image_id"] in self.position_of]
        crowded = np.zeros(len(self.image_ids), bool)
        # difficult objects of VOC are written as crowds; the published protocol does not exclude their images
        crowds = [row for row in annotations if row["iscrowd"] and not row.get("difficult")]
        crowded[[self.position_of[row["image_id"]] for row in crowds]] = True
        rows = [row for row in annotations if self.index_of[row["category_id"]] >= 0]
        self.truth = Truth(
            np.array([self.position_of[row["image_id"]] for row in rows], np.int32),
            np.array([self.index_of[row["category_id"]] for row in rows], np.int32),
            np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
            np.array([row["area"] for row in rows], np.float64),
            np.array([row["iscrowd"] for row in rows], bool),
        )
        self.boxes = np.bincount(self.truth.category[~self.truth.crowd], minlength=len(self.category_ids))
        with_boxes = np.zeros(len(self.image_ids), bool)
        with_boxes[self.truth.image] = True
        self.published = with_boxes & ~crowded

    def position(self, image_id) -> int:
        """Index of an image id (also a NumPy scalar) in `image_ids`.

        Raises:
            UserError: the annotation file has no such image.
        """
        image_id = plain(image_id)
        if image_id not in self.position_of:
            raise UserError(
                f"image id {image_id!r} is not in {self.annotation_file}: "
                "the records were made from another annotation file; remove the records, and the next run converts the "
                "data again"
            )
        return self.position_of[image_id]

    def category(self, category_id) -> int:
        """Index of a category id in `category_ids`, -1 for a category that is not evaluated."""
        return self.index_of.get(plain(category_id), -1)

    def names(self) -> list:
        """The class of each category."""
        names = {category_id: name for name, category_id in self.category_of.items()}
        return [names[category_id] for category_id in self.category_ids]

    def source(self) -> dict:
        """What evaluation.json says about the ground truth: path and checksum of the annotation file (None if it is
        gone), and the ids of the evaluated images, None for all of the file."""
        return {
            "annotation_file": os.path.abspath(self.annotation_file),
            "annotation_sha256": annotation_checksum(self.annotation_file),
            "image_ids": self.image_ids if self.is_part else None,
        }


def annotation_checksum(path: str) -> Optional[str]:
    """SHA-256 of a file, None if it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as handle:
        return hashlib.sha256(handle.read()).hexdigest()
    return None


def plain(value) -> object:
    """The Python value of a NumPy scalar or an array with one element; other values unchanged."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def _sort_key(value) -> tuple:
    """Sorts numbers before strings: a file may have ids of both types."""
    return isinstance(value, str), value
