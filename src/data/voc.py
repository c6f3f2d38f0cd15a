"""Pascal VOC folders: one XML an image, corners minus 1 (SPEC section 7)."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree

from src.config import data_file
from src.data.sample import DataSet, Faults, Sample, boxes_array, clip_boxes
from src.errors import UserError
from src.log import LOGGER

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


def _corner(box, key: str, path: str) -> int:
    try:
        value = float(box.findtext(key, "").strip())
    except ValueError:
        value = math.nan
    if not abs(value) < 1e9:
        raise UserError(f"{path}: <{key}> must be a number, got {box.findtext(key)!r}")
    return int(value) - 1


def _parse(path: str, classes: list, faults: Faults) -> tuple:
    """(file name or "", width, height, rows) of one XML file. Only direct objects count, not their parts."""
    try:
        tree = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not valid XML: {error}") from None
    sizes = []
    for key in ("width", "height"):
        text = (tree.findtext(f"size/{key}") or "").strip()
        sizes.append(int(text) if text.isdigit() else 0)
    rows = []
    for thing in tree.findall("object"):
        name, box = (thing.findtext("name") or "").strip(), thing.find("bndbox")
        if box is None:
            raise UserError(f"{path}: object '{name}' has no <bndbox>")
        if name not in classes[1:]:
            faults.add("objects of a class that 'classes' does not list (dropped), names", name)
            continue
        x1, y1, x2, y2 = (_corner(box, key, path) for key in ("xmin", "ymin", "xmax", "ymax"))
        if x2 < x1 or y2 < y1:
            faults.add("files with reversed corners (swapped)", os.path.basename(path))
        # 0-based files give -1 by the rule "minus 1": at the edge of the image
        rows.append((max(min(y1, y2), 0), max(min(x1, x2), 0), max(y1, y2), max(x1, x2), classes.index(name)))
    return (tree.findtext("filename") or "").strip(), sizes[0], sizes[1], rows


def read_voc(cfg, is_training: bool) -> DataSet:
    """Samples of `voc_root`. An image named by a number has that id, the others a counter above them."""
    image_dir, annotation_dir = _folders(data_file(cfg, cfg.voc_root), is_training)
    images = {
        name: os.path.join(image_dir, name)
        for name in sorted(os.listdir(image_dir))
        if name.lower().endswith(IMAGE_ENDINGS)
    }
    by_stem = {}
    for name, path in images.items():
        by_stem.setdefault(os.path.splitext(name)[0], path)
    files = sorted(name for name in os.listdir(annotation_dir) if name.lower().endswith(".xml"))
    if not files:
        raise UserError(f"voc_root: no XML file in {annotation_dir}")
    faults, found, lost = Faults(), [], []
    for name in files:
        path, stem = os.path.join(annotation_dir, name), os.path.splitext(name)[0]
        said, width, height, rows = _parse(path, list(cfg.classes), faults)
        said = os.path.basename(said.replace("\\", "/"))
        # the XML's own name decides when <filename> has no ending, a path, or names another image
        image = by_stem.get(stem) or images.get(said) or by_stem.get(said)
        if image is None:
            lost.append(name)
            continue
        found.append((image, width, height, clip_boxes(boxes_array(rows), height, width, faults, name)))
    if lost:
        raise UserError(f"voc_root: {len(lost)} annotation files have no image in {image_dir}: {', '.join(lost[:5])}")
    for line in faults.lines():
        LOGGER.warning("%s: %s", annotation_dir, line)
    stems = [os.path.splitext(os.path.basename(image))[0] for image, _, _, _ in found]
    numbers = [int(stem) if stem.isdigit() and stem.isascii() else None for stem in stems]
    numbers = [number if numbers.count(number) == 1 else None for number in numbers]
    taken, counter, samples = {number for number in numbers if number is not None}, 0, []
    for number, (image, width, height, boxes) in zip(numbers, found):
        if number is None:
            while counter in taken:
                counter += 1
            number, counter = counter, counter + 1
        if len(boxes) or not is_training:
            samples.append(Sample(number, os.path.abspath(image), boxes, width, height))
    return DataSet(samples, [os.path.join(annotation_dir, name) for name in files])
