"""Pascal VOC folders: one XML an image, corners minus 1 (SPEC section 7)."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter

from src.config import data_file
from src.data.sample import DataSet, Faults, Sample, boxes_array, clip_boxes, note_absent_classes
from src.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def _folders(root: str, is_training: bool) -> tuple:
    """(images, annotations) of a split: `root/train` or `root/eval`, each with both folders or both together."""
    part = os.path.join(root, "train" if is_training else "eval")
    if not os.path.isdir(part):
        raise UserError(f"voc_root: no such folder: {part}")
    images, annotations = os.path.join(part, "Images"), os.path.join(part, "Annotations")
    if os.path.isdir(images) and os.path.isdir(annotations):
        return images, annotations
    return part, part


def _corner(box, key: str) -> float:
    """A corner minus 1, the fraction cut off; NaN where it is no number."""
    try:
        value = float((box.findtext(key) or "").strip())
    except ValueError:
        return math.nan
    return int(value) - 1 if abs(value) < 1e9 else math.nan


def _parse(path: str, places: dict, faults: Faults) -> tuple:
    """(file name or "", width, height, rows) of one XML file, None where it is none.

    Only direct objects count: a `<part>` of an object has a box of its own.
    """
    name = os.path.basename(path)
    try:
        tree = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        faults.refuse("files are not valid XML", f"{name}: {error}")
        return None
    except OSError as error:
        faults.refuse("files cannot be read", f"{name}: {error.strerror}")
        return None
    width, height = (_side(tree.findtext(f"size/{key}")) for key in ("width", "height"))
    rows = []
    for thing in tree.findall("object"):
        what, box = (thing.findtext("name") or "").strip(), thing.find("bndbox")
        if what not in places:
            faults.repair("objects of a class that 'classes' does not list (dropped)", f"{what} in {name}")
            continue
        corners = [math.nan] if box is None else [_corner(box, key) for key in ("xmin", "ymin", "xmax", "ymax")]
        if any(math.isnan(corner) for corner in corners):
            faults.refuse("objects have no <bndbox> of four numbers xmin, ymin, xmax, ymax", f"{what} in {name}")
            continue
        x1, y1, x2, y2 = corners
        if x2 < x1 or y2 < y1:
            faults.repair("boxes with reversed corners (swapped)", name)
        if min(corners) == -1:
            faults.repair("boxes with a corner 0 (0-based file: clipped to the edge)", name)
        rows.append((min(y1, y2), min(x1, x2), max(y1, y2), max(x1, x2), places[what]))
    return (tree.findtext("filename") or "").strip(), width, height, rows


def _side(text) -> int:
    """An annotated height or width, 0 where the file gives none."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _image_finder(folder: str):
    """(XML's stem, its <filename>) -> path of the image or None.

    The XML's own name decides: <filename> may lack its ending, hold a path, or name another image.
    """
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(IMAGE_ENDINGS))
    by_stem = {}
    for name in names:
        by_stem.setdefault(os.path.splitext(name)[0], []).append(name)
    known = set(names)

    def find(stem: str, said: str):
        said = os.path.basename(said.replace("\\", "/"))
        own = by_stem.get(stem, [])
        if own:
            return os.path.join(folder, said if said in own else own[0])
        if said in known:
            return os.path.join(folder, said)
        return os.path.join(folder, by_stem[said][0]) if said in by_stem else None

    return find, names


def read_voc(cfg, is_training: bool) -> DataSet:
    """Samples of `voc_root`. An image named by a number has that id, the others a counter beside them."""
    image_dir, annotation_dir = _folders(data_file(cfg, cfg.voc_root), is_training)
    find, names = _image_finder(image_dir)
    files = sorted(name for name in os.listdir(annotation_dir) if name.lower().endswith(".xml"))
    if not files:
        raise UserError(f"voc_root: no XML file in {annotation_dir}")
    places = {name: place for place, name in enumerate(cfg.classes) if place > 0}
    faults, found, owners = Faults(), [], {}
    for name in files:
        content = _parse(os.path.join(annotation_dir, name), places, faults)
        if content is None:
            continue
        said, width, height, rows = content
        image = find(os.path.splitext(name)[0], said)
        if image is None:
            faults.refuse(f"annotation files have no image in {image_dir}", name)
            continue
        if image in owners:
            faults.refuse("images have two annotation files", f"{os.path.basename(image)}: {owners[image]}, {name}")
            continue
        owners[image] = name
        boxes, _, empty = clip_boxes(boxes_array(rows), 0, 0)
        if empty:
            faults.repair("files with boxes of no area (dropped)", name)
        found.append((image, width, height, boxes))
    for name in names:
        if os.path.join(image_dir, name) not in owners:
            faults.repair("images have no annotation file (left out)", name)
    samples = [
        Sample(own, os.path.abspath(image), boxes, width, height)
        for own, (image, width, height, boxes) in zip(_ids([image for image, _, _, _ in found]), found)
    ]
    note_absent_classes(samples, cfg.classes, faults)
    return DataSet(samples, [os.path.join(annotation_dir, name) for name in files], annotation_dir, faults)


def _ids(images: list) -> list:
    """An id for each image: its name where that is a number of its own, else the next free number from 0."""
    stems = [os.path.splitext(os.path.basename(image))[0] for image in images]
    # up to 15 digits: a longer name is a time stamp or a hash, and JSON readers lose its last digits
    numbers = [int(stem) if stem.isascii() and stem.isdigit() and len(stem) < 16 else None for stem in stems]
    uses = Counter(numbers)
    taken, counter, ids = {number for number in numbers if uses[number] == 1}, 0, []
    for number in numbers:
        if number is None or uses[number] > 1:
            while counter in taken:
                counter += 1
            number, counter = counter, counter + 1
        ids.append(number)
    return ids
