"""Class names of a set before it is read: in the order of the format where it has one, otherwise sorted."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from typing import Iterator, List

from src.config.yaml_file import read_documents
from src.data.issues import Issues
from src.data.readers.find_images import files_below
from src.data.readers.json_file import parse_json, read_json
from src.data.readers.text_file import read_lines
from src.start.recognise import Found
from src.utils.errors import UserError

_NAME_FILES = ("classes.txt", "names.txt", "labels.txt", "obj.names")


def class_names(found: Found) -> List[str]:
    """The names of a set's classes, without the background; some may have no box.

    Raises:
        UserError: the annotations cannot be read, or name no class.
    """
    names = [name for part in found.parts for name in _NAMES_OF[found.dataset](part.path)]
    names = [name.strip() if found.dataset != "yolo" else name for name in names if name.strip()]
    unique = list(dict.fromkeys(names))
    if not unique:
        raise UserError(f"{found.parts[0].path}: names no class: nothing is labelled; label the pictures first")
    return unique if found.dataset in ("coco", "yolo", "other", "cvat") else sorted(unique)


def _coco(path: str) -> List[str]:
    content = read_json(path, Issues())
    rows = content.get("categories") if isinstance(content, dict) else None
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [row["name"] for row in rows if isinstance(row.get("name"), str)]


def _yolo(path: str) -> List[str]:
    documents, fault = read_documents(path)
    if fault is not None:
        raise fault
    names, number = documents[0].get("names"), documents[0].get("nc")
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=str if not all(isinstance(k, int) for k in names) else None)]
    if isinstance(names, list):
        return [str(name) for name in names]
    return [f"class {index}" for index in range(number)] if isinstance(number, int) and names is None else []


def _list(path: str) -> List[str]:
    """Names from a file next to the list, else numbers: a list holds indices only."""
    most = max((int(label) for line in read_lines(path, "list") for label in re.findall(r",(\d{1,4})(?=\s|$)", line)),
               default=0)  # fmt: skip
    for name in _NAME_FILES:
        listed = os.path.join(os.path.dirname(path), name)
        if os.path.isfile(listed):
            names = [line.strip() for line in read_lines(listed, "class names") if line.strip()]
            names = names[1:] if names[:1] == ["background"] else names
            if len(names) >= most:
                return names
    return [f"class {index}" for index in range(1, most + 1)]


def _labelme(folder: str) -> Iterator[str]:
    for path in files_below(folder, (".json",)):
        try:
            with open(path, "rb") as handle:
                content = parse_json(handle.read(), Issues())
        except (ValueError, OSError):
            continue  # its reader says so
        shapes = content.get("shapes") if isinstance(content, dict) else None
        for shape in shapes if isinstance(shapes, list) else ():
            if isinstance(shape, dict) and isinstance(shape.get("label"), str):
                yield shape["label"]


def _xml(path: str):
    try:
        with open(path, "rb") as handle:
            data = handle.read()
        return None if b"<!ENTITY" in data.replace(b"\0", b"") else ElementTree.fromstring(data)
    except (OSError, ValueError, LookupError, ElementTree.ParseError):
        return None  # its reader says so


def _voc(folder: str) -> Iterator[str]:
    for path in files_below(folder, (".xml",)):
        top = _xml(path)
        for entry in top.findall("object/name") if top is not None else ():
            yield (entry.text or "").strip()


def _cvat(path: str) -> List[str]:
    """Names in the order of the file's `<labels>`, then those of its shapes, sorted."""
    top = _xml(path)
    if top is None:
        return []
    listed = [(entry.text or "").strip() for entry in top.findall("meta//labels/label/name")]
    used = {shape.get("label", "").strip() for kind in ("box", "polygon") for shape in top.iter(kind)}
    return listed + sorted(used - set(listed))


def _label_studio(path: str) -> Iterator[str]:
    def within(value) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("rectanglelabels", "polygonlabels", "labels") and isinstance(inner, list):
                    yield from (name for name in inner if isinstance(name, str))
                elif key != "predictions":
                    yield from within(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from within(inner)

    yield from within(read_json(path, Issues()))


_NAMES_OF = {
    "coco": _coco,
    "voc": _voc,
    "other": _list,
    "yolo": _yolo,
    "labelme": _labelme,
    "cvat": _cvat,
    "label_studio": _label_studio,
}
