"""Recognition of a data set's format by the content of its files."""

from __future__ import annotations

import codecs
import json
import os
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

import yaml

from src.data.readers.find_images import files_below
from src.data.readers.locate import IMAGE_ENDINGS
from src.utils.errors import UserError
from src.utils.text import one_line

_LOOKED_AT = 5
"""Files of one kind that are opened in a folder: LabelMe and VOC have one for each picture."""
_HEAD = 1 << 16
_WHOLE = 64 << 20
_LIST_LINE = re.compile(r"\S.*\.\w{3,4}([ \t]+[+-]?\d[\d.]*,[+-]?\d[\d.]*,[+-]?\d[\d.]*,[+-]?\d[\d.]*,\d+)+\s*$")
_YOLO_LINE = re.compile(r"\d+(\.0)?([ \t]+-?\d*\.?\d+(e-?\d+)?){4,}\s*$", re.I)
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval"),
    "test": ("test", "testing"),
}
_NAMES = {
    "coco": "COCO",
    "voc": "Pascal VOC",
    "other": "a list file",
    "yolo": "YOLO",
    "labelme": "LabelMe",
    "cvat": "CVAT for images",
    "label_studio": "Label Studio",
}


class Part(NamedTuple):
    """Annotations of one split: `name` is train, val, or "" where the set has no split; `path` is a file, or the folder
    of the annotation files."""

    name: str
    path: str


class Found(NamedTuple):
    """A recognised set: the format (as `dataset` names it), its parts, and why it is taken for that format."""

    dataset: str
    parts: List[Part]
    why: str

    @property
    def line(self) -> str:
        return f"{_NAMES[self.dataset]}: {self.why}"


def recognise(folder: str, only: str = "") -> Found:
    """The format of the set in a folder.

    Args:
        only: the one format to look for; "" means any.

    Raises:
        UserError: there is no such folder, no known format, or more than one set; the line says what to do.
    """
    if not os.path.isdir(folder):
        kind = "is a file; give the folder that holds it" if os.path.exists(folder) else "does not exist"
        raise UserError(f"{one_line(folder)} {kind}")
    places, reasons, labels = _look(folder)
    if only:
        places = {only: places[only]} if only in places else {}
    if len(places) > 1:
        kinds = ", ".join(f"{name} ({_shown(folder, paths[0])})" for name, paths in places.items())
        raise UserError(
            f"{one_line(folder)} holds sets of several formats: {kinds}; give the folder of one of them, or name the "
            f"format with --dataset"
        )
    if not places:
        raise UserError(_nothing(folder, labels, only))
    ((dataset, paths),) = places.items()
    parts = _parts(folder, dataset, paths)
    used = {part.path for part in parts}
    unused = [_shown(folder, path) for path in paths if path not in used]
    note = f" (not used: {', '.join(unused[:4])})" if unused else ""
    return Found(dataset, parts, reasons[parts[0].path] + note)


def _shown(folder: str, path: str) -> str:
    return one_line(os.path.relpath(path, folder))


def _look(folder: str) -> Tuple[Dict[str, List[str]], Dict[str, str], List[str]]:
    """({format: its annotation files, or the folders of them}, {place: reason}, label files of YOLO)."""
    places: Dict[str, List[str]] = {}
    reasons: Dict[str, str] = {}
    labels, opened = [], {}
    for path in files_below(folder, (".json", ".xml", ".txt", ".yaml", ".yml")):
        ending = os.path.splitext(path)[1].lower()
        top = os.path.dirname(path)
        kinds, number = opened.setdefault((top, ending), [set(), 0])
        if number >= _LOOKED_AT and kinds <= {"labelme", "voc", "yolo labels"}:
            continue  # the folder has a file for each picture
        opened[top, ending][1] += 1
        kind, reason = _KINDS[ending](path)
        if not kind:
            continue
        kinds.add(kind)
        if kind == "yolo labels":
            labels.append(path)
            continue
        place = top if kind in ("labelme", "voc") else path
        if place not in places.setdefault(kind, []):
            places[kind].append(place)
        reasons.setdefault(place, f"{_shown(folder, path)} {reason}")
    return places, reasons, labels


def _text(path: str, size: int = _HEAD) -> str:
    """The first bytes of a file as text; "" where it cannot be read."""
    try:
        with open(path, "rb") as handle:
            data = handle.read(size)
    except OSError:
        return ""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    return data.decode(encoding, "replace")


