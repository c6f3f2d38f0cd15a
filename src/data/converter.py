"""Samples -> MindRecord files: whole or not at all, one writer (SPEC sections 7 and 10a)."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import socket
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Iterator, List

import numpy as np

from src.data.coco import coco_json
from src.data.fingerprint import write_note, write_unfinished
from src.data.images import check_image, exif_orientation
from src.data.record_files import FILES, all_files
from src.data.sample import DataSet, Faults, Sample, fit_to_file
from src.errors import UserError
from src.log import LOGGER, progress, warn_once
from src.output import write_json

# a write takes what comes first; one row at a time is half as fast, and memory must not grow with the images
GROUP_ROWS, GROUP_BYTES = 128, 32 << 20
SCHEMA = {
    "img_id": {"type": "int32", "shape": [1]},
    "image": {"type": "bytes"},
    "annotation": {"type": "int32", "shape": [-1, 5]},
}


@contextlib.contextmanager
def only_one_converter(folder: str) -> Iterator[None]:
    """Hold `folder` for this process; another that converts there is waited for. Ends with the process, however.

    Raises:
        UserError: the folder cannot be made or written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"mindrecord_dir: cannot write to {folder}: {error.strerror}") from None
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # only where it is empty: a conversion that failed leaves nothing


def _lock(descriptor: int, folder: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        LOGGER.info("waiting for another process that writes records in %s", folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        LOGGER.info("%s: this file system has no locks; start no second conversion there", folder)


def _aside(folder: str) -> str:
    """Where this process writes; what a killed one left there is removed by `_remove_left_overs`."""
    return os.path.join(folder, f".writing-{socket.gethostname()}-{os.getpid()}")


def _remove_left_overs(folder: str) -> None:
    """Folders of conversions that were killed on this machine."""
    for path in glob.glob(os.path.join(glob.escape(folder), f".writing-{socket.gethostname()}-*")):
        shutil.rmtree(path, ignore_errors=True)


def _check_room(folder: str, samples: List[Sample]) -> None:
    try:
        os.makedirs(_aside(folder))
        os.rmdir(_aside(folder))
    except OSError as error:
        raise UserError(f"mindrecord_dir: cannot write to {folder}: {error.strerror}") from None
    needed = int(sum(os.path.getsize(sample.path) for sample in samples) * 1.02) + 1024 * len(samples) + (1 << 20)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"mindrecord_dir: {folder} has {free} bytes free, the records need about {needed}")


def _load(sample: Sample) -> tuple:
    """(bytes, (height, width), orientation, reason it is broken or "")."""
    try:
        with open(sample.path, "rb") as handle:
            data = handle.read()
        return data, check_image(data), exif_orientation(data), ""
    except OSError as error:
        return b"", (0, 0), 1, error.strerror or str(error)
    except ValueError as error:
        return b"", (0, 0), 1, str(error)


def _loaded(ids: List[int], samples: List[Sample], workers: int) -> Iterator[tuple]:
    """(id, sample, what `_load` gives) in order; threads read and decode ahead, enough to be busy while a group is
    written, but never many bytes."""
    with ThreadPoolExecutor(workers) as pool, progress(len(samples), "converting") as bar:
        ahead, held, left = deque(), 0, zip(ids, samples)
        pair = next(left, None)
        try:
            while pair is not None or ahead:
                while pair is not None and len(ahead) < 2 * workers + GROUP_ROWS and held <= GROUP_BYTES:
                    size = os.path.getsize(pair[1].path) if os.path.exists(pair[1].path) else 0
                    ahead.append((*pair, size, pool.submit(_load, pair[1])))
                    held, pair = held + size, next(left, None)
                img_id, sample, size, result = ahead.popleft()
                held -= size
                yield img_id, sample, result.result()
                bar.update()
        finally:
            for *_, result in ahead:
                result.cancel()


class _Checked:
    """What a conversion keeps of its images besides the rows: faults, broken images, sizes."""

    def __init__(self, most_bad: int, is_training: bool):
        self.most_bad, self.is_training = most_bad, is_training
        self.faults, self.bad, self.sizes = Faults(), [], {}

    def boxes(self, img_id: int, sample: Sample, size: tuple, orientation: int, reason: str):
        """Boxes clipped to the file's own size, None where the image is left out.

        Raises:
            UserError: one broken image more than allowed.
        """
        if reason:
            self.bad.append((sample.path, reason))
            if len(self.bad) > self.most_bad:
                raise UserError(
                    f"broken image {sample.path}: {reason}; mend it, or allow some with "
                    f"--max_bad_images ({self.most_bad} now)"
                )
            return None
        boxes = fit_to_file(sample, size, orientation, self.faults)
        if self.is_training and len(boxes) == 0:
            return None
        self.sizes[img_id] = size
        return boxes


def record_ids(samples: List[Sample]) -> tuple:
    """(int32 ids of the rows, table back to the data set's own ids or None where they are the same)."""
    own = [sample.image_id for sample in samples]
    if all(isinstance(value, int) and -(2**31) <= value < 2**31 for value in own) and len(set(own)) == len(own):
        return own, None
    return list(range(len(own))), own


def convert(cfg, data: DataSet, prefix: str, wanted: dict, annotation_file: str) -> None:
    """Write records into a folder aside, then move them whole; the note with the fingerprint comes last.

    Args:
        prefix: path of the files without their number.
        wanted: the fingerprint.
        annotation_file: "" for training; else the json that evaluation reads, written where the data set has none.

    Raises:
        UserError: a broken image, no room, nothing left to write.
    """
    folder, name = os.path.split(prefix)
    _remove_left_overs(folder)
    _check_room(folder, data.samples)
    aside = _aside(folder)
    checked = _Checked(cfg.max_bad_images, is_training=not annotation_file)
    ids, table = record_ids(data.samples)
    try:
        os.makedirs(aside)
        count = _write(os.path.join(aside, name), _rows(ids, data, checked, cfg.num_parallel_workers))
        if count == 0:
            raise UserError(f"{data.where}: no image is left to write")
        for line in checked.faults.repaired_lines():
            warn_once(f"{data.where}: {line}")
        if annotation_file and not data.annotation_file:
            write_json(annotation_file, coco_json(data, ids, table, checked.sizes, list(cfg.classes)))
        _report_bad(os.path.join(folder, f"bad_images_{'eval' if annotation_file else 'train'}.txt"), checked.bad)
        write_unfinished(prefix)
        for path in all_files(prefix):
            os.replace(os.path.join(aside, os.path.basename(path)), path)
        write_note(prefix, {"fingerprint": wanted, "count": count, "ids": table, "annotation_file": annotation_file})
    except OSError as error:
        raise UserError(f"mindrecord_dir: writing {prefix}* failed: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _rows(ids: List[int], data: DataSet, checked: _Checked, workers: int) -> Iterator[dict]:
    for img_id, sample, (content, size, orientation, reason) in _loaded(ids, data.samples, max(workers, 1)):
        boxes = checked.boxes(img_id, sample, size, orientation, reason)
        if boxes is not None:
            sample.boxes = boxes
            yield {
                "img_id": np.array([img_id], np.int32),
                "image": content,
                "annotation": boxes.astype(np.int32).reshape(-1, 5),
            }


def _write(path: str, rows: Iterator[dict]) -> int:
    """Write the rows in groups; the number of them."""
    from mindspore.mindrecord import FileWriter

    writer = FileWriter(path, FILES, overwrite=True)
    writer.add_schema(SCHEMA, "ssd")
    count, group, size = 0, [], 0
    try:
        for row in rows:
            group.append(row)
            count, size = count + 1, size + len(row["image"])
            if len(group) >= GROUP_ROWS or size >= GROUP_BYTES:
                writer.write_raw_data(group)
                group, size = [], 0
        if group:
            writer.write_raw_data(group)
        if count:
            writer.commit()
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[0]) from None
    return count


def _report_bad(path: str, bad: list) -> None:
    if os.path.exists(path):
        os.remove(path)
    if bad:
        with open(path, "w", encoding="utf-8") as handle:
            handle.writelines(f"{name}: {reason}\n" for name, reason in bad)
        LOGGER.warning("%d broken images were left out, listed in %s", len(bad), path)
