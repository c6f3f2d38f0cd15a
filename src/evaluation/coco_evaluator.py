"""COCO evaluation: collects detections image by image, then computes the metrics of pycocotools by both protocols."""

from __future__ import annotations

from typing import Iterable, List, Optional

import numpy as np

from src.boxes.postprocess import postprocess
from src.evaluation.analysis import ImageResult, without_ignored
from src.evaluation.bootstrap import LEVEL, RESAMPLES, SEED, draw_weights, interval, resampled_metrics
from src.evaluation.detections import Collected, as_rows, write_rows
from src.evaluation.error_kinds import error_report
from src.evaluation.ground_truth import GroundTruth
from src.evaluation.score_thresholds import score_thresholds
from src.evaluation.scoring import Detections, Matching, Scores, accumulate, coco_metrics, match
from src.utils.output import atomic_write

AREA_ALL, MAX_DETS_100 = 0, -1
"""Indices of area "all" and of 100 detections in the arrays of `Scores`."""


class CocoEvaluator:
    """Collect detections with `update` (and `merge` from other ranks), then `save` and `summarize`.

    Args:
        annotation_file: ground truth as COCO-style JSON.
        classes: names in the order of the score columns; the first is the background. Categories of the file are found
            by name; categories that are not listed are not evaluated.
        min_score, nms_threshold, max_boxes: post-processing, see `src.boxes.postprocess`.
        image_ids: the images to evaluate; None for all images of the file.

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
        ids = [self._truth.category_of.get(name) for name in self.classes]
        indices = [-1 if category_id is None else self._truth.category(category_id) for category_id in ids]
        self._category_of_label = np.array(indices, np.int32)
        self._collected = Collected()
        self._scores: Optional[Scores] = None  # over all images, set by `summarize`, as is the matching
        self._matching: Optional[Matching] = None

    def clear(self) -> None:
        """Remove all detections, so that the evaluator can be used again without reading the annotation file."""
        self._collected, self._scores, self._matching = Collected(), None, None

    def update(self, image_id, boxes_norm, scores, image_shape) -> None:
        """Post-process and add the output of the network for one image; replaces earlier detections of that image.

        Args:
            image_id: id in the annotation file, also as a NumPy scalar.
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
        """Add the detections of one image as post-processing returns them: boxes [D, 4] y1, x1, y2, x2 in pixels.

        Raises:
            UserError: the annotation file has no such image.
        """
        position = self._truth.position(image_id)
        category = self._category_of_label[np.asarray(labels).astype(np.int64)]
        y1, x1, y2, x2 = np.asarray(boxes_px, np.float64).reshape(-1, 4).T
        boxes, listed = np.stack([x1, y1, x2 - x1, y2 - y1], 1), category >= 0
        self._collected.put(position, category[listed], boxes[listed], np.asarray(scores)[listed])

    def extend(self, detections) -> None:
        """Add detections in the form of the property `detections`; those of categories that are not evaluated are
        dropped. They replace earlier detections of their images, so pass all detections of an image in one call.

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

    def arrays(self) -> Detections:
        """All detections as arrays, for `merge` in another process (with the same ground truth)."""
        return self._collected.arrays()

    def merge(self, found: Detections) -> None:
        """Add the `arrays` of another rank. They replace earlier detections of the same images, so an image that is in
        two shards counts once."""
        self._collected.merge(found)

    @property
    def detections(self) -> list:
        """All detections in the form of predictions.json, plain Python types, ordered by image.

        Each is {"image_id", "category_id", "bbox": [x, y, w, h] in pixels, "score"}. The order does not depend on the
        order in which images were added.
        """
        return as_rows(self.arrays(), self._truth.image_ids, self._truth.category_ids)

    def save(self, path: str) -> None:
        """Write `detections` as JSON (predictions.json), completely or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_write(path, "wb") as handle:
            write_rows(handle, self.arrays(), self._truth.image_ids, self._truth.category_ids)

    def summarize(self) -> dict:
        """Compute the metrics; images that were never added count as images without detections.

        Returns:
            A dict of plain Python values:
            `mAP`, `stats`: the first and all 12 metrics of pycocotools over all images;
            `mAP_published`, `stats_published`: the same over the subset of the published scripts, the images without
            any crowd annotation and with at least one box of `classes`;
            `images`, `images_published`, `detections`: their numbers;
            `per_class`: a list of {"name", "category_id", "boxes" (without crowds), "AP", "AP50", "AR100"} over all
            images; for a class without ground truth boxes is 0 and the metrics are None;
            `note`: remarks on the result as text, or "".
            A metric is -1 only where pycocotools gives -1: for an area without ground truth. Without any detection, or
            without any ground truth, all 12 are 0.0.
        """
        images, published = len(self._truth.image_ids), self._truth.published
        found = self.arrays()
        everything = subset = self._scores = self._matching = None
        if images and self._truth.category_ids:
            matching = self._matching = match(self._truth.truth, found, len(self._truth.category_ids))
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
            notes.append("no detection at all: all metrics are 0")
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
        """Ground truth and detections of every image, by ascending id, without crowds, without categories that are not
        listed, and without detections that are ignored because of a crowd (`without_ignored`)."""
        labels = np.zeros(len(self._truth.category_ids), np.int64)
        for name, category_id in self._truth.category_of.items():
            labels[self._truth.category(category_id)] = self.classes.index(name)
        truth, found = self._truth.truth, self.arrays()
        objects = np.flatnonzero(~truth.crowd)
        objects = objects[np.argsort(truth.image[objects], kind="stable")]
        order = np.lexsort((-found.scores, found.image))
        positions = np.arange(len(self._truth.image_ids) + 1)
        columns = (
            np.searchsorted(truth.image[objects], positions),
            _corners(truth.boxes[objects]),
            labels[truth.category[objects]],
            np.searchsorted(found.image, positions),
            _corners(found.boxes[order]),
            labels[found.category[order]],
            found.scores[order],
        )
        truth_starts, truth_boxes, truth_labels, starts, boxes, found_labels, scores = columns
        results = []
        for position, image_id in enumerate(self._truth.image_ids):
            rows = slice(truth_starts[position], truth_starts[position + 1])
            truth_of_image = truth_boxes[rows], truth_labels[rows]
            rows = slice(starts[position], starts[position + 1])
            results.append(ImageResult(image_id, *truth_of_image, boxes[rows], found_labels[rows], scores[rows]))
        for position in np.unique(truth.image[truth.crowd]).tolist():
            crowds = np.flatnonzero(truth.crowd & (truth.image == position))
            crowd_boxes, crowd_labels = _corners(truth.boxes[crowds]), labels[truth.category[crowds]]
            results[position] = without_ignored(results[position], crowd_boxes, crowd_labels)
        return results

    def curves(self) -> dict:
        """Precision at IoU 0.5 over recall, after `summarize`: {"recall": [101], "classes": {name: [101]}}, without
        classes that have no ground truth."""
        curves = {"recall": np.linspace(0, 1, 101).round(2).tolist(), "classes": {}}
        if self._scores is not None:
            for name, category_id in self._truth.category_of.items():
                precision = self._scores.precision[0, :, self._truth.category(category_id), AREA_ALL, MAX_DETS_100]
                if precision.max() >= 0:
                    curves["classes"][name] = precision.round(4).tolist()
        return curves

    def intervals(self) -> dict:
        """95 % intervals over all images, after `summarize`, see `src.evaluation.bootstrap`.

        Returns:
            {"level", "resamples", "seed", "mAP": [low, high], "AP50": [low, high], "classes": {name: {"AP": [low,
            high], "AP50": [low, high]}}}, without classes that have no ground truth; {} if there is no detection, no
            ground truth or a single image.
        """
        images = len(self._truth.image_ids)
        if self._matching is None or images < 2 or not len(self._matching.image) or not self._truth.boxes.any():
            return {}
        samples = resampled_metrics(self._matching, draw_weights(images))
        classes = {}
        for name, category_id in self._truth.category_of.items():
            index = self._truth.category(category_id)
            if self._truth.boxes[index]:
                classes[name] = {
                    "AP": interval(samples.category[:, index]),
                    "AP50": interval(samples.category50[:, index]),
                }
        overall = {"mAP": interval(samples.map), "AP50": interval(samples.map50)}
        return {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, **overall, "classes": classes}

    def errors(self) -> dict:
        """Errors by kind over all images, see `src.evaluation.error_kinds`; {} without detections or ground truth."""
        return error_report(self._truth.truth, self.arrays(), len(self._truth.category_ids)) or {}

    def score_thresholds(self) -> dict:
        """The scores to show detections from, after `summarize`, see `src.evaluation.score_thresholds`; {} if nothing
        was found."""
        if self._matching is None:
            return {}
        return score_thresholds(self._matching, self._truth.names(), self.min_score)

    def source(self) -> dict:
        """What evaluation.json says about the ground truth (`GroundTruth.source`)."""
        return self._truth.source()

    def _per_class(self) -> list:
        """The rows of `per_class`, one for each class except the background; see `summarize`."""
        rows = []
        for name in self.classes[1:]:
            category_id = self._truth.category_of.get(name)
            row = {"name": name, "category_id": category_id, "boxes": 0, "AP": None, "AP50": None, "AR100": None}
            if category_id is not None:
                index = self._truth.category(category_id)
                row["boxes"] = int(self._truth.boxes[index])
                if self._scores is not None:
                    precision = self._scores.precision[:, :, index, AREA_ALL, MAX_DETS_100]
                    recall = self._scores.recall[:, index, AREA_ALL, MAX_DETS_100]
                    if precision.max() >= 0:  # all -1: no ground truth
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
    """(the 12 metrics as plain floats, "" or a text that says what is missing)."""
    if scores is None:
        return [0.0] * 12, "no image with a box of the listed classes"
    stats = coco_metrics(scores)
    if stats[0] < 0:
        return [0.0] * 12, "no ground truth box (crowds do not count)"
    return stats, ""
