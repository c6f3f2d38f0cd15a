"""YOLO sets: a data.yaml (Ultralytics), and a text file per image with `class cx cy w h` in fractions of the image."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from src.config.yaml_file import read_documents
from src.data.images import read_size
from src.data.issues import Issues
from src.data.readers.doubts import BEYOND_IMAGE, CORNERS, alike
from src.data.readers.find_images import ImageFinder, files_below, ids_by_name
from src.data.readers.locate import IMAGE_ENDINGS, on_disk
from src.data.readers.shapes import annotation_source, box_around, number
from src.data.readers.text_file import read_lines
from src.data.sample import DataSet, Sample, boxes_array, note_absent_classes
from src.utils.errors import UserError
from src.utils.text import escape_surrogates, one_line

_OTHER_ENDINGS = (".webp", ".gif", ".heic", ".avif", ".jfif", ".dng", ".mpo", ".pfm")
_TOLERANCE = 0.01
"""Fractions may leave the range from 0 to 1 by this much: rounding, and boxes that were cut a little too late."""
_SEGMENT = 7  # numbers of the shortest polygon, class included


class _Set(NamedTuple):
    """A data.yaml: its path, the folder that its paths count from, its content, and its class names."""

    path: str
    root: str
    content: dict
    names: Optional[Dict[int, str]]


def read_yolo(cfg, is_training: bool) -> DataSet:
    """Samples of the entry `train` or `val` of the data.yaml `anno_path` (evaluation: `anno_path_val`, if set)."""
    issues = Issues()
    source = _open(cfg, is_training, issues)
    labels = _labels(source, cfg.classes, issues)
    split = "train" if is_training else "val"
    images, sources = _images(source, split, issues)
    if not images:
        raise UserError(f"{source.path}: {split}: no image in {one_line(', '.join(sources))[:300]}")
    files = [_label_file(image) for image in images]
    if not any(files):
        raise UserError(
            f"{source.path}: {split}: none of the {len(images)} images has a label file (expected for the first: "
            f"{_label_path(images[0])})"
        )
    known = source.names or labels
    rows = [_rows(path, known, issues) if path else [] for path in files]
    for image, path in zip(images, files):
        if path is None:
            issues.warn("images have no label file (taken as images without objects)", image)
    sizes = _sizes(images, rows, cfg.num_parallel_workers)
    samples, broken = [], []
    for image, path, of_image, size in zip(images, files, rows, sizes):
        if isinstance(size, str):
            broken.append((image, size))
            continue
        samples.append(_sample(image, path, of_image, size, source, labels, issues))
    note = issues.error if len(broken) > cfg.max_bad_images else issues.warn
    for image, reason in broken:
        note(f"images are broken (max_bad_images is {cfg.max_bad_images})", f"{image} ({reason})")
    of_images = [path for path in files if path]
    _note_orphans(images, of_images, issues)
    for sample, image_id in zip(samples, ids_by_name([sample.path for sample in samples])):
        sample.image_id = image_id
    note_absent_classes(samples, cfg.classes, issues)
    sources += [source.path, *of_images, *sorted({os.path.dirname(path) for path in of_images})]
    sources += [image for image, _ in broken if os.access(image, os.R_OK)]  # so that a repaired one is noticed
    return DataSet(samples, sources, source.path, issues, form="cxcywh")


def missing_split(cfg, is_training: bool) -> str:
    """What is missing of a split: its entry in the data.yaml, or the folder or list that this names; "" if nothing is,
    and if the data.yaml cannot be used at all."""
    split = "train" if is_training else "val"
    try:
        source = _open(cfg, is_training, Issues())
    except UserError:
        return ""
    if not source.content.get(split):
        return f"the entry '{split}' of {source.path}"
    try:
        entries = _entries(source, split)
    except UserError:
        return ""
    return next((entry for entry in entries if not _find(source, split, entry, Issues())), "")


def _open(cfg, is_training: bool, issues: Issues) -> _Set:
    key, path = annotation_source(cfg, is_training, "a data.yaml with train, val and names")
    if os.path.isdir(path):
        path = os.path.join(path, "data.yaml")
        if not os.path.isfile(path):
            raise UserError(f"{key}: no such file: {path} (dataset 'yolo' needs a data.yaml with train, val and names)")
    documents, fault = read_documents(path)
    if fault is not None:
        raise fault
    content = documents[0]
    return _Set(path, _root(path, content, issues), content, _names(path, content))


def _root(path: str, content: dict, issues: Issues) -> str:
    """The folder that the paths of a data.yaml count from: `path` if it is there, else the folder of the file."""
    folder, given = os.path.dirname(path), content.get("path")
    if given is None or given == "":
        return folder
    if not isinstance(given, str):
        raise UserError(f"{path}: path must be a folder, got {one_line(given)[:80]}")
    root = os.path.normpath(os.path.join(folder, given))
    if os.path.isdir(root):
        return root
    issues.warn("times 'path' is not on this machine (paths count from the folder of the file)", f"{given} in {path}")
    return folder


def _names(path: str, content: dict) -> Optional[Dict[int, str]]:
    """Class number -> name; None if the file has only `nc`.

    Raises:
        UserError: `names` is no list or mapping of names, or contradicts `nc`.
    """
    names, number_of_classes = content.get("names"), content.get("nc")
    if names is None and isinstance(number_of_classes, int):
        return None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: names must be a list of class names, or lines `0: name`")
    for key, name in names.items():
        if isinstance(key, bool) or not isinstance(key, int) or key < 0:
            raise UserError(f"{path}: names: a class number must be an integer from 0, got {one_line(key)[:60]}")
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise UserError(
                f"{path}: names: class {key} has no name, YAML reads {one_line(name)[:60]}: write it 'in quotes'"
            )
    if isinstance(number_of_classes, int) and number_of_classes != len(names):
        raise UserError(f"{path}: nc is {number_of_classes}, but names has {len(names)} entries")
    return {key: str(name) for key, name in names.items()}


def _labels(source: _Set, classes: Sequence[str], issues: Issues) -> Dict[int, int]:
    """Class number -> label, by name; without names in their order.

    Raises:
        UserError: no class of the file is in `classes`.
    """
    wanted = {name: label for label, name in enumerate(classes) if label > 0}
    if source.names is None:
        if source.content["nc"] != len(wanted):
            raise UserError(
                f"{source.path}: has no names, and nc is {source.content['nc']}, where 'classes' has {len(wanted)}"
            )
        return {number: number + 1 for number in range(len(wanted))}
    labels = {key: wanted[name] for key, name in source.names.items() if name in wanted}
    if not labels:
        few = one_line(", ".join(list(source.names.values())[:5]))[:200]
        raise UserError(f"{source.path}: none of its names ({few}) is in 'classes' ({', '.join(classes[1:6])}, ...)")
    for key, name in source.names.items():
        if key not in labels:
            other = alike(name, list(wanted))
            meant = f" (spelt '{other}' in 'classes')" if other else ""
            issues.warn("names are not in 'classes' (their boxes are dropped)", f"{name}{meant}")
    return labels


def _entries(source: _Set, split: str) -> List[str]:
    """The folders and lists that data.yaml names for a split, as written.

    Raises:
        UserError: the entry is missing or wrong.
    """
    entry = source.content.get(split)
    if entry is None or entry == "" or entry == []:
        raise UserError(f"{source.path}: has no '{split}', the folder or list of the images")
    entries = entry if isinstance(entry, list) else [entry]
    if not all(isinstance(one, str) and one.strip() and "\0" not in one for one in entries):
        raise UserError(f"{source.path}: {split} must be a folder, a text file or a list of them")
    return entries


def _find(source: _Set, split: str, entry: str, issues: Issues) -> str:
    """The absolute path of an entry, "" if nothing is there."""
    folder, plain = os.path.dirname(source.path), entry.replace("\\", "/")
    first = os.path.normpath(os.path.join(source.root, plain))
    if os.path.exists(first):
        return first
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):  # the longest end of the path that exists here
        for root in dict.fromkeys((source.root, folder)):
            path = os.path.normpath(os.path.join(root, *parts[start:]))
            if os.path.exists(path):
                issues.warn("entries of data.yaml were found after a correction of their path", f"{split}: {entry}")
                return path
    return ""


def _images(source: _Set, split: str, issues: Issues) -> Tuple[List[str], List[str]]:
    """(paths of the images of a split, the folders and lists that name them).

    Raises:
        UserError: no such entry, folder or list.
    """
    images, places = [], []
    for entry in _entries(source, split):
        place = _find(source, split, entry, issues)
        if not place:
            raise UserError(
                f"{source.path}: {split}: no such file or folder: {os.path.normpath(os.path.join(source.root, entry))}"
            )
        places.append(place)
        if os.path.isdir(place):
            images += files_below(place, IMAGE_ENDINGS)
            for path in files_below(place, _OTHER_ENDINGS):
                issues.warn("files are of another picture format (left out; JPEG, PNG, BMP and TIFF are read)", path)
            continue
        finder = ImageFinder(source.root, issues)
        for line in filter(None, map(str.strip, read_lines(place, split))):
            near = os.path.join(os.path.dirname(place), on_disk(line))
            images.append(os.path.normpath(near) if os.path.isfile(near) else finder.find(line)[0])
    unique = list(dict.fromkeys(images))
    if len(unique) < len(images):
        issues.warn("times an image is named again (used once)", f"{len(images) - len(unique)} in {split}")
    return unique, places


def _label_path(image: str) -> str:
    """The path of an image's label file: the last folder `images` becomes `labels`, the extension .txt."""
    stem = os.path.splitext(image)[0]
    before, images, after = stem.rpartition(f"{os.sep}images{os.sep}")
    return (f"{before}{os.sep}labels{os.sep}{after}" if images else stem) + ".txt"


