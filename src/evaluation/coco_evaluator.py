"""COCO evaluation: detections image by image, then pycocotools' figures by both protocols of SPEC 7."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from typing import Iterable, List, Optional

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.boxes.postprocess import postprocess
from src.data.coco import load_coco_json
from src.errors import UserError
from src.evaluation.analysis import ImageResult
from src.log import LOGGER
from src.output import atomic_write

ALL_AREAS, MOST_DETECTIONS = 0, -1
"""Places of area "all" and 100 detections in pycocotools' arrays precision [T, R, K, A, M], recall [T, K, A, M]."""


class CocoEvaluator:
    """Collect detections with `update` (and `extend` from other ranks), then `save` and `summarize`.

    Args:
        annotation_file: COCO-style json of the ground truth.
        classes: names in the order of the score columns; the first is the background. Categories of the
            file are found by name; those not listed take no part.
        min_score, nms_threshold, max_boxes: post-processing of SPEC 8.
        image_ids: the images that are measured, where these are not all images of the file.

    Raises:
        UserError: the annotation file cannot be read (see `load_coco_json`), or has none of `image_ids`.
    """

    def __init__(
        self,
        annotation_file: str,
        classes,
        min_score: float = 0.1,
        nms_threshold: float = 0.6,
        max_boxes: int = 100,
        image_ids: Optional[Iterable] = None,
    ):
        self.annotation_file = annotation_file
        self.classes = list(classes)
        self.min_score, self.nms_threshold, self.max_boxes = float(min_score), float(nms_threshold), int(max_boxes)
        content = load_coco_json(annotation_file)
        self._categories = {}  # class name -> the file's category id
        for category in content["categories"]:
            if category["name"] in self.classes[1:]:
                self._categories.setdefault(category["name"], category["id"])
        missing = [name for name in self.classes[1:] if name not in self._categories]
        if missing:
            LOGGER.warning(
                "%d of %d classes are not in %s and cannot be reported: %s",
                len(missing),
                len(self.classes) - 1,
                annotation_file,
                ", ".join(missing[:5]),
            )
        # Sorted as pycocotools sorts them (the order of images decides between equal scores); strings last.
        in_file = {image["id"] for image in content["images"]}
        measured = in_file if image_ids is None else in_file & set(image_ids)
        if image_ids is not None:
            self._report_selection(in_file, set(image_ids), measured)
        self._image_ids = sorted(measured, key=_sort_key)
        self._positions = {own: position for position, own in enumerate(self._image_ids)}
        self._annotations = [a for a in content["annotations"] if a["image_id"] in self._positions]
        self._found = {}  # position of the image -> its detections
        self._everything = None  # pycocotools' evaluation of all images, once `summarize` made it

    def _report_selection(self, in_file: set, wanted: set, measured: set) -> None:
        if wanted - in_file:
            some = min(wanted - in_file, key=_sort_key)
            raise UserError(
                f"{len(wanted - in_file)} of {len(wanted)} images in the records are not in {self.annotation_file}, "
                f"first id {some!r}: the records were made from another annotation file; remove them to have them "
                f"written again"
            )
        if len(measured) < len(in_file):
            LOGGER.warning(
                "the records hold %d of the %d images of %s; the figures are over these %d images",
                len(measured),
                len(in_file),
                self.annotation_file,
                len(measured),
            )

    def clear(self) -> None:
        """Forget all detections, so that the next epoch need not read the annotation file again."""
        self._found = {}

    def update(self, image_id, boxes_norm, scores, image_shape) -> None:
        """Add one image. An image given again replaces what was there.

        Args:
            image_id: the data set's own id, numpy scalars included.
            boxes_norm: [N, 4] y1, x1, y2, x2 in [0, 1].
            scores: [N, C], C = len(classes).
            image_shape: (height, width) of the original image in pixels.

        Raises:
            UserError: the annotation file has no such image.
        """
        if np.shape(scores)[-1] != len(self.classes):
            raise ValueError(f"scores have {np.shape(scores)[-1]} columns, but there are {len(self.classes)} classes")
        self.add(
            image_id,
            *postprocess(boxes_norm, scores, image_shape, self.min_score, self.nms_threshold, self.max_boxes),
        )

    def add(self, image_id, boxes_px: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Add one image's detections as post-processing gives them: boxes [D, 4] y1, x1, y2, x2 in pixels.

        Raises:
            UserError: the annotation file has no such image.
        """
        position = self._position(image_id)
        own = self._image_ids[position]
        categories = [self._categories.get(name) for name in self.classes]
        self._found[position] = [
            {"image_id": own, "category_id": categories[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for (y1, x1, y2, x2), score, label in zip(boxes_px.tolist(), scores.tolist(), labels.tolist())
            if categories[label] is not None
        ]

    def extend(self, detections) -> None:
        """Add detections of other ranks: dicts as in `detections`, all of an image in one call.

        Shards may share images (MindDataset repeats rows to even them): an image given again replaces
        what was there, so it counts once.
        """
        by_image = {}
        for detection in detections:
            position = self._position(detection["image_id"])
            by_image.setdefault(position, []).append(
                {
                    "image_id": self._image_ids[position],
                    "category_id": _plain(detection["category_id"]),
                    "bbox": [float(value) for value in detection["bbox"]],
                    "score": float(detection["score"]),
                }
            )
        self._found.update(by_image)

    @property
    def detections(self) -> list:
        """All detections in the form of predictions.json, plain Python types, ordered by image.

        Each is {"image_id", "category_id", "bbox": [x, y, w, h] in pixels, "score"}. The order does not
        depend on the order in which images were added.
        """
        return [detection for position in sorted(self._found) for detection in self._found[position]]

    def save(self, path: str) -> None:
        """Write `detections` as json (predictions.json): whole or not at all."""
        with atomic_write(path) as handle:
            json.dump(self.detections, handle)

    def summarize(self) -> dict:
        """Score what was collected; images of the annotation file that were never added count as empty.

        Returns:
            A dict of plain Python values:
            `mAP`, `stats`: pycocotools' first and all 12 figures over every image of the annotation file;
            `mAP_published`, `stats_published`: the same over the old scripts' subset, the images without any
            crowd annotation and with at least one box of `classes`;
            `images`, `images_published`, `detections`: how many;
            `per_class`: a list of {"name", "category_id", "boxes" (crowds not counted), "AP", "AP50", "AR100"}
            over every image; boxes 0 and None figures for a class without ground truth;
            `note`: what a reader must know, in words, or "".
            A figure is -1 only where pycocotools says so: an area that has no ground truth. Without any
            detection, or without any ground truth, all 12 are 0.0.
        """
        subset = self._published_positions()
        everything = self._everything = self._evaluate()
        stats, note = _stats(everything)
        stats_published, note_published = _stats(_restricted(everything, subset))
        if not self._any_detection():
            stats, stats_published = [0.0] * 12, [0.0] * 12
        notes = ([f"all images: {note}"] if note else []) + (
            [f"published subset: {note_published}"] if note_published else []
        )
        if not self._any_detection():
            notes.append("no detection at all: every figure is 0")
        return {
            "mAP": stats[0],
            "stats": stats,
            "mAP_published": stats_published[0],
            "stats_published": stats_published,
            "images": len(self._image_ids),
            "images_published": len(subset),
            "detections": len(self.detections),
            "per_class": self._per_class(everything),
            "note": "; ".join(notes),
        }

    def images(self) -> List[ImageResult]:
        """Ground truth (crowds and unlisted categories left out) and detections of every image, by rising id."""
        labels = {own: self.classes.index(name) for name, own in self._categories.items()}
        truth = {}
        for annotation in self._annotations:
            if annotation["category_id"] in labels and not annotation["iscrowd"]:
                truth.setdefault(annotation["image_id"], []).append(annotation)
        results = []
        for position, own in enumerate(self._image_ids):
            given = truth.get(own, [])
            found = sorted(self._found.get(position, []), key=lambda detection: -detection["score"])
            results.append(
                ImageResult(
                    own,
                    _corners(given),
                    np.array([labels[a["category_id"]] for a in given], np.int64),
                    _corners(found),
                    np.array([labels[d["category_id"]] for d in found], np.int64),
                    np.array([d["score"] for d in found], np.float64),
                )
            )
        return results

    def curves(self) -> dict:
        """Precision at IoU 0.5 over recall, after `summarize`: {"recall": [101], "classes": {name: [101]}}; classes
        without ground truth are left out."""
        curves = {"recall": np.linspace(0, 1, 101).round(2).tolist(), "classes": {}}
        if self._everything is not None:
            places = self._category_places()
            for name, own in self._categories.items():
                precision = self._everything.eval["precision"][0, :, places[own], ALL_AREAS, MOST_DETECTIONS]
                if precision.max() >= 0:
                    curves["classes"][name] = precision.round(4).tolist()
        return curves

    def _position(self, image_id) -> int:
        """Place of an image in the sorted ids."""
        image_id = _plain(image_id)
        if image_id not in self._positions:
            raise UserError(
                f"image id {image_id!r} is not in {self.annotation_file}: "
                "the records were made from another annotation file; make them anew"
            )
        return self._positions[image_id]

    def _category_places(self) -> dict:
        """The file's category id -> its place in pycocotools' arrays (sorted, as pycocotools sorts them)."""
        return {own: place for place, own in enumerate(sorted(self._categories.values(), key=_sort_key))}

    def _any_detection(self) -> bool:
        return any(self._found.values())

    def _published_positions(self) -> list:
        """Positions of the images that the old scripts evaluated, rising."""
        crowded = {a["image_id"] for a in self._annotations if a["iscrowd"]}
        listed = set(self._categories.values())
        with_boxes = {a["image_id"] for a in self._annotations if a["category_id"] in listed}
        return sorted(self._positions[own] for own in with_boxes - crowded)

    def _evaluate(self):
        """pycocotools' evaluation of every image, or None where there is nothing to compare with.

        Images and categories go in by position + 1 and annotations are numbered anew: pycocotools takes a
        ground truth with id 0 for unmatched, and string ids for arrays.
        """
        if not self._image_ids or not self._categories:
            return None
        places = self._category_places()
        truth = [
            {
                "id": number,
                "image_id": self._positions[a["image_id"]] + 1,
                "category_id": places[a["category_id"]] + 1,
                "bbox": a["bbox"],
                "area": a["area"],
                "iscrowd": int(a["iscrowd"]),
            }
            for number, a in enumerate(self._annotations, 1)
            if a["category_id"] in places
        ]
        found = [
            {
                "id": number,
                "image_id": self._positions[d["image_id"]] + 1,
                "category_id": places[d["category_id"]] + 1,
                "bbox": d["bbox"],
                "area": d["bbox"][2] * d["bbox"][3],
                "iscrowd": 0,
                "score": d["score"],
            }
            for number, d in enumerate(self.detections, 1)
            if d["category_id"] in places
        ]
        images = [{"id": position + 1} for position in range(len(self._image_ids))]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(_coco(images, len(places), truth), _coco(images, len(places), found), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation

    def _per_class(self, evaluation) -> list:
        """One row for each class after the background; see `summarize`."""
        places = {} if evaluation is None else self._category_places()
        boxes = {}
        for annotation in self._annotations:
            if not annotation["iscrowd"]:
                boxes[annotation["category_id"]] = boxes.get(annotation["category_id"], 0) + 1
        rows = []
        for name in self.classes[1:]:
            own = self._categories.get(name)
            row = {
                "name": name,
                "category_id": own,
                "boxes": boxes.get(own, 0),
                "AP": None,
                "AP50": None,
                "AR100": None,
            }
            if own in places:
                precision = evaluation.eval["precision"][:, :, places[own], ALL_AREAS, MOST_DETECTIONS]
                recall = evaluation.eval["recall"][:, places[own], ALL_AREAS, MOST_DETECTIONS]
                if precision.max() >= 0:  # -1 throughout: no ground truth
                    row.update(AP=float(precision.mean()), AP50=float(precision[0].mean()), AR100=float(recall.mean()))
            rows.append(row)
        return rows


def _corners(rows: list) -> np.ndarray:
    """[K, 4] y1, x1, y2, x2 of rows with a `bbox` x, y, w, h."""
    x, y, width, height = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4).T
    return np.stack([y, x, y + height, x + width], 1)


def _plain(value):
    """A numpy scalar (or array of one value) as the Python value it holds."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def _sort_key(own) -> tuple:
    """Numbers first, then strings: a file may hold both."""
    return isinstance(own, str), own


def _coco(images: list, categories: int, annotations: list) -> COCO:
    """A COCO object from lists; unlike `COCO.loadRes` it takes an empty list of detections."""
    coco = COCO()
    coco.dataset = {
        "images": images,
        "categories": [{"id": number + 1} for number in range(categories)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _restricted(evaluation, positions: list):
    """The evaluation of some images only, from what was already computed for all; None if there are none.

    `accumulate` cannot select images itself (it numbers those asked for, not those computed), so the rows
    of the other images are taken out; the order (category, area, image) stays.
    """
    if evaluation is None or not positions:
        return None
    of_all = len(evaluation.params.imgIds)
    groups = len(evaluation.evalImgs) // of_all
    part = COCOeval(evaluation.cocoGt, evaluation.cocoDt, "bbox")
    part.params = copy.deepcopy(evaluation.params)
    part.params.imgIds = [position + 1 for position in positions]
    part.evalImgs = [
        evaluation.evalImgs[group * of_all + position] for group in range(groups) for position in positions
    ]
    part._paramsEval = copy.deepcopy(part.params)
    with contextlib.redirect_stdout(io.StringIO()):
        part.accumulate()
    return part


def _stats(evaluation) -> tuple:
    """(12 figures as plain floats, "" or what is missing in words) of an evaluation."""
    if evaluation is None:
        return [0.0] * 12, "no image with a box of the listed classes"
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    stats = [float(value) for value in evaluation.stats]
    if stats[0] < 0:
        return [0.0] * 12, "no ground truth box (crowds do not count)"
    return stats, ""
