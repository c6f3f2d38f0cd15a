"""Pascal VOC folders: one XML per image, corners minus 1."""

from __future__ import annotations

import math
import os
import re
import xml.etree.ElementTree as ElementTree
from typing import List

import numpy as np

from src.config import data_file
from src.data.issues import Issues
from src.data.readers.doubts import Normalized, alike, note_reversed
from src.data.readers.find_images import ids_by_name
from src.data.readers.locate import IMAGE_ENDINGS, is_system_file, on_disk
from src.data.sample import DataSet, Sample, boxes_array, note_absent_classes
from src.utils.errors import UserError
from src.utils.text import escape_surrogates

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"": False, "0": False, "false": False, "unspecified": False, "1": True, "true": True}


def _folders(root: str, is_training: bool) -> tuple:
    """(images, annotations) of a split: `root/train` or `root/eval`, each with both folders or both together."""
    part = os.path.join(root, "train" if is_training else "eval")
    if not os.path.isdir(part):
        hint = ""
        if os.path.isdir(os.path.join(root, "JPEGImages")):
            hint = "; this is VOC's original layout: link images and XML files of each split into such a folder"
        raise UserError(f"voc_root: no such folder: {part}{hint}")
    images, annotations = os.path.join(part, "Images"), os.path.join(part, "Annotations")
    if os.path.isdir(images) and os.path.isdir(annotations):
        return images, annotations
    return part, part


def _number(text) -> float:
    """The number that a string holds, NaN if it holds none of a usable size."""
    try:
        value = float((text or "").strip())
    except ValueError:
        return math.nan
    return value if abs(value) < 1e9 else math.nan


