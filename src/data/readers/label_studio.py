"""Label Studio: one JSON export of tasks, with rectangles and polygons in percent of the image."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, Optional, Tuple

from src.data.images import read_header
from src.data.issues import Issues
from src.data.readers.find_images import ImageFinder, ids_of_file, path_of_reference
from src.data.readers.json_file import no_collection, read_json
from src.data.readers.locate import IMAGE_ENDINGS
from src.data.readers.shapes import (
    ClassLabels,
    annotation_source,
    box_around,
    image_folder,
    rotated,
    side,
    usable,
)
from src.data.sample import DataSet, Sample, boxes_array, note_absent_classes
from src.utils.errors import UserError

_RECTANGLES, _POLYGONS = ("rectanglelabels", "rectangle"), ("polygonlabels", "polygon")
_TOLERANCE = 1.0
"""Percent by which a number may leave the range from 0 to 100: rounding, and boxes drawn over the edge."""
_UNSHAPED = ("choices", "rating", "textarea", "number", "taxonomy", "datetime", "relation", "labels")
"""Kinds of results that describe the image, or give a shape its label."""


@no_collection()
def read_label_studio(cfg, is_training: bool) -> DataSet:
    """Samples of the JSON export `anno_path` (evaluation: `anno_path_val`, if set); images are found by their name."""
    _, path = annotation_source(cfg, is_training, "the export 'JSON' of Label Studio")
    issues = Issues()
    tasks = _tasks(read_json(path, issues), path)
    finder = ImageFinder(image_folder(cfg, os.path.dirname(path)), issues)
    labels = ClassLabels(cfg.classes, issues)
    samples, results, given, seen = [], [], [], {}
    for position, task in enumerate(tasks, 1):
        place = f"task {task.get('id', f'number {position}')}"[:60]
        annotation = _annotation(task, place, issues)
        if annotation is None:
            continue
        reference = _reference(task)
        if not reference:
            issues.error("tasks have no image in 'data'", place)
            continue
        image, name = finder.find(reference, by_name=True)
        if image in seen:
            issues.error("images belong to two tasks", f"{name}: {seen[image]}, {place}")
            continue
        seen[image] = place
        samples.append(Sample(0, image, boxes_array([]), file_name=name))
        results.append([(place, result) for result in annotation])
        given.append(task.get("id"))
    sizes = _sizes([sample.path for sample in samples], results, cfg.num_parallel_workers)
    for sample, of_image, size in zip(samples, results, sizes):
        named = {_hashable(result.get("id")): result for _, result in of_image if _shape_labels(result)}
        rows = [row for place, result in of_image for row in _rows(place, result, named, size, labels, issues)]
        sample.boxes, (sample.height, sample.width) = boxes_array(rows), size
        if sample.clip(0, 0)[1]:
            issues.warn("tasks with boxes of zero area (dropped)", of_image[0][0])
    ids = ids_of_file(given, [sample.path for sample in samples], "task ids", path, issues)
    for sample, image_id in zip(samples, ids):
        sample.image_id = image_id
    note_absent_classes(samples, cfg.classes, issues)
    return DataSet(samples, [path], path, issues)


def _tasks(content: object, path: str) -> List[dict]:
    """The tasks of an export.

    Raises:
        UserError: the file has another form.
    """
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise UserError(f"{path}: not an export of Label Studio (the top level must be a list of tasks)")
    if content and not any("data" in task for task in content):
        raise UserError(f"{path}: its tasks have no 'data': export as 'JSON', not as 'JSON-MIN'")
    return content


def _annotation(task: dict, place: str, issues: Issues) -> Optional[List[dict]]:
    """The results of a task's annotation, None where the task has none (not labelled, or skipped).

    Of several annotations the one marked as ground truth is used, else the one that was changed last. Predictions are
    not read.
    """
    rows = task.get("annotations", task.get("completions"))
    if rows is None:
        rows = []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        issues.error("tasks have 'annotations' that are no list of objects", place)
        return None
    usable_rows = [row for row in rows if not row.get("was_cancelled") and not row.get("skipped")]
    if not usable_rows:
        issues.warn("tasks are skipped or not labelled (left out)", place)
        return None
    if len(usable_rows) > 1:
        issues.warn("tasks have several annotations (the ground truth or else the newest is used)", place)
    truth = [row for row in usable_rows if row.get("ground_truth")]
    newest = max(truth or usable_rows, key=lambda row: str(row.get("updated_at") or row.get("created_at") or ""))
    results = newest.get("result")
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        issues.error("annotations have no list 'result'", place)
        return None
    return results


def _reference(task: dict) -> str:
    """The path or URL of a task's image, "" if it has none."""
    data = task.get("data")
    values = list(data.values()) if isinstance(data, dict) else []
    strings = [value for value in values if isinstance(value, str) and value.strip() and "\0" not in value]
    if isinstance(data, dict) and data.get("image") in strings:
        return data["image"]
    return next((text for text in strings if path_of_reference(text).lower().endswith(IMAGE_ENDINGS)), "")


