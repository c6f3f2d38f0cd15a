"""Check of a data set: all issues that conversion would report, and statistics of its boxes."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from typing import List, NamedTuple, Optional, Sequence

import numpy as np

from src.data.images import decode_rgb, exif_orientation, flaw, has_16_bits, read_header
from src.data.inspect.anchors import suggest_anchors
from src.data.inspect.copies import note_copies, note_shared
from src.data.inspect.near_copies import note_near_copies
from src.data.inspect.statistics import best_iou, class_rows, normalized_boxes, shape_figures
from src.data.readers import READERS, note_without_boxes
from src.data.readers.doubts import note_doubts, note_images
from src.data.readers.locate import missing_images
from src.data.records import missing_evaluation_set
from src.data.sample import DataSet, Sample, clip_to_image
from src.utils.errors import UserError
from src.utils.log import progress


class _Split(NamedTuple):
    """A split as read: `usable` are the samples whose image can be read; if there is no data, `reason` says why, and
    `refused` whether that is an error."""

    name: str
    data: Optional[DataSet]
    usable: List[Sample]
    reason: str = ""
    refused: bool = True


def check_splits(cfg, names: Sequence[str], decode: bool, suggest: bool = False) -> List[dict]:
    """`check_split` of "train" and "val", and a comparison of both: shared images, classes that one of them lacks.

    Results of the comparison are among the faults of "val". With `suggest` the report of a training split has
    "anchors": the covers of `src.data.inspect.anchors.suggest_anchors`, where the configuration has such default boxes.
    """
    splits = {name: _read(cfg, name == "train", decode) for name in names}
    missing = missing_evaluation_set(cfg) if "train" in splits and "val" in splits else ""
    if missing:  # training does not need it
        reason = f"there is no evaluation set, which eval.py and run_eval need: {missing} does not exist"
        splits["val"] = _Split("val", None, [], reason, refused=False)
    train, val = splits.get("train"), splits.get("val")
    if train and val and train.data and val.data:
        note_shared(train.usable, val.usable, cfg.classes, val.data.issues, cfg.num_parallel_workers)
        note_near_copies(train.usable, val.usable, val.data.issues, cfg.num_parallel_workers, decode)
    return [_report(cfg, split, suggest) for split in splits.values()]


def check_split(cfg, is_training: bool, decode: bool) -> dict:
    """Read a split as a conversion would, without stopping at an error.

    Args:
        decode: decode every image instead of reading its header only (one of 16 bits is decoded in any case).

    Returns:
        {"split", "source", "images", "images_with_boxes", "boxes", "crowded", "image_sizes", "boxes_an_image",
        "classes": [...], "size", "sizes", "aspect", "uncovered", "faults": [{"kind", "refused", "number", "places"}]}.
        If nothing can be read there are only "split" and "faults".
    """
    return _report(cfg, _read(cfg, is_training, decode))


def _read(cfg, is_training: bool, decode: bool) -> _Split:
    name = "train" if is_training else "val"
    try:
        data = READERS[cfg.dataset](cfg, is_training)
    except UserError as error:
        return _Split(name, None, [], str(error))
    if not data.samples:
        data.issues.error("set holds no image", data.where)
    if is_training:
        note_without_boxes(data.samples, data.issues, cfg.negative_images)
    usable = _look_at_images(cfg, data, decode)
    note_images(usable, data.issues)
    note_copies(usable, data.issues, cfg.num_parallel_workers)
    return _Split(name, data, usable)


def _report(cfg, split: _Split, suggest: bool = False) -> dict:
    data = split.data
    if data is None:
        fault = {"kind": split.reason, "refused": split.refused, "number": 1, "places": []}
        return {"split": split.name, "faults": [fault]}
    boxed = [sample for sample in split.usable if len(sample.boxes)]
    boxes = normalized_boxes(boxed)
    images = np.repeat(np.arange(len(boxed)), [len(sample.boxes) for sample in boxed])
    covered = best_iou(boxes[:, :4], cfg) > cfg.match_threshold
    trained = len(split.usable if cfg.negative_images else boxed)
    if split.name == "train" and not trained // (cfg.batch_size * cfg.device_num):
        data.issues.error(
            "batch is larger than the data set",
            f"{trained} images / ({cfg.batch_size} x {cfg.device_num}) = 0 steps per epoch",
        )
    report = {
        "split": split.name,
        "source": data.where,
        "images": len(data.samples),
        "images_with_boxes": len(boxed),
        "boxes": len(boxes),
        "image_sizes": _image_sizes(split.usable),
        "most_boxes_an_image": int(np.bincount(images).max()) if len(images) else 0,
        "classes": class_rows(boxes, images, ~covered, cfg.classes),
        "match_threshold": cfg.match_threshold,
        "uncovered": float((~covered).mean()) if len(boxes) else None,
    }
    if suggest and split.name == "train" and cfg.use_anchor_generator and len(boxes):
        report["anchors"] = suggest_anchors(boxes, cfg)
    report.update(shape_figures(boxes, cfg.img_shape))
    report["faults"] = [vars(fault) for fault in data.issues.all()]
    return report


def _image_sizes(samples: list) -> dict:
    if not samples:
        return {}
    sizes = np.array([(sample.width, sample.height) for sample in samples])
    small, large = sizes[np.argmin(sizes.prod(1))], sizes[np.argmax(sizes.prod(1))]
    return {"smallest": small.tolist(), "largest": large.tolist()}


def _look(sample: Sample, decode: bool) -> tuple:
    """((height, width), orientation, why it cannot be used or "", what is odd about its pixels or "")."""
    try:
        header, deep = _header(sample.path)
        if header and not decode and not deep:
            return (*header, "", "")
        with open(sample.path, "rb") as handle:
            content = handle.read()
        pixels = decode_rgb(content)
        return pixels.shape[:2], exif_orientation(content), "", flaw(pixels, deep)
    except OSError as error:
        return (0, 0), 1, error.strerror or str(error), ""
    except ValueError as error:
        return (0, 0), 1, str(error), ""


def _header(path: str) -> tuple:
    """(`read_header`, whether it has 16 bits); (None, False) if only decoding can find out what is wrong."""
    try:
        return read_header(path), has_16_bits(path)
    except ValueError:
        return None, False


def _look_at_images(cfg, data: DataSet, decode: bool) -> List[Sample]:
    """The samples whose image can be read, with the size of the file and boxes clipped to it."""
    issues = data.issues
    _note_missing(data)
    present = [sample for sample in data.samples if os.path.isfile(sample.path)]
    usable, annotated, broken = [], [], []
    with ThreadPoolExecutor(max(cfg.num_parallel_workers, 1)) as pool, progress(len(present), "checking") as bar:
        looks = pool.map(lambda sample: _look(sample, decode), present)
        for sample, (size, orientation, reason, odd) in zip(present, looks):
            bar.update()
            if reason:
                broken.append(f"{sample.path} ({reason})")
                continue
            if odd:
                issues.warn(odd, sample.path)
            annotated.append(dataclasses.replace(sample, height=size[0], width=size[1]))
            clip_to_image(sample, size, orientation, issues)
            sample.height, sample.width = size
            usable.append(sample)
    note_doubts(annotated, data.form, issues)
    note = issues.error if len(broken) > cfg.max_bad_images else issues.warn
    for image in broken:
        note(f"images are broken (max_bad_images is {cfg.max_bad_images})", image)
    return usable


def _note_missing(data: DataSet) -> None:
    missing, hint = missing_images(data)
    for number, path in enumerate(missing):
        data.issues.error("images are missing", path + (f" ({hint})" if hint and number == 0 else ""))
