"""Files of a comparison: the results of two evaluations are read and checked, changed pictures are drawn."""

from __future__ import annotations

import json
import os
from typing import Dict, List, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from src.data.readers.json_file import no_collection
from src.evaluation.ground_truth import GroundTruth, annotation_checksum
from src.evaluation.scoring import Detections, Truth
from src.utils.drawing import caption, draw_box, draw_detections, fitted, sheet
from src.utils.errors import UserError
from src.utils.text import one_line

GREEN = (70, 220, 70)  # BGR
TILE = 480


class Evaluated(NamedTuple):
    """An evaluation as it lies on the disk: path of predictions.json, and of evaluation.json (None for a bare
    predictions.json) classes, annotation file, its checksum and the ids of the evaluated images (None: all)."""

    path: str
    classes: Optional[list] = None
    annotation_file: Optional[str] = None
    annotation_sha256: Optional[str] = None
    image_ids: Optional[list] = None


def _load(path: str) -> object:
    try:
        with open(path, encoding="utf-8") as handle, no_collection():
            return json.load(handle)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"it is not valid JSON ({error})"
        raise UserError(f"cannot read {one_line(path)}: {reason}") from None


def find_evaluation(path: str) -> Evaluated:
    """The evaluation in an output folder of eval.py, or a predictions.json alone.

    Raises:
        UserError: it is missing, or its evaluation.json cannot be read.
    """
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise UserError(
                f"no such file or folder: {one_line(path)} (an output folder or predictions.json of eval.py)"
            )
        return Evaluated(path)
    predictions, metrics = (os.path.join(path, name) for name in ("predictions.json", "evaluation.json"))
    if not os.path.isfile(predictions):
        raise UserError(f"{one_line(path)} has no predictions.json: is it an output folder of eval.py?")
    if not os.path.isfile(metrics):
        return Evaluated(predictions)
    content = _load(metrics)
    classes, ids = (content.get("classes"), content.get("image_ids")) if isinstance(content, dict) else (None, None)
    is_text = isinstance(classes, list) and len(classes) > 1 and all(isinstance(name, str) for name in classes)
    if not is_text or not (ids is None or (isinstance(ids, list) and all(isinstance(k, (int, str)) for k in ids))):
        raise UserError(f"{one_line(metrics)} is not an evaluation.json of eval.py")
    source, checksum = content.get("annotation_file"), content.get("annotation_sha256")
    if not all(value is None or isinstance(value, str) for value in (source, checksum)):
        raise UserError(f"{one_line(metrics)} is not an evaluation.json of eval.py")
    return Evaluated(predictions, classes, source, checksum, ids)


def common_truth(sides: Sequence[Evaluated], annotations: Optional[str] = None) -> GroundTruth:
    """The ground truth of two evaluations.

    Args:
        annotations: path of the annotation file; None for the one that the evaluations name.

    Raises:
        UserError: the evaluations used different annotation files, images or classes, or name no file.
    """
    names = [one_line(side.path) for side in sides]
    sums = [side.annotation_sha256 for side in sides]
    if all(sums) and sums[0] != sums[1]:
        files = " and ".join(one_line(side.annotation_file) for side in sides)
        raise UserError(f"the evaluations used different annotation files ({files}): evaluate both models on the same")
    for key, what in (("classes", "classes"), ("image_ids", "images")):
        known = [getattr(side, key) for side in sides if side.classes]
        if len(known) == 2 and _as_set(known[0]) != _as_set(known[1]):
            raise UserError(f"{names[0]} and {names[1]} are of different {what}: evaluate both models on the same")
    path = annotations or next((side.annotation_file for side in sides if side.annotation_file), None)
    if path is None:
        raise UserError(f"{names[0]} and {names[1]} do not name their annotation file: give it with --annotations FILE")
    if not os.path.isfile(path):
        raise UserError(f"annotation file not found: {one_line(path)}; give it with --annotations FILE")
    used = next((value for value in sums if value), None)
    if used and annotation_checksum(path) != used:
        raise UserError(f"{one_line(path)} is not the annotation file of the evaluations, or it has changed since")
    classes = next((side.classes for side in sides if side.classes), None)
    ids = next((side.image_ids for side in sides if side.image_ids), None)
    truth = GroundTruth(path, classes, ids)
    if not truth.image_ids or not truth.category_ids:
        raise UserError(f"{one_line(path)} has no image, or none of the classes")
    return truth


def _as_set(values: Optional[list]) -> Optional[frozenset]:
    return None if values is None else frozenset(values)


