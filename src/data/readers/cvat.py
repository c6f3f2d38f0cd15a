"""CVAT for images 1.1: one XML file, with boxes and polygons in pixels."""

from __future__ import annotations

import os
import re
import xml.parsers.expat
from typing import Dict, List, NamedTuple, Optional, Tuple

from src.data.issues import Issues
from src.data.readers.find_images import ImageFinder, ids_of_file
from src.data.readers.shapes import (
    ClassLabels,
    annotation_source,
    box_around,
    image_folder,
    number,
    points_of,
    rotated,
    side,
    usable,
)
from src.data.readers.text_file import read_bytes
from src.data.sample import DataSet, Sample, boxes_array, note_absent_classes
from src.utils.errors import UserError
from src.utils.text import one_line

_EDGES = ("xtl", "ytl", "xbr", "ybr")
_SUBSETS = {True: ("train", "training"), False: ("validation", "val", "valid", "test")}
_DECLARED = re.compile(rb"<\?xml[^>]*encoding=[\"']([\w.-]+)[\"'][^>]*\?>")


class _Element(NamedTuple):
    """An element with its line in the file."""

    tag: str
    line: int
    attributes: Dict[str, str]


class _Content:
    """The images of an XML file, each with its shapes: `images` is [(image, [shape])]."""

    def __init__(self, path: str):
        self.images: List[Tuple[_Element, List[_Element]]] = []
        self._path, self._open = path, []

    def parse(self, data: bytes) -> None:
        """Read a file's bytes.

        Raises:
            UserError: no XML, or not of CVAT for images.
        """
        try:
            self._parse(data)
        except (xml.parsers.expat.ExpatError, LookupError, ValueError) as error:
            # an encoding that the parser lacks (GB2312, Shift_JIS)
            declared = _DECLARED.match(data)
            if isinstance(error, UserError) or declared is None or self.images:
                raise self._invalid(error) from None
            try:
                text = data[declared.end() :].decode(declared.group(1).decode())
                self._open = []
                self._parse(text.encode("utf-8"))
            except (xml.parsers.expat.ExpatError, LookupError, ValueError) as error:
                raise self._invalid(error) from None

    def _invalid(self, error: Exception) -> UserError:
        return UserError(f"{self._path}: not valid XML: {error}")

    def _parse(self, data: bytes) -> None:
        self._parser = xml.parsers.expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = lambda tag: self._open.pop()
        self._parser.EntityDeclHandler = self._refuse_entities
        self._parser.Parse(data, True)

    def _refuse_entities(self, *_) -> None:  # they can expand without limit, and no annotation needs them
        raise UserError(f"{self._path}: not valid XML: it defines entities (<!ENTITY ...>), which are not read")

    def _start(self, tag: str, attributes: Dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        if not self._open and tag != "annotations":
            raise UserError(
                f"{self._path}, line {line}: not a CVAT file (expected: <annotations>, got <{one_line(tag)[:40]}>)"
            )
        if len(self._open) == 1 and tag == "track":
            raise UserError(
                f"{self._path}, line {line}: it has tracks, as 'CVAT for video' writes them; export the task as "
                f"'CVAT for images 1.1'"
            )
        if len(self._open) == 1 and tag == "image":
            self.images.append((_Element(tag, line, attributes), []))
        elif len(self._open) == 2 and self._open[1] == "image":
            self.images[-1][1].append(_Element(tag, line, attributes))
        self._open.append(tag)


def read_cvat(cfg, is_training: bool) -> DataSet:
    """Samples of the XML file `anno_path` (evaluation: `anno_path_val`, if set).

    If both splits have the same file and its images have subsets, training reads the subset Train, and evaluation
    Validation or, without one, Test.
    """
    key, path = annotation_source(cfg, is_training, "the annotations.xml of 'CVAT for images 1.1'")
    if os.path.isdir(path):
        path = os.path.join(path, "annotations.xml")
    content, issues, data = _Content(path), Issues(), read_bytes(path, key)
    if not data.strip():
        raise UserError(f"{path}: not valid XML: the file is empty")
    content.parse(data)
    if not content.images:
        raise UserError(f"{path}: no <image> in it")
    folder = os.path.dirname(path)
    candidate = os.path.join(folder, "images")
    images = image_folder(cfg, candidate if os.path.isdir(candidate) else folder)
    finder, labels = ImageFinder(images, issues), ClassLabels(cfg.classes, issues)
    samples, given, seen = [], [], {}
    for image, shapes in _of_split(content.images, is_training, not cfg.anno_path_val):
        name = image.attributes.get("name", "").strip()
        where = f"line {image.line}"
        if not name:
            issues.error("images have no name", where)
            continue
        subset = image.attributes.get("subset", "")
        in_subset = os.path.join(subset, name)
        is_there = subset and os.path.isfile(os.path.join(images, in_subset))
        image_path, file_name = finder.find(in_subset if is_there else name)
        if image_path in seen:
            issues.error("images are listed twice", f"{where}: {name} (also in line {seen[image_path]})")
            continue
        seen[image_path] = image.line
        rows = [row for row in (_row(shape, labels, issues) for shape in shapes) if row]
        width, height = (side(image.attributes.get(key)) for key in ("width", "height"))
        sample = Sample(0, image_path, boxes_array(rows), width, height, file_name)
        if sample.clip(0, 0)[1]:
            issues.warn("images with boxes of zero area (dropped)", f"{name} ({where})")
        samples.append(sample)
        given.append(image.attributes.get("id"))
    ids = ids_of_file(given, [sample.path for sample in samples], "image ids", path, issues)
    for sample, image_id in zip(samples, ids):
        sample.image_id = image_id
    note_absent_classes(samples, cfg.classes, issues)
    return DataSet(samples, [path], path, issues)


def _of_split(images: list, is_training: bool, same_file: bool) -> list:
    """The images of a split: those of its subset if the file is that of both splits and has such a subset."""
    subsets = [image.attributes.get("subset", "").strip().lower() for image, _ in images]
    if not same_file or not set(subsets) & set(_SUBSETS[True]):
        return images
    for name in _SUBSETS[is_training]:
        chosen = [image for image, subset in zip(images, subsets) if subset == name]
        if chosen:
            return chosen
    return images


def _row(shape: _Element, labels: ClassLabels, issues: Issues) -> Optional[tuple]:
    """y1, x1, y2, x2, label of a shape, None if it is left out."""
    place, attributes = f"line {shape.line}", shape.attributes
    if shape.tag not in ("box", "polygon"):
        issues.warn("shapes are neither boxes nor polygons (left out)", f"{shape.tag[:40]} in {place}")
        return None
    label = labels.label(attributes.get("label"), place)
    if label is None:
        return None
    if shape.tag == "polygon":
        xs, ys = zip(*points_of(attributes.get("points", "")))
        if not usable([*xs, *ys]) or len(xs) < 3:
            issues.error(
                "polygons have no points `x,y;x,y;x,y` of finite numbers",
                f"{place}: '{attributes.get('points', '')[:60]}'",
            )
            return None
        return box_around(xs, ys, label)
    left, top, right, bottom, degrees = (
        number(attributes.get(key, "0" if key == "rotation" else None)) for key in (*_EDGES, "rotation")
    )
    if not usable((left, top, right, bottom, degrees)):
        shown = ", ".join(f"{key}={attributes.get(key)}" for key in _EDGES)
        issues.error("boxes have no finite numbers xtl, ytl, xbr, ybr", f"{place}: {shown}")
        return None
    if right < left or bottom < top:
        issues.warn("boxes with reversed corners (swapped)", place)
        left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
    if degrees % 360:
        issues.warn("boxes are rotated (the upright box around them is used)", place)
    centre = (left + right) / 2, (top + bottom) / 2
    return box_around(*rotated(left, top, right - left, bottom - top, degrees, centre), label)