def _root(path: str, issues: Issues):
    """The root element of an XML file, None if it is invalid (noted)."""
    name, data = os.path.basename(path), b""
    try:
        with open(path, "rb") as handle:
            data = handle.read()
        return _parsed(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        issues.error("files are not valid XML", f"{name}: {error if data.strip() else 'the file is empty'}")
    except OSError as error:
        issues.error("files cannot be read", f"{name}: {error.strerror}")
    return None


def _parsed(data: bytes):
    """The root element.

    Entities can expand without limit and no annotation needs them, so a file that defines some is rejected.

    Raises:
        ElementTree.ParseError, ValueError, LookupError: no XML.
    """
    entities = "it defines entities (<!ENTITY ...>), which are not read"
    if b"<!ENTITY" in data.replace(b"\0", b""):  # without its zero bytes UTF-16 reads as ASCII
        raise ValueError(entities)
    try:
        return ElementTree.fromstring(data)
    except (ValueError, LookupError):  # an encoding that the parser lacks (GB2312, Shift_JIS)
        encoding = re.match(rb"<\?xml[^>]*encoding=[\"']([\w.-]+)[\"'][^>]*\?>", data)
        if encoding is None:
            raise
        text = data[encoding.end() :].decode(encoding.group(1).decode())
        if "<!ENTITY" in text:
            raise ValueError(entities) from None
        return ElementTree.fromstring(text)


class _Reader:
    """Reads XML files; problems are noted in `issues`."""

    def __init__(self, classes: List[str], issues: Issues):
        self.labels = {name: label for label, name in enumerate(classes) if label > 0}
        self.issues, self.normalized = issues, Normalized()
        self.boxes = self.reversed = 0

    def parse(self, path: str):
        """(file name or "", width, height, rows, difficult of each row) of one XML file, None if it is invalid.

        Only direct `<bndbox>`es count: a `<part>` of an object has another box.
        """
        name, top = os.path.basename(path), _root(path, self.issues)
        if top is None:
            return None
        objects, rows, difficult = top.findall("object"), [], []
        # in any spelling: with <Object> or an XML namespace the image would otherwise seem to have no boxes
        spelt = [str(entry.tag).rpartition("}")[2].lower() for entry in top.iter()]
        inside = sum(1 for obj in objects for _ in obj.iter("bndbox"))
        if (
            len(objects) < spelt.count("object")
            or inside < spelt.count("bndbox")
            or (not objects and top.tag != "annotation")
        ):
            self.issues.error(
                "files are not VOC annotations (expected: <annotation> with <object> directly in it, in lower case)",
                name,
            )
            return None
        for obj in objects:
            names = {(entry.text or "").strip() for entry in obj.findall("name")} or {""}
            if len(names) > 1 or "" in names:
                fault = "objects have no <name>" if names == {""} else "objects have several <name>"
                self.issues.error(fault, f"object {objects.index(obj) + 1} in {name}")
                continue
            label = self.labels.get(min(names))
            if label is None:
                other = alike(min(names), self.labels)
                meant = f" (spelt '{other}' in 'classes')" if other else ""
                self.issues.warn(
                    "objects of a class that 'classes' does not list (dropped)", f"{min(names)} in {name}{meant}"
                )
                continue
            boxes = self._boxes(obj, min(names), name)
            hard = self._is_difficult(obj, min(names), name) if boxes else False
            rows += [(*box, label) for box in boxes]
            difficult += [hard] * len(boxes)
        width, height = (_side(top.findtext(f"size/{key}")) for key in ("width", "height"))
        return (top.findtext("filename") or "").strip(), width, height, rows, difficult

    def _boxes(self, obj, what: str, name: str) -> list:
        """[(y1, x1, y2, x2)] of every <bndbox> of an object."""
        boxes = []
        for box in obj.findall("bndbox") or [None]:
            corners = [] if box is None else [box.findall(key) for key in _CORNERS]
            values = [_number(entries[0].text) if len(entries) == 1 else math.nan for entries in corners] or [math.nan]
            if any(math.isnan(value) for value in values):
                self.issues.error(
                    "objects have no <bndbox> of four numbers xmin, ymin, xmax, ymax", f"{what} in {name}"
                )
                continue
            self.normalized.add(values, f"{what} in {name}")
            # truncated, as in the published scripts
            x1, y1, x2, y2 = (int(value) - 1 for value in values)
            self.boxes += 1
            if x2 < x1 or y2 < y1:
                self.reversed += 1
                self.issues.warn("boxes with reversed corners (swapped)", name)
            if min(x1, y1, x2, y2) == -1:
                self.issues.warn("boxes with a corner 0 (0-based file: clipped to the edge)", name)
            boxes.append((min(y1, y2), min(x1, x2), max(y1, y2), max(x1, x2)))
        if len(boxes) > 1:
            self.issues.warn("objects have several <bndbox> (each is used as a box)", f"{what} in {name}")
        return boxes

    def _is_difficult(self, obj, what: str, name: str) -> bool:
        texts = {(entry.text or "").strip().lower() for entry in obj.findall("difficult")} or {""}
        text = min(texts)
        if len({_FLAGS.get(other) for other in texts}) > 1:
            self.issues.error("objects have several <difficult> that differ", f"{what} in {name}")
        elif text not in _FLAGS:
            self.issues.warn("objects have a <difficult> that is neither 0 nor 1 (taken as 0)", f"{what} in {name}")
        elif _FLAGS[text]:
            self.issues.warn(
                "objects are difficult (used in training; evaluation ignores them and detections on them)",
                f"{what} in {name}",
            )
        return _FLAGS.get(text, False)


def _side(text) -> int:
    """An annotated height or width, 0 where the file gives none."""
    value = _number(text)
    return int(value) if value > 0 and value.is_integer() else 0


def _image_finder(folder: str, issues: Issues):
    """(XML's stem, its <filename>) -> path of the image or None, and the names of the images.

    The name of the XML file decides: <filename> may lack its extension, hold a path, or name another image.
    """
    names = [name for name in _names(folder, issues) if name.lower().endswith(IMAGE_ENDINGS)]
    by_stem = {}
    for name in names:
        by_stem.setdefault(os.path.splitext(name)[0], []).append(name)
    known = set(names)

    def find(stem: str, filename: str):
        filename = on_disk(os.path.basename(filename.replace("\\", "/")))
        of_stem = by_stem.get(stem, [])
        if of_stem:
            return os.path.join(folder, filename if filename in of_stem else of_stem[0])
        if filename in known:
            return os.path.join(folder, filename)
        return os.path.join(folder, by_stem[filename][0]) if filename in by_stem else None

    return find, names


def _names(folder: str, issues: Issues) -> list:
    """The names in a folder, sorted, without the hidden ones."""
    names = sorted(os.listdir(folder))
    for name in names:
        if is_system_file(name):
            issues.warn("hidden files (left out)", os.path.join(folder, name))
    return [name for name in names if not is_system_file(name)]


def read_voc(cfg, is_training: bool) -> DataSet:
    """Samples of `voc_root`. An image whose name is a number has that id, the others get free numbers."""
    return read_voc_folders(*_folders(data_file(cfg, cfg.voc_root), is_training), cfg.classes)


def read_voc_folders(image_dir: str, annotation_dir: str, classes: List[str]) -> DataSet:
    """As `read_voc`, for the images of one folder and the XML files of another (or the same) one."""
    issues, samples, owners = Issues(), [], {}
    find, names = _image_finder(image_dir, issues)
    other_faults = issues if annotation_dir != image_dir else Issues()  # hidden files are noted once
    files = [name for name in _names(annotation_dir, other_faults) if name.lower().endswith(".xml")]
    if not files:
        raise UserError(
            f"voc_root: no XML file in {annotation_dir} (a split has the folders Images and Annotations, or images and "
            f"XML files together)"
        )
    reader = _Reader(classes, issues)
    for name in files:
        content = reader.parse(os.path.join(annotation_dir, name))
        if content is None:
            continue
        filename, width, height, rows, difficult = content
        stem = os.path.splitext(name)[0]
        image = find(stem, filename)
        if image is None:
            issues.error(f"annotation files have no image in {image_dir}", name + _other_format(image_dir, stem))
            continue
        if image in owners:
            issues.error("images have two annotation files", f"{os.path.basename(image)}: {owners[image]}, {name}")
            continue
        owners[image] = name
        sample = Sample(
            0, os.path.abspath(image), boxes_array(rows), width, height, escape_surrogates(os.path.basename(image))
        )
        sample.difficult = np.array(difficult, bool)
        if sample.clip(0, 0)[1]:
            issues.warn("files with boxes of zero area (dropped)", name)
        samples.append(sample)
    reader.normalized.note(issues)
    note_reversed(reader.reversed, reader.boxes, annotation_dir, issues)
    for name in names:
        if os.path.join(image_dir, name) not in owners:
            issues.warn("images have no annotation file (left out)", name)
    for sample, image_id in zip(samples, ids_by_name([sample.path for sample in samples])):
        sample.image_id = image_id
    note_absent_classes(samples, classes, issues)
    return DataSet(samples, [os.path.join(annotation_dir, name) for name in files], annotation_dir, issues)


def _other_format(folder: str, stem: str) -> str:
    """A hint, in brackets, at a file of that name in an unsupported format."""
    endings = (".webp", ".gif", ".heic", ".avif", ".jfif", ".jp2", "")
    found = [stem + ending for ending in endings if os.path.isfile(os.path.join(folder, stem + ending))]
    return f" (there is {found[0]}; supported are {', '.join(IMAGE_ENDINGS)})" if found else ""
