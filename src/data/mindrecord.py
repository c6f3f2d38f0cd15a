"""Samples -> MindRecord files: whole or not at all, one writer (SPEC sections 7 and 10a)."""

from __future__ import annotations

import glob
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable, List, Optional

import numpy as np
from tqdm import tqdm

from src.config import data_file
from src.data.annotations import read_dataset
from src.data.fingerprint import FILES, all_files, fingerprint, note_path, read_note, record_files, stale_reason
from src.data.images import decode_rgb, exif_orientation
from src.data.sample import DataSet, Faults, Sample, clip_boxes
from src.errors import UserError
from src.log import LOGGER

GROUP = 64  # rows a write: memory stays flat, and one row at a time is half as fast
SCHEMA = {
    "img_id": {"type": "int32", "shape": [1]},
    "image": {"type": "bytes"},
    "annotation": {"type": "int32", "shape": [-1, 5]},
}


@dataclass
class Records:
    """MindRecord files that are whole.

    files: the 8 paths; count: rows; ids: img_id of the rows -> the data set's own id, None where they are
    the same; annotation_file: COCO-style json for the evaluator, "" for training.
    """

    files: List[str]
    count: int
    ids: Optional[dict]
    annotation_file: str

    def own_id(self, img_id: int):
        """The data set's own id of a row."""
        return int(img_id) if self.ids is None else self.ids[int(img_id)]


def record_prefix(cfg, is_training: bool) -> str:
    """Path of the record files without their number."""
    return os.path.join(data_file(cfg, cfg.mindrecord_dir), "ssd.mindrecord" if is_training else "ssd_eval.mindrecord")


def prepare_records(cfg, is_training: bool, is_writer: bool = True, barrier: Callable = lambda: None) -> Records:
    """The records of a config, made anew when what they came from has changed.

    Args:
        is_writer: this process converts; the others wait at `barrier` and read what it wrote.

    Raises:
        UserError: no data, a missing or broken image, no room, a folder that cannot be written.
    """
    prefix = record_prefix(cfg, is_training)
    if is_writer:
        _write_if_stale(cfg, prefix, is_training)
    barrier()
    note = read_note(prefix)
    if note is None:
        raise UserError(f"mindrecord_dir: no usable records at {prefix}*")
    ids = None if note["ids"] is None else dict(enumerate(note["ids"]))
    return Records(record_files(prefix), note["count"], ids, note.get("annotation_file", ""))


def _write_if_stale(cfg, prefix: str, is_training: bool) -> None:
    folder = os.path.dirname(prefix)
    for left_over in glob.glob(os.path.join(glob.escape(folder), ".writing-*")):
        shutil.rmtree(left_over, ignore_errors=True)
    what = "training" if is_training else "evaluation"
    data = read_dataset(cfg, is_training)
    missing = [sample.path for sample in data.samples if not os.path.isfile(sample.path)]
    if missing:
        raise UserError(
            f"{data.sources[0]}: {len(missing)} of {len(data.samples)} images are missing: {', '.join(missing[:5])}"
        )
    wanted = fingerprint(data, list(cfg.classes), cfg.max_bad_images)
    annotation_file = "" if is_training else data.annotation_file or _json_path(cfg, prefix)
    reason = stale_reason(prefix, wanted)
    if not reason and (not annotation_file or os.path.exists(annotation_file)):
        LOGGER.info("records for %s: %s* are up to date", what, prefix)
        return
    LOGGER.info("records for %s: converting %d images to %s* (%s)", what, len(data.samples), prefix, reason)
    _convert(cfg, data, prefix, wanted, annotation_file)


def _json_path(cfg, prefix: str) -> str:
    return data_file(cfg, cfg.voc_json) if cfg.dataset == "voc" else prefix + "_instances.json"


def record_ids(samples: List[Sample]) -> tuple:
    """(int32 ids of the rows, table back to the data set's own ids or None where they are the same)."""
    own = [sample.image_id for sample in samples]
    if all(isinstance(value, int) and -(2**31) <= value < 2**31 for value in own) and len(set(own)) == len(own):
        return own, None
    return list(range(len(own))), own


def _check_room(folder: str, samples: List[Sample]) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        probe = os.path.join(folder, f".writing-probe-{os.getpid()}")
        os.makedirs(probe)
        os.rmdir(probe)
    except OSError as error:
        raise UserError(f"mindrecord_dir: cannot write to {folder}: {error.strerror}") from None
    needed = int(sum(os.path.getsize(sample.path) for sample in samples) * 1.1) + 1024 * len(samples)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"mindrecord_dir: {folder} has {free} bytes free, the records need about {needed}")


def _load(sample: Sample) -> tuple:
    """(bytes, (height, width), orientation, reason it is broken or "")."""
    try:
        with open(sample.path, "rb") as handle:
            data = handle.read()
        return data, decode_rgb(data).shape[:2], exif_orientation(data), ""
    except OSError as error:
        return b"", (0, 0), 1, error.strerror or str(error)
    except ValueError as error:
        return b"", (0, 0), 1, str(error)


