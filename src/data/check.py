"""A data set's own check: what conversion would say, all of it at once, and figures of its boxes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from src.data.annotations import READERS
from src.data.images import decode_rgb, exif_orientation, read_header
from src.data.sample import Faults, Sample, fit_to_file
from src.data.statistics import best_iou, class_rows, normalized_boxes, shape_figures
from src.errors import UserError
from src.log import progress


def check_split(cfg, is_training: bool, decode: bool) -> dict:
    """Read a split as a conversion would, without stopping at a fault.

    Args:
        decode: decode every image instead of reading its header only.

    Returns:
        {"split", "source", "images", "images_with_boxes", "boxes", "crowded", "image_sizes", "boxes_an_image",
        "classes": [...], "size", "sizes", "aspect", "uncovered", "faults": [{"kind", "refused", "number", "places"}]}.
        Where nothing can be read there are only "split" and "faults".
    """
    split = "train" if is_training else "val"
    try:
        data = READERS[cfg.dataset](cfg, is_training)
    except UserError as error:
        return {"split": split, "faults": [{"kind": str(error), "refused": True, "number": 1, "places": []}]}
    usable = _look_at_images(cfg, data.samples, data.faults, decode)
    boxed = [sample for sample in usable if len(sample.boxes)]
    boxes = normalized_boxes(boxed)
    images = np.repeat(np.arange(len(boxed)), [len(sample.boxes) for sample in boxed])
    covered = best_iou(boxes[:, :4], cfg) > cfg.match_threshold
    if is_training:
        steps = len(boxed) // (cfg.batch_size * cfg.device_num)
        if not steps:
            data.faults.refuse(
                "batch is larger than the data set",
                f"{len(boxed)} images / ({cfg.batch_size} x {cfg.device_num}) = 0 steps an epoch",
            )
    report = {
        "split": split,
        "source": data.where,
        "images": len(data.samples),
        "images_with_boxes": len(boxed),
        "boxes": len(boxes),
        "image_sizes": _image_sizes(usable),
        "most_boxes_an_image": int(np.bincount(images).max()) if len(images) else 0,
        "classes": class_rows(boxes, images, ~covered, cfg.classes),
        "match_threshold": cfg.match_threshold,
        "uncovered": float((~covered).mean()) if len(boxes) else None,
    }
    report.update(shape_figures(boxes, cfg.img_shape))
    report["faults"] = [vars(fault) for fault in data.faults.all()]
    return report


def _image_sizes(samples: list) -> dict:
    if not samples:
        return {}
    sizes = np.array([(sample.width, sample.height) for sample in samples])
    small, large = sizes[np.argmin(sizes.prod(1))], sizes[np.argmax(sizes.prod(1))]
    return {"smallest": small.tolist(), "largest": large.tolist()}


def _look(sample: Sample, decode: bool) -> tuple:
    """((height, width), orientation, reason it cannot be used or "")."""
    try:
        if not decode:
            return (*read_header(sample.path), "")
        with open(sample.path, "rb") as handle:
            content = handle.read()
        return decode_rgb(content).shape[:2], exif_orientation(content), ""
    except OSError as error:
        return (0, 0), 1, error.strerror or str(error)
    except ValueError as error:
        return (0, 0), 1, str(error)


def _look_at_images(cfg, samples: list, faults: Faults, decode: bool) -> list:
    """The samples whose image can be read, with its real size and boxes clipped to it."""
    usable, broken = [], []
    present = []
    for sample in samples:
        if os.path.isfile(sample.path):
            present.append(sample)
        else:
            faults.refuse("images are missing", sample.path)
    with ThreadPoolExecutor(max(cfg.num_parallel_workers, 1)) as pool, progress(len(present), "looking at") as bar:
        for sample, (size, orientation, reason) in zip(present, pool.map(lambda one: _look(one, decode), present)):
            bar.update()
            if reason:
                broken.append(f"{sample.path} ({reason})")
                continue
            sample.boxes = fit_to_file(sample, size, orientation, faults)
            sample.height, sample.width = size
            usable.append(sample)
    note = faults.refuse if len(broken) > cfg.max_bad_images else faults.repair
    for place in broken:
        note(f"images are broken (max_bad_images is {cfg.max_bad_images})", place)
    return usable
