"""Reading of a recognised set: samples with the sizes of their files, and the classes that have boxes."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple, Sequence, Tuple

from easydict import EasyDict

from src.config import load_config
from src.config.yaml_file import read_documents
from src.data.images import read_size
from src.data.issues import Issues
from src.data.readers import READERS
from src.data.readers.coco import repair_coco
from src.data.readers.doubts import note_doubts
from src.data.readers.find_images import files_below
from src.data.readers.locate import IMAGE_ENDINGS, on_disk
from src.data.readers.text_file import read_lines
from src.data.readers.voc import read_voc_folders
from src.data.records.prepare import check_images_exist
from src.data.sample import DataSet, Sample, clip_to_image
from src.start.classes import class_names
from src.start.recognise import Found, Part, split_of
from src.utils.errors import UserError
from src.utils.text import one_line

_TRIED = 50


class Pictures(NamedTuple):
    """A set as read.

    parts: "train" and "val", or "" for one without a split -> samples; classes: with the background; absent: classes
    of the format without a box; sources: annotation files; rows: COCO only, path of an image -> its annotations as the
    file has them; notes: repaired problems, a line for each kind.
    """

    parts: Dict[str, List[Sample]]
    classes: List[str]
    absent: List[str]
    sources: List[str]
    rows: Dict[str, List[dict]]
    notes: List[str]

    @property
    def samples(self) -> List[Sample]:
        return [sample for of_part in self.parts.values() for sample in of_part]


def read_pictures(found: Found, folder: str, only: Sequence[str] = ()) -> Pictures:
    """Read a recognised set.

    Args:
        folder: of the set, absolute. only: names of the classes to train; empty means all.

    Raises:
        UserError: annotations or images that cannot be used, with the first places; no box at all.
    """
    names = class_names(found)
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UserError(f"--classes: {unknown[0]} is not a class of the set ({', '.join(names)[:300]})")
    names = [name for name in names if name != "background"]
    data = [(name, one) for part in found.parts for name, one in _read(found, part, folder, names)]
    notes = []
    for _, one in data:
        one.issues.raise_errors(one.where)
        check_images_exist(one)
        _measure(one)
        note_doubts(one.samples, one.form, one.issues)
        notes += one.issues.repaired_lines()
    present = {label for _, one in data for sample in one.samples for label in sample.boxes[:, 4].tolist()}
    kept = [name for label, name in enumerate(names, 1) if label in present and (not only or name in only)]
    if not kept:
        raise UserError(f"{data[0][1].where}: no picture has a box; label the objects with boxes first")
    if kept != names:
        data = [(name, one) for part in found.parts for name, one in _read(found, part, folder, kept)]
        for _, one in data:
            _measure(one)
    parts, seen = {}, set()
    for name, one in data:
        for sample in one.samples:
            if sample.path not in seen:  # folders may lie in each other
                seen.add(sample.path)
                parts.setdefault(name, []).append(sample)
    absent = [name for name in names if name not in kept and name not in only]
    sources = sorted({source for _, one in data for source in one.sources if os.path.isfile(source)})
    rows = _coco_rows(data, kept) if found.dataset == "coco" else {}
    return Pictures(parts, ["background", *kept], [] if only else absent, sources, rows, list(dict.fromkeys(notes)))


def _read(found: Found, part: Part, folder: str, names: List[str]) -> List[Tuple[str, DataSet]]:
    """[(train, val or "", data)] of a part."""
    cfg = EasyDict(load_config(["--device_target=CPU"]), dataset=found.dataset, data_path=os.sep, image_dir="")
    cfg.update(classes=["background", *names], num_classes=len(names) + 1, anno_path=part.path, anno_path_val="")
    if found.dataset == "voc":
        return [(part.name, read_voc_folders(_voc_images(part.path), part.path, cfg.classes))]
    if found.dataset == "coco":
        images = _coco_images(part.path, folder)
        cfg.update(coco_root=images, train_data_type=".", instances_set=part.path.replace("{", "{{").replace("}", "}}"))
    elif found.dataset == "other":
        cfg.image_dir = _list_images(part.path, folder)
    elif found.dataset in ("cvat", "labelme"):
        top = part.path if found.dataset == "labelme" else os.path.dirname(part.path)
        cfg.image_dir = "" if files_below(top, IMAGE_ENDINGS) else folder
    elif found.dataset == "label_studio":
        cfg.image_dir = folder
    read = READERS[found.dataset]
    if found.dataset not in ("yolo", "cvat") or part.name:
        return [(part.name, read(cfg, True))]
    return _with_own_split(cfg, read)


def _with_own_split(cfg, read) -> List[Tuple[str, DataSet]]:
    """The splits that one file names itself (YOLO's data.yaml, CVAT's subsets)."""
    if cfg.dataset == "yolo":
        content = _yolo_splits(cfg.anno_path)
        if "train" not in content or "val" not in content:
            is_training = "train" in content
            return [("", read(cfg, is_training))]
    train, val = read(cfg, True), read(cfg, False)
    if {sample.path for sample in train.samples} == {sample.path for sample in val.samples}:
        return [("", train)]
    return [("train", train), ("val", val)]


def _yolo_splits(path: str) -> List[str]:
    content = read_documents(path)[0][0]
    return [name for name in ("train", "val") if content.get(name)]


def _voc_images(annotations: str) -> str:
    """The folder of the images that belong to a folder of XML files: with them, or next to it."""
    parent = os.path.dirname(annotations)
    stems = {os.path.splitext(name)[0] for name in os.listdir(annotations) if name.lower().endswith(".xml")}
    best, most = annotations, 0
    for folder in [annotations, *_folders(parent, os.path.basename(annotations))]:
        names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_ENDINGS)]
        number = sum(os.path.splitext(name)[0] in stems for name in names)
        if number > most:
            best, most = folder, number
    return best


def _folders(parent: str, left_out: str) -> List[str]:
    names = sorted(name for name in os.listdir(parent) if name != left_out and not name.startswith("."))
    paths = [os.path.join(parent, name) for name in names]
    return [parent, *(path for path in paths if os.path.isdir(path))]


def _root_of(names: Sequence[str], top: str, annotations: str) -> str:
    """The folder that most of the relative paths `names` count from, among all folders of a set.

    Of several with as many, one that is named for the same split as the file `annotations` is taken: train and val may
    have pictures of the same names.

    Args:
        top: folder of the set.
    """
    folders = {os.path.dirname(annotations): None, top: None}
    for path in files_below(top, IMAGE_ENDINGS):
        while path != top and len(path) > len(top):
            path = os.path.dirname(path)
            folders[path] = None
    names = list(names)[:_TRIED]
    hits = {root: sum(os.path.isfile(os.path.join(root, on_disk(name))) for name in names) for root in folders}
    split = split_of(os.path.relpath(annotations, top))
    return max(hits, key=lambda root: (hits[root], split_of(os.path.relpath(root, top)) == split))


def _coco_images(path: str, folder: str) -> str:
    rows = repair_coco(path, Issues())["images"]
    step = max(len(rows) // _TRIED, 1)
    return _root_of([row["file_name"] for row in rows[::step]], folder, path)


def _list_images(path: str, folder: str) -> str:
    lines = [line.strip() for line in read_lines(path, "list") if line.strip()]
    names = [line.rsplit(None, line.count(",") // 4)[0] for line in lines[:: max(len(lines) // _TRIED, 1)]]
    return _root_of(names, folder, path)


def _coco_rows(data: list, kept: List[str]) -> Dict[str, List[dict]]:
    """Path of an image -> its annotations as in the file, with the labels of `kept` as categories."""
    rows: Dict[str, List[dict]] = {}
    for _, one in data:
        content = repair_coco(one.annotation_file, Issues())
        labels = {row["id"]: kept.index(row["name"]) + 1 for row in content["categories"] if row["name"] in kept}
        paths = {sample.image_id: sample.path for sample in one.samples}
        for row in content["annotations"]:
            if row["category_id"] in labels and row["image_id"] in paths:
                rows.setdefault(paths[row["image_id"]], []).append(dict(row, category_id=labels[row["category_id"]]))
    return rows


def _measure(data: DataSet) -> None:
    """Give all samples the sizes of their files, and clip their boxes.

    Raises:
        UserError: images that cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        looks = list(pool.map(lambda sample: _size(sample.path), data.samples))
    broken = []
    for sample, (size, orientation, reason) in zip(data.samples, looks):
        if reason:
            broken.append(f"{sample.path} ({reason})")
            continue
        clip_to_image(dataclasses.replace(sample), size, orientation, data.issues)
        sample.height, sample.width = size
        sample.clip(*size)
    if broken:
        raise UserError(
            f"{data.where}: {len(broken)} of {len(data.samples)} pictures cannot be read: "
            f"{one_line(', '.join(broken[:3]))}; repair them, or remove them and their annotations"
        )


def _size(path: str) -> tuple:
    try:
        return (*read_size(path), "")
    except OSError as error:
        return (0, 0), 1, error.strerror or str(error)
    except ValueError as error:
        return (0, 0), 1, str(error)