def read_detections(side: Evaluated, truth: GroundTruth) -> Detections:
    """The detections of a predictions.json, grouped by image; those of categories that are not evaluated are dropped.

    Raises:
        UserError: the file cannot be read, or a row has an unknown image or category, or no usable box or score.
    """
    path, rows = side.path, _load(side.path)
    if not isinstance(rows, list):
        raise UserError(f"{one_line(path)} is not a predictions.json of eval.py (a list of detections)")
    try:
        image = np.array([truth.position_of[row["image_id"]] for row in rows], np.int32)
        category = np.array([truth.index_of[row["category_id"]] for row in rows], np.int32)
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(len(rows), 4)
        scores = np.array([row["score"] for row in rows], np.float64).reshape(len(rows))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _row_error(path, rows, truth) from None
    if not (np.isfinite(scores).all() and (np.abs(boxes) < 1e9).all()):
        raise _row_error(path, rows, truth)
    order = np.argsort(image, kind="stable")
    order = order[category[order] >= 0]
    return Detections(image[order], category[order], boxes[order], scores[order])


def _row_error(path: str, rows: list, truth: GroundTruth) -> UserError:
    """The error for the first row that cannot be used."""
    for number, row in enumerate(rows, 1):
        where = f"{one_line(path)}: row {number}"
        try:
            image_id, category_id = row["image_id"], row["category_id"]
            box, score = np.array(row["bbox"], np.float64), float(row["score"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return UserError(f"{where} is not a detection with image_id, category_id, bbox and score")
        for key, value, known in (
            ("image_id", image_id, truth.position_of),
            ("category_id", category_id, truth.index_of),
        ):
            if not isinstance(value, (int, str, float)) or value not in known:
                shown = one_line(repr(value)[:60])
                file = one_line(truth.annotation_file)
                return UserError(f"{where}: {key} {shown} is not among the evaluated ones of {file}: another data set?")
        if box.shape != (4,) or not (np.abs(box) < 1e9).all() or not np.isfinite(score):
            return UserError(f"{where}: bbox must be four numbers below 1e9, and score a number")
    return UserError(f"{one_line(path)} is not a predictions.json of eval.py")


def find_pictures(truth: GroundTruth, folder: Optional[str]) -> Dict[object, str]:
    """Image id -> path of its picture, for those that exist.

    Args:
        folder: of the pictures; None to look where COCO's layout has them: for x/annotations/instances_val2017.json in
            x/val2017, x, and next to the file.
    """
    parent = os.path.dirname(os.path.abspath(truth.annotation_file))
    kind = os.path.splitext(os.path.basename(truth.annotation_file))[0].split("_", 1)[-1]
    above = os.path.dirname(parent)
    places = [folder] if folder else [os.path.join(above, kind), os.path.join(parent, kind), parent, above]
    found = {}
    for image_id, name in truth.file_names.items():
        paths = (os.path.join(place, name) for place in places)
        path = next((path for path in paths if os.path.isfile(path)), None)
        if path is not None:
            found[image_id] = path
    return found


def draw_pair(
    image: np.ndarray,
    truth: GroundTruth,
    sides: Sequence[Detections],
    row: dict,
    thresholds: Sequence[Optional[float]],
) -> np.ndarray:
    """Both evaluations of an image side by side, with ground truth as green outlines, BGR.

    Args:
        image: BGR uint8 [H, W, 3].
        row: of the image, see `src.evaluation.comparison.changed_images`.
        thresholds: detections with at least this score are drawn; none for None.
    """
    small, scale = fitted(image, TILE)
    position, names = truth.position_of[row["image_id"]], truth.names()
    given: Truth = truth.truth
    objects = given.boxes[(given.image == position) & ~given.crowd]
    tiles: List[np.ndarray] = []
    for number, (letter, found) in enumerate(zip("AB", sides)):
        tile = small.copy()
        for x, y, w, h in (objects * scale).tolist():
            draw_box(tile, (y, x, y + h, x + w), GREEN, 3)
        least = thresholds[number]
        keep = (found.image == position) & (found.scores >= (np.inf if least is None else least))
        x, y, w, h = found.boxes[keep].T * scale
        corners = np.stack([y, x, y + h, x + w], 1)
        tile = draw_detections(tile, corners, found.category[keep], found.scores[keep], names)
        text = f"{letter}: {row['matched'][number]} matched, {row['false'][number]} false"
        if least is not None:
            text += f", scores from {least:.3f}"
        tiles.append(cv2.vconcat([tile, caption([text], tile.shape[1])]))
    return sheet(tiles, columns=2)