def _convert(cfg, data: DataSet, prefix: str, wanted: dict, annotation_file: str) -> None:
    """Write into a folder aside, then move whole; the note is removed first and written last."""
    from mindspore.mindrecord import FileWriter

    folder, name = os.path.split(prefix)
    is_training = not annotation_file
    _check_room(folder, data.samples)
    aside = os.path.join(folder, f".writing-{os.getpid()}")
    os.makedirs(aside)
    try:
        ids, table = record_ids(data.samples)
        writer = FileWriter(os.path.join(aside, name), FILES, overwrite=True)
        writer.add_schema(SCHEMA, "ssd")
        faults, bad, sizes, count, rows = Faults(), [], {}, 0, []
        for img_id, sample, (content, size, orientation, reason) in _loaded(ids, data.samples, cfg):
            if reason:
                bad.append((sample.path, reason))
                if len(bad) > cfg.max_bad_images:
                    raise UserError(
                        f"broken image {bad[-1][0]}: {bad[-1][1]}; mend it, or allow some with "
                        f"--max_bad_images ({cfg.max_bad_images} now)"
                    )
                continue
            if orientation != 1:
                faults.add("images have an EXIF orientation, which is not applied", sample.path)
            if sample.width and (sample.height, sample.width) != size:
                faults.add("images have another size than annotated (boxes are clipped to the file's)", sample.path)
            boxes = clip_boxes(sample.boxes, size[0], size[1], faults, sample.path)
            if is_training and len(boxes) == 0:
                continue
            sizes[img_id], sample.boxes = size, boxes
            rows.append(
                {
                    "img_id": np.array([img_id], np.int32),
                    "image": content,
                    "annotation": boxes.astype(np.int32).reshape(-1, 5),
                }
            )
            count += 1
            if len(rows) == GROUP:
                writer.write_raw_data(rows)
                rows = []
        if count == 0:
            raise UserError(f"{data.sources[0]}: no image is left to write")
        if rows:
            writer.write_raw_data(rows)
        writer.commit()
        for line in faults.lines():
            LOGGER.warning("%s: %s", data.sources[0], line)
        if annotation_file and not data.annotation_file:
            _write_json(annotation_file, coco_json(data, ids, table, sizes, list(cfg.classes)))
        _report_bad(os.path.join(folder, f"bad_images_{'train' if is_training else 'eval'}.txt"), bad)
        note = {"fingerprint": wanted, "count": count, "ids": table, "annotation_file": annotation_file}
        _move_whole(aside, prefix, note)
    except OSError as error:
        raise UserError(f"mindrecord_dir: writing {prefix}* failed: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _loaded(ids: List[int], samples: List[Sample], cfg):
    """(id, sample, what `_load` gives) in order, read and decoded by threads a group ahead."""
    with ThreadPoolExecutor(max(cfg.num_parallel_workers, 1)) as pool, tqdm(
        total=len(samples), unit="img", desc="converting", disable=None
    ) as progress:
        for start in range(0, len(samples), GROUP):
            part = samples[start : start + GROUP]
            for img_id, sample, result in zip(ids[start : start + GROUP], part, pool.map(_load, part)):
                yield img_id, sample, result
            progress.update(len(part))


def _move_whole(aside: str, prefix: str, note: dict) -> None:
    if os.path.exists(note_path(prefix)):
        os.remove(note_path(prefix))
    for path in all_files(prefix):
        os.replace(os.path.join(aside, os.path.basename(path)), path)
    _write_json(note_path(prefix), dict(note, sizes=[os.path.getsize(path) for path in all_files(prefix)]))


def _write_json(path: str, content: dict) -> None:
    """Beside, flushed, renamed."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = f"{path}.{os.getpid()}.tmp"
    with open(beside, "w", encoding="utf-8") as handle:
        json.dump(content, handle)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(beside, path)


def _report_bad(path: str, bad: list) -> None:
    if os.path.exists(path):
        os.remove(path)
    if bad:
        with open(path, "w", encoding="utf-8") as handle:
            handle.writelines(f"{name}: {reason}\n" for name, reason in bad)
        LOGGER.warning("%d broken images were left out, listed in %s", len(bad), path)


def coco_json(data: DataSet, ids: List[int], table, sizes: dict, classes: List[str]) -> dict:
    """A COCO-style annotation dict of samples (VOC and list files have none of their own)."""
    images, annotations = [], []
    for img_id, sample in zip(ids, data.samples):
        if img_id not in sizes:
            continue
        own, (height, width) = (img_id if table is None else table[img_id]), sizes[img_id]
        images.append({"id": own, "file_name": os.path.basename(sample.path), "height": height, "width": width})
        for y1, x1, y2, x2, label in sample.boxes.tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": own,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label, "name": name} for label, name in enumerate(classes) if label > 0]
    return {"images": images, "annotations": annotations, "categories": categories}
