"""COCO evaluation: detections image by image, then pycocotools' figures by both protocols."""

from __future__ import annotations

from typing import Iterable, List, Optional

import numpy as np

from src.boxes.postprocess import postprocess
from src.evaluation.analysis import ImageResult, without_ignored
from src.evaluation.detections import Collected, as_rows, write_rows
from src.evaluation.ground_truth import GroundTruth
from src.evaluation.scoring import Found, Scores, accumulate, figures, match
from src.utils.output import atomic_write

ALL_AREAS, MOST_DETECTIONS = 0, -1
"""Places of area "all" and 100 detections in the arrays of `Scores`."""


class CocoEvaluator:
    """Collect detections with `update` (and `merge` from other ranks), then `save` and `summarize`.

    Args:
        annotation_file: COCO-style json of the ground truth.
        classes: names in the order of the score columns; the first is the background. Categories of the
            file are found by name; those not listed take no part.
        min_score, nms_threshold, max_boxes: post-processing, see `src.boxes.postprocess`.
        image_ids: the images that are measured, where these are not all images of the file.

    Raises:
        UserError: the annotation file cannot be read (see `load_coco_json`), or lacks some of `image_ids`.
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
        self._truth = GroundTruth(annotation_file, self.classes, image_ids)
        own = [self._truth.category_of.get(name) for name in self.classes]
        self._category_of_label = np.array([-1 if one is None else self._truth.category(one) for one in own], np.int32)
        self._collected = Collected()
        self._scores: Optional[Scores] = None  # of all images, once `summarize` made it

    def clear(self) -> None:
        """Forget all detections, so that the next epoch need not read the annotation file again."""
        self._collected, self._scores = Collected(), None

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
        position = self._truth.position(image_id)
        category = self._category_of_label[np.asarray(labels).astype(np.int64)]
        y1, x1, y2, x2 = np.asarray(boxes_px, np.float64).reshape(-1, 4).T
        boxes, listed = np.stack([x1, y1, x2 - x1, y2 - y1], 1), category >= 0
        self._collected.put(position, category[listed], boxes[listed], np.asarray(scores)[listed])

    def extend(self, detections) -> None:
        """Add detections in the form of `detections`, all of an image in one call; those of a category that takes no
        part are left out. An image given again replaces what was there.

        Raises:
            UserError: the annotation file has no such image.
        """
        by_image = {}
        for detection in detections:
            by_image.setdefault(self._truth.position(detection["image_id"]), []).append(detection)
        for position, rows in by_image.items():
            category = np.array([self._truth.category(row["category_id"]) for row in rows], np.int32)
            boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
            scores, listed = np.array([row["score"] for row in rows], np.float64), category >= 0
            self._collected.put(position, category[listed], boxes[listed], scores[listed])

    def arrays(self) -> Found:
        """All detections as arrays, for `merge` of an evaluator of the same ground truth in another process."""
        return self._collected.arrays()

    def merge(self, found: Found) -> None:
        """Add the `arrays` of another rank. Shards may share images: one that is given again replaces what was there,
        so it counts once."""
        self._collected.merge(found)

    @property
    def detections(self) -> list:
        """All detections in the form of predictions.json, plain Python types, ordered by image.

        Each is {"image_id", "category_id", "bbox": [x, y, w, h] in pixels, "score"}. The order does not
        depend on the order in which images were added.
        """
        return as_rows(self.arrays(), self._truth.image_ids, self._truth.category_ids)

    def save(self, path: str) -> None:
        """Write `detections` as JSON (predictions.json), complete or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_write(path, "wb") as handle:
            write_rows(handle, self.arrays(), self._truth.image_ids, self._truth.category_ids)

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
        images, published = len(self._truth.image_ids), self._truth.published
        found = self.arrays()
        everything = subset = self._scores = None
        if images and self._truth.category_ids:
            matching = match(self._truth.truth, found, len(self._truth.category_ids))
            everything = self._scores = accumulate(matching)
            subset = accumulate(matching, published) if published.any() else None
        stats, note = _stats(everything)
        stats_published, note_published = _stats(subset)
        if not len(found.scores):
            stats, stats_published = [0.0] * 12, [0.0] * 12
        notes = ([f"all images: {note}"] if note else []) + (
            [f"published subset: {note_published}"] if note_published else []
        )
        if not len(found.scores):
            notes.append("no detection at all: every figure is 0")
        return {
            "mAP": stats[0],
            "stats": stats,
            "mAP_published": stats_published[0],
            "stats_published": stats_published,
            "images": images,
            "images_published": int(published.sum()),
            "detections": len(found.scores),
            "per_class": self._per_class(),
            "note": "; ".join(notes),
        }

    def images(self) -> List[ImageResult]:
        """Ground truth and detections of every image, by rising id. Crowds, unlisted categories, and detections that
        count for nothing because they lie in a crowd (`without_ignored`) are left out."""
        labels = np.zeros(len(self._truth.category_ids), np.int64)
        for name, own in self._truth.category_of.items():
            labels[self._truth.category(own)] = self.classes.index(name)
        truth, found = self._truth.truth, self.arrays()
        given = np.flatnonzero(~truth.crowd)
        given = given[np.argsort(truth.image[given], kind="stable")]
        order = np.lexsort((-found.scores, found.image))
        places = np.arange(len(self._truth.image_ids) + 1)
        columns = (
            np.searchsorted(truth.image[given], places),
            _corners(truth.boxes[given]),
            labels[truth.category[given]],
            np.searchsorted(found.image, places),
            _corners(found.boxes[order]),
            labels[found.category[order]],
            found.scores[order],
        )
        truth_at, truth_boxes, truth_labels, found_at, boxes, found_labels, scores = columns
        results = []
        for position, own in enumerate(self._truth.image_ids):
            one = slice(truth_at[position], truth_at[position + 1])
            two = slice(found_at[position], found_at[position + 1])
            results.append(
                ImageResult(own, truth_boxes[one], truth_labels[one], boxes[two], found_labels[two], scores[two])
            )
        for position in np.unique(truth.image[truth.crowd]).tolist():
            crowds = np.flatnonzero(truth.crowd & (truth.image == position))
            crowd_boxes, crowd_labels = _corners(truth.boxes[crowds]), labels[truth.category[crowds]]
            results[position] = without_ignored(results[position], crowd_boxes, crowd_labels)
        return results

    def curves(self) -> dict:
        """Precision at IoU 0.5 over recall, after `summarize`: {"recall": [101], "classes": {name: [101]}}; classes
        without ground truth are left out."""
        curves = {"recall": np.linspace(0, 1, 101).round(2).tolist(), "classes": {}}
        if self._scores is not None:
            for name, own in self._truth.category_of.items():
                precision = self._scores.precision[0, :, self._truth.category(own), ALL_AREAS, MOST_DETECTIONS]
                if precision.max() >= 0:
                    curves["classes"][name] = precision.round(4).tolist()
        return curves

    def _per_class(self) -> list:
        """One row for each class after the background; see `summarize`."""
        rows = []
        for name in self.classes[1:]:
            own = self._truth.category_of.get(name)
            row = {"name": name, "category_id": own, "boxes": 0, "AP": None, "AP50": None, "AR100": None}
            if own is not None:
                place = self._truth.category(own)
                row["boxes"] = int(self._truth.boxes[place])
                if self._scores is not None:
                    precision = self._scores.precision[:, :, place, ALL_AREAS, MOST_DETECTIONS]
                    recall = self._scores.recall[:, place, ALL_AREAS, MOST_DETECTIONS]
                    if precision.max() >= 0:  # -1 throughout: no ground truth
                        row.update(
                            AP=float(precision.mean()), AP50=float(precision[0].mean()), AR100=float(recall.mean())
                        )
            rows.append(row)
        return rows


def _corners(boxes: np.ndarray) -> np.ndarray:
    """[K, 4] y1, x1, y2, x2 of boxes x, y, width, height."""
    x, y, width, height = boxes.T
    return np.stack([y, x, y + height, x + width], 1)


def _stats(scores: Optional[Scores]) -> tuple:
    """(12 figures as plain floats, "" or what is missing in words)."""
    if scores is None:
        return [0.0] * 12, "no image with a box of the listed classes"
    stats = figures(scores)
    if stats[0] < 0:
        return [0.0] * 12, "no ground truth box (crowds do not count)"
    return stats, ""
