"""LabelMe: a JSON file per image, with rectangles and polygons in pixels."""

from __future__ import annotations

import os
from typing import Optional, Tuple

from src.data.issues import Issues
from src.data.readers.find_images import ImageFinder, files_below, ids_by_name
from src.data.readers.json_file import no_collection, parse_json
from src.data.readers.locate import IMAGE_ENDINGS, on_disk
from src.data.readers.shapes import ClassLabels, annotation_source, box_around, image_folder, side, usable
from src.data.sample import DataSet, Sample, boxes_array, note_absent_classes
from src.utils.errors import UserError

_LEAST_POINTS = {"rectangle": 2, "polygon": 3}


@no_collection()
def read_labelme(cfg, is_training: bool) -> DataSet:
    """Samples of the JSON files in the folder `anno_path` (evaluation: `anno_path_val`, if set) and its subfolders."""
    key, folder = annotation_source(cfg, is_training, "a folder with LabelMe's JSON files")
    if not os.path.isdir(folder):
        raise UserError(f"{key}: {folder} is a file; dataset 'labelme' needs the folder of LabelMe's JSON files")
    issues, samples, owners = Issues(), [], {}
    images = image_folder(cfg, folder)
    finder, labels = ImageFinder(images, issues), ClassLabels(cfg.classes, issues)
    files = files_below(folder, (".json",))
    used = []
    for path in files:
        name = os.path.relpath(path, folder)
        content = _content(path, name, issues)
        if content is None:
            continue
        used.append(path)
        image, file_name = _image(content, path, finder)
        if image in owners:
            issues.error("images have two annotation files", f"{file_name}: {owners[image]}, {name}")
            continue
        owners[image] = name
        rows = [row for row in map(_Shapes(labels, name, issues).row, enumerate(content["shapes"], 1)) if row]
        width, height = side(content.get("imageWidth")), side(content.get("imageHeight"))
        sample = Sample(0, image, boxes_array(rows), width, height, file_name)
        if sample.clip(0, 0)[1]:
            issues.warn("files with boxes of zero area (dropped)", name)
        samples.append(sample)
    if not used:
        issues.raise_errors(folder)
        raise UserError(f"{key}: no LabelMe file (JSON with 'shapes') in {folder}")
    for path in files_below(images, IMAGE_ENDINGS):
        if path not in owners:
            issues.warn("images have no annotation file (left out)", path)
    for sample, image_id in zip(samples, ids_by_name([sample.path for sample in samples])):
        sample.image_id = image_id
    note_absent_classes(samples, cfg.classes, issues)
    return DataSet(samples, [*used, folder, images], folder, issues)


def _content(path: str, name: str, issues: Issues) -> Optional[dict]:
    """The content of a LabelMe file, None for another file (noted)."""
    try:
        with open(path, "rb") as handle:
            content = parse_json(handle.read(), issues)
    except ValueError as error:
        issues.error("files are not valid JSON", f"{name}: {error}")
        return None
    except OSError as error:
        issues.error("files cannot be read", f"{name}: {error.strerror}")
        return None
    if not isinstance(content, dict) or not ("shapes" in content or "imagePath" in content):
        issues.warn("JSON files are not LabelMe's (no 'shapes'; left out)", name)
        return None
    if not isinstance(content.get("shapes"), list):
        issues.error("files have no list 'shapes'", name)
        return None
    return content


def _image(content: dict, path: str, finder: ImageFinder) -> Tuple[str, str]:
    """(path, name) of the image: the one at `imagePath`, which counts from the JSON file, else the one with the JSON
    file's name, else the one of that name in the images' folder."""
    stem, given = os.path.splitext(path)[0], content.get("imagePath")
    candidates = [stem + ending for ending in (*IMAGE_ENDINGS, *map(str.upper, IMAGE_ENDINGS))]
    if not isinstance(given, str) or not given.strip() or "\0" in given:
        given = os.path.basename(candidates[0])
    candidates.insert(0, os.path.normpath(os.path.join(os.path.dirname(path), on_disk(given.replace("\\", "/")))))
    for candidate in candidates:
        if os.path.isfile(candidate):
            inside = os.path.relpath(candidate, finder.folder)
            return finder.find(candidate if inside.startswith(os.pardir) else inside)
    return finder.find(given)


class _Shapes:
    """The boxes around the shapes of a file."""

    def __init__(self, labels: ClassLabels, name: str, issues: Issues):
        self._labels, self._name, self._issues = labels, name, issues

    def row(self, numbered: tuple) -> Optional[tuple]:
        """y1, x1, y2, x2, label of a shape, None if it is left out."""
        number, shape = numbered
        place = f"shape {number} in {self._name}"
        if not isinstance(shape, dict):
            self._issues.error("shapes are no objects", place)
            return None
        kind = shape.get("shape_type") or "polygon"
        if not isinstance(kind, str) or kind not in _LEAST_POINTS:
            self._issues.warn("shapes are neither rectangles nor polygons (left out)", f"{str(kind)[:40]}, {place}")
            return None
        label = self._labels.label(shape.get("label"), place)
        if label is None:
            return None
        points = shape.get("points")
        is_list = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
        if not is_list or not all(map(usable, points)):
            self._issues.error(
                "shapes have points that are not pairs of finite numbers", f"{place}: {str(points)[:60]}"
            )
            return None
        if len(points) < _LEAST_POINTS[kind]:
            self._issues.error("shapes have too few points", f"{place}: a {kind} with {len(points)}")
            return None
        xs, ys = zip(*points)
        return box_around(xs, ys, label)
