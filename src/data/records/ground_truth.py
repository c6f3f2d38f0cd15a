"""The COCO-style annotation file that an evaluation compares with.

COCO data has one. For VOC and list files the conversion writes one next to the records, so that it belongs to them. A
file that the user gives as `voc_json` replaces it if it describes the same images and classes.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import List, Optional

from src.config import data_file, voc_json_paths
from src.data.sample import DataSet
from src.utils.log import LOGGER, warn_once
from src.utils.output import OutputError, write_json

MARK = "written by SSD for MindSpore at conversion"


def _read(path: str) -> Optional[dict]:
    with contextlib.suppress(OSError, ValueError, RecursionError), open(path, "rb") as handle:
        content = json.loads(handle.read())  # bytes: json detects the encoding
        return content if isinstance(content, dict) else None
    return None


def given_annotation_files(cfg) -> List[str]:
    """Files at `voc_json` that no conversion of this program wrote."""
    if cfg.dataset != "voc":
        return []
    found = [path for path in voc_json_paths(cfg) if os.path.isfile(path)]
    return [path for path in found if not _is_marked(_read(path))]


def _is_marked(content: Optional[dict]) -> bool:
    info = (content or {}).get("info")
    return isinstance(info, dict) and info.get("description") == MARK


def annotation_file_for(cfg, data: Optional[DataSet], prefix: str) -> str:
    """Path of the annotation file of evaluation records.

    Args:
        data: the data set that is converted; None for records of another program, whose file must exist already. Its
            images get the ids of a `voc_json` that is used.
        prefix: of the records.

    Raises:
        UserError: `voc_json` was given, and describes other images or classes.
    """
    if cfg.dataset == "coco":
        return os.path.join(data_file(cfg, cfg.coco_root), cfg.instances_set.format(cfg.val_data_type))
    for path in given_annotation_files(cfg):
        ids, reason = _fit(_read(path), data, cfg) if data is not None else ([], "")
        if not reason:
            for sample, image_id in zip(data.samples if data is not None else (), ids):
                sample.image_id = image_id
            LOGGER.info("voc_json: evaluation uses the ground truth of %s", path)
            return path
        warn_once(f"voc_json: {path} is not used: {reason}")
    written = prefix + "_instances.json"
    if data is not None or os.path.exists(written):
        return written
    return voc_json_paths(cfg)[0] if cfg.dataset == "voc" else written


def copy_to_voc_json(cfg, annotation_file: Optional[str]) -> None:
    """Leave a copy of a written annotation file at `voc_json` below `voc_root`, as the published scripts did.

    It is not read again; a user's file at that path is kept.
    """
    target = voc_json_paths(cfg)[0]
    content = _read(annotation_file) if cfg.dataset == "voc" and annotation_file else None
    if _is_marked(content) and (not os.path.exists(target) or _is_marked(_read(target))):
        with contextlib.suppress(OutputError):  # a read-only data set
            write_json(target, content)


def _fit(content: Optional[dict], data: DataSet, cfg) -> tuple:
    """(id of each image in an annotation file, why it does not belong to the data set or "" if it does).

    Images are found by name. The ids are the file's: those of images without a number differ from ours.
    """
    try:
        ids_of = {}
        for row in content["images"]:
            ids_of.setdefault(os.path.basename(row["file_name"].replace("\\", "/")), {})[row["id"]] = None
        names = {row["name"] for row in content["categories"]}
    except (TypeError, KeyError, AttributeError):
        return [], "it is not a COCO-style annotation file"
    for name, image_ids in list(ids_of.items()):  # names without their extension
        ids_of.setdefault(os.path.splitext(name)[0], image_ids)
    names_of_samples = [os.path.basename(sample.path) for sample in data.samples]
    ids = [list(ids_of.get(name) or ids_of.get(os.path.splitext(name)[0], ())) for name in names_of_samples]
    lacking = [sample.path for sample, of_image in zip(data.samples, ids) if not of_image]
    if lacking:
        return [], f"it lacks {len(lacking)} of the {len(data.samples)} images (by name), first {lacking[0]}"
    if any(len(of_image) > 1 for of_image in ids) or len({of_image[0] for of_image in ids}) < len(ids):
        return [], "it has several images with the same name"
    labels = sorted({label for sample in data.samples for label in sample.boxes[:, 4].tolist()})
    absent = [cfg.classes[label] for label in labels if cfg.classes[label] not in names]
    return [of_image[0] for of_image in ids], f"it lacks the class '{absent[0]}'" if absent else ""