def _label_file(image: str) -> Optional[str]:
    """The label file of an image: where Ultralytics looks for it, else next to the image; None if there is none."""
    paths = (_label_path(image), os.path.splitext(image)[0] + ".txt")
    return next((path for path in paths if os.path.isfile(path)), None)


def _note_orphans(images: List[str], files: List[str], issues: Issues) -> None:
    """Note label files without an image in folders that hold label files only."""
    known, folders = set(files), {os.path.dirname(path) for path in files} - {os.path.dirname(path) for path in images}
    for path in (path for folder in sorted(folders) for path in files_below(folder, (".txt",))):
        if path not in known and os.path.basename(path) != "classes.txt":
            issues.warn("label files belong to no image of the split (left out)", path)


def _rows(path: str, known: Dict[int, object], issues: Issues) -> list:
    """[(line number, class number, xs, ys)] of a label file: edges of boxes or points of polygons, in fractions.

    known: its keys are the class numbers of the set.
    """
    try:
        lines = read_lines(path, "label file")
    except UserError as error:
        issues.error("label files cannot be used", str(error))
        return []
    rows = []
    for line_number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        where, values = f"{path}, line {line_number}", [number(word) for word in words]
        if not (len(words) == 5 or len(words) >= _SEGMENT and len(words) % 2):
            issues.error(
                "lines are neither `class cx cy w h` nor a class and the points of a polygon",
                f"{where}: {len(words)} numbers",
            )
        elif values[0] not in known:  # 1.0 is 1
            issues.error(
                f"lines have a class that is not in {min(known)}..{max(known)}", f"{where}: class {words[0][:20]}"
            )
        elif not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values[1:]):
            issues.error(
                "lines have numbers that are no fractions of the image (0 to 1)", f"{where}: {' '.join(words[1:])[:60]}"
            )
        elif len(words) == 5:
            x, y, width, height = values[1:]
            beyond = min(x - width / 2, y - height / 2, 1 - x - width / 2, 1 - y - height / 2) < -BEYOND_IMAGE
            if beyond and width > x and height > y:
                issues.warn(f"boxes leave their image by more than {BEYOND_IMAGE:.0%}, {CORNERS}", where)
            edges = (x - width / 2, x + width / 2), (y - height / 2, y + height / 2)
            rows.append((line_number, int(values[0]), *edges))
        else:
            rows.append((line_number, int(values[0]), values[1::2], values[2::2]))
    return rows


def _sizes(images: List[str], rows: List[list], workers: int) -> list:
    """(height, width) of each image with boxes, (0, 0) of the others and of missing ones, or why one is broken."""
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        return list(pool.map(lambda job: _size(job[0]) if job[1] else (0, 0), zip(images, rows)))


def _size(path: str):
    try:
        return read_size(path)[0]
    except FileNotFoundError:
        return 0, 0
    except ValueError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def _sample(image: str, path, rows: list, size: tuple, source: _Set, labels: dict, issues: Issues) -> Sample:
    height, width = size
    boxes = []
    for line_number, key, xs, ys in rows if height else ():
        if key not in labels:
            continue
        box = box_around([x * width for x in xs], [y * height for y in ys], labels[key])
        if box[2] <= box[0] or box[3] <= box[1]:
            issues.warn("boxes of zero area (dropped)", f"{path}, line {line_number}")
        else:
            boxes.append(box)
    inside = os.path.relpath(image, source.root)
    name = image if inside.startswith(os.pardir + os.sep) else inside
    sample = Sample(0, image, boxes_array(boxes), width, height, escape_surrogates(name))
    sample.clip(0, 0)
    return sample