def _json_kind(path: str) -> Tuple[str, str]:
    head = _text(path).lstrip()
    if os.path.getsize(path) > _WHOLE:  # too long to be parsed twice
        keys = set(re.findall(r'"(images|annotations|categories|info|licenses)"\s*:', head))
        return ("coco", f"has {', '.join(sorted(keys))}") if keys and head.startswith("{") else ("", "")
    try:
        with open(path, "rb") as handle:
            content = json.loads(handle.read())
    except (OSError, ValueError, RecursionError):
        # of a broken file the beginning shows what it was meant to be; its reader names the fault
        content = dict.fromkeys(re.findall(r'"(images|categories|shapes|imagePath)"\s*:', head), [])
        if {"images", "shapes"} <= set(content):
            return "", ""
        content.update({"annotations": []} if "images" in content else {})
        content.setdefault("categories", []) if "images" in content else None
    if isinstance(content, dict):
        if {"images", "annotations", "categories"} <= set(content):
            return "coco", "has images, annotations and categories"
        if "shapes" in content and ("imagePath" in content or isinstance(content["shapes"], list)):
            return "labelme", "has shapes and imagePath"
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content[:20]):
        if "data" in content[0] and {"annotations", "completions", "predictions"} & set(content[0]):
            return "label_studio", "is a list of tasks with data and annotations"
    return "", ""


def _xml_kind(path: str) -> Tuple[str, str]:
    head = _text(path)
    root = re.search(r"<([A-Za-z][\w.:-]*)", re.sub(r"<[?!][^>]*>", "", head))
    if root and root.group(1) == "annotations":
        return "cvat", "has <annotations> with images"
    if root and root.group(1) == "annotation":
        return "voc", "has <annotation> with objects"
    return "", ""


def _txt_kind(path: str) -> Tuple[str, str]:
    lines = [line for line in _text(path).splitlines()[:20] if line.strip()]
    if any(_LIST_LINE.match(line) for line in lines):
        return "other", "has lines `path xmin,ymin,xmax,ymax,class`"
    if lines and all(_YOLO_LINE.match(line) for line in lines):
        return "yolo labels", ""
    return "", ""


def _yaml_kind(path: str) -> Tuple[str, str]:
    try:
        content = yaml.safe_load(_text(path, 1 << 20))
    except (yaml.YAMLError, ValueError):
        return "", ""
    if isinstance(content, dict) and {"names", "nc"} & set(content) and {"train", "val"} & set(content):
        return "yolo", "has train, val and names"
    return "", ""


_KINDS = {".json": _json_kind, ".xml": _xml_kind, ".txt": _txt_kind, ".yaml": _yaml_kind, ".yml": _yaml_kind}


def _nothing(folder: str, labels: List[str], only: str) -> str:
    """The line for a folder without a known format."""
    if labels and only in ("", "yolo"):
        return (
            f"{one_line(folder)}: {_shown(folder, labels[0])} is a label file of YOLO, but there is no data.yaml: "
            f"write one with the lines `train: FOLDER OF THE IMAGES` and `names: [first class, second class]`"
        )
    pictures = len(files_below(folder, IMAGE_ENDINGS))
    what = f"{pictures} pictures but no annotations" if pictures else "neither pictures nor annotations"
    kinds = _NAMES[only] if only else "COCO, VOC, YOLO, LabelMe, CVAT, Label Studio, or a list file"
    todo = "label the pictures, and export the labels" if pictures else "give the folder that holds both"
    return f"{one_line(folder)} holds {what} that can be recognised ({kinds}); {todo}"


def split_of(path: str) -> str:
    """train, val or test, where a word of a relative path says so; the last one counts. "" without one."""
    words = re.split(r"[^a-z]+", path.lower())
    for word in reversed(words):
        for split, names in _SPLITS.items():
            if word in names:
                return split
    return ""


def _parts(folder: str, dataset: str, paths: List[str]) -> List[Part]:
    """The parts of a set: train and val, or those without a split.

    Raises:
        UserError: files that cannot belong to one set.
    """
    if dataset == "coco" and len(paths) > 1:  # COCO's archives hold other tasks too
        paths = [path for path in paths if os.path.basename(path).startswith("instances")] or paths
    by_split: Dict[str, List[str]] = {}
    for path in paths:
        by_split.setdefault(split_of(os.path.relpath(path, folder)), []).append(path)
    per_picture = dataset in ("labelme", "voc")
    if not per_picture:
        for group in by_split.values():
            if len(group) > 1:
                few = ", ".join(_shown(folder, path) for path in group[:4])
                raise UserError(
                    f"{one_line(folder)} holds {len(group)} annotation files that may be the one to use: {few}; keep "
                    f"one of them in the folder (or one for train and one for val, named so)"
                )
    second = _second(by_split)
    if "train" in by_split and second and (per_picture or "" not in by_split):
        named = {"train": by_split["train"], "val": by_split[second]}
        return [Part(name, path) for name, of_name in named.items() for path in of_name]
    if not per_picture and len(paths) > 1:
        few = ", ".join(_shown(folder, path) for path in paths[:4])
        raise UserError(
            f"{one_line(folder)} holds several annotation files: {few}; keep one of them in the folder, or one for "
            f"train and one for val, named so"
        )
    return [Part("", path) for path in paths]


def _second(by_split: Dict[str, List[str]]) -> Optional[str]:
    return next((name for name in ("val", "test") if name in by_split), None)