def _sizes(images: List[str], results: list, workers: int) -> List[Tuple[int, int]]:
    """(height, width) of each image: as its results say, else the file's, (0, 0) if neither can be read."""

    def size(job: tuple) -> Tuple[int, int]:
        image, of_image = job
        for _, result in of_image:
            found = side(result.get("original_height")), side(result.get("original_width"))
            if all(found):
                return found
        if not of_image:
            return 0, 0
        try:
            return read_header(image)[0]
        except (OSError, ValueError):
            return 0, 0

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        return list(pool.map(size, zip(images, results)))


def _shape_labels(result: dict) -> List[object]:
    """The class names of a result; those of `<Labels>` are in another result with the same id."""
    value = result.get("value")
    if not isinstance(value, dict):
        return []
    for key in ("rectanglelabels", "polygonlabels", "labels"):
        if isinstance(value.get(key), list) and value[key]:
            return value[key]
    return []


def _rows(
    place: str, result: dict, named: Dict[object, dict], size: tuple, labels: ClassLabels, issues: Issues
) -> list:
    """Rows y1, x1, y2, x2, label of a result, one for each of its classes.

    Args:
        named: results with class names by their id; size: (height, width) of the image.
    """
    kind, value = result.get("type"), result.get("value")
    if kind in _UNSHAPED:
        return []
    if kind not in _RECTANGLES + _POLYGONS:
        issues.warn("results are neither rectangles nor polygons (left out)", f"{str(kind)[:40]} in {place}")
        return []
    names = _shape_labels(result) or _shape_labels(named.get(_hashable(result.get("id")), {}))
    found = [label for label in (labels.label(name, place) for name in names or [None]) if label is not None]
    if not found:
        return []
    if len(names) > 1:
        issues.warn("shapes have several classes (a box for each is used)", place)
    if not all(size):
        issues.error("tasks have no original_width and original_height, and their image cannot be read", place)
        return []
    points = _points(kind, value, size, place, issues)
    if points is None:
        return []
    if result.get("image_rotation"):
        issues.warn("images were rotated in Label Studio (their boxes may be wrong: images are read unrotated)", place)
    return [box_around(*points, label) for label in found]


def _hashable(value: object) -> object:
    return value if isinstance(value, (str, int)) else None


def _points(kind: str, value: object, size: tuple, place: str, issues: Issues) -> Optional[tuple]:
    """(xs, ys) in pixels of a shape, None if it cannot be used (noted)."""
    height, width = size
    value = value if isinstance(value, dict) else {}
    if kind in _POLYGONS:
        points = value.get("points")
        is_list = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
        numbers = [number for point in points for number in point] if is_list else []
        if len(numbers) < 6 or not usable(numbers):
            issues.error("polygons have no points of finite numbers", f"{place}: {str(points)[:60]}")
            return None
        xs, ys = numbers[::2], numbers[1::2]
        degrees = 0
    else:
        numbers = [value.get(key) for key in ("x", "y", "width", "height")]
        degrees = value.get("rotation") or 0
        if not usable([*numbers, degrees]) or min(numbers[2:]) < 0:
            issues.error("rectangles have no finite x, y, width, height", f"{place}: {str(numbers)[:60]}")
            return None
        x, y, w, h = numbers
        xs, ys = [x, x + w], [y, y + h]
    if not degrees % 360 and not all(-_TOLERANCE <= number <= 100 + _TOLERANCE for number in (*xs, *ys)):
        issues.error("shapes have numbers that are no percent of the image (0 to 100)", f"{place}: {str(numbers)[:60]}")
        return None
    xs, ys = [x * width / 100 for x in xs], [y * height / 100 for y in ys]
    if degrees % 360:
        issues.warn("boxes are rotated (the upright box around them is used)", place)
        xs, ys = rotated(xs[0], ys[0], xs[1] - xs[0], ys[1] - ys[0], degrees, (xs[0], ys[0]))
    return xs, ys
