"""Samples -> MindRecord files: complete or none, one writer per folder."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Iterator, List, Optional, Tuple

import numpy as np

from src.data.images import check_image, decode_rgb, exif_orientation, flaw, has_16_bits, read_header
from src.data.issues import Issues
from src.data.readers.coco import coco_json
from src.data.records.files import FILES, IncompleteRecords, all_files, count_rows, record_files
from src.data.records.ground_truth import MARK
from src.data.records.manifest import annotation_entry, write_manifest, write_unfinished
from src.data.sample import DataSet, Sample, clip_boxes, clip_to_image
from src.data.tiles import Tiling, cut_boxes, encode_tile, of_config
from src.utils.errors import UserError
from src.utils.locks import wait_lock
from src.utils.log import LOGGER, progress, warn_once
from src.utils.output import OutputError, write_json, write_text
from src.utils.text import one_line

# rows are written in groups: one row at a time is half as fast, and memory must not grow with the images
GROUP_ROWS, GROUP_BYTES = 128, 32 << 20
PNG_BYTES = 1.8  # of a photograph's pixel, about
SCHEMA = {
    "img_id": {"type": "int32", "shape": [1]},
    "image": {"type": "bytes"},
    "annotation": {"type": "int32", "shape": [-1, 5]},
}


@contextlib.contextmanager
def conversion_lock(folder: str) -> Iterator[None]:
    """Lock `folder`, created if missing, for one conversion at a time; others wait.

    Raises:
        UserError: the folder cannot be created or read.
    """
    try:
        while True:
            os.makedirs(folder, exist_ok=True)
            lock = wait_lock(folder, f"waiting for another process that is writing records in {folder}")
            with contextlib.suppress(FileNotFoundError):
                os.stat(folder)
                break
            lock.release()  # the process that held it has removed the empty folder
    except OSError as error:
        raise UserError(
            f"mindrecord_dir: cannot write to {folder}: {error.strerror}; name another folder with --mindrecord_dir"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # only if it is empty: a failed conversion leaves nothing
        lock.release()


def _temporary_folder(folder: str) -> str:
    """The folder this process writes to; `_remove_left_overs` removes those of killed processes."""
    return os.path.join(folder, f".writing-{socket.gethostname()}-{os.getpid()}")


def _remove_left_overs(folder: str, prefix: str) -> None:
    """Remove folders of conversions killed on this machine, and record files that earlier versions wrote."""
    for path in glob.glob(os.path.join(glob.escape(folder), f".writing-{socket.gethostname()}-*")):
        shutil.rmtree(path, ignore_errors=True)
    for ending in (".origin.json", ".rows.npz"):
        with contextlib.suppress(OSError):
            os.remove(prefix + ending)


def _check_room(folder: str, samples: List[Sample], tiling: Tiling) -> None:
    try:
        os.makedirs(_temporary_folder(folder))
        os.rmdir(_temporary_folder(folder))
    except OSError as error:
        raise UserError(
            f"mindrecord_dir: cannot write to {folder}: {error.strerror}; name another folder with --mindrecord_dir"
        ) from None
    needed = int(sum(_bytes_of(sample, tiling) for sample in samples) * 1.02) + 1024 * len(samples) + (1 << 20)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"mindrecord_dir: {folder} has {free} bytes free, the records need about {needed}")


def _bytes_of(sample: Sample, tiling: Tiling) -> int:
    """Size of a picture in the records: of its file, or about that of its tiles; 0 where the file is missing."""
    with contextlib.suppress(OSError, ValueError):
        if not tiling.side:
            return os.path.getsize(sample.path)
        top, left, bottom, right = tiling.windows(*read_header(sample.path)[0]).T.astype(int)
        return int(PNG_BYTES * ((bottom - top) * (right - left)).sum())
    return 0


def _load(sample: Sample, tiling: Tiling) -> tuple:
    """(bytes of the file, or `_tiles` of it, (height, width), orientation, why it is broken or "", what is odd about
    its pixels or "")."""
    try:
        with open(sample.path, "rb") as handle:
            data = handle.read()
        size = check_image(data)
        odd = flaw(decode_rgb(data), True) if has_16_bits(sample.path) else ""
        content = _tiles(data, clip_boxes(sample.boxes, *size)[0], tiling) if tiling.side else data
        return content, size, exif_orientation(data), "", odd
    except OSError as error:
        return b"", (0, 0), 1, error.strerror or str(error), ""
    except ValueError as error:
        return b"", (0, 0), 1, str(error), ""


def _tiles(data: bytes, boxes: np.ndarray, tiling: Tiling) -> List[tuple]:
    """(window, bytes, boxes [K, 5]) of each tile of a picture that becomes a training image; `boxes` [M, 5]: all of the
    picture."""
    image, found = decode_rgb(data), []
    for window in tiling.windows(*image.shape[:2]):
        of_tile = cut_boxes(boxes, window)
        if len(of_tile) or tiling.keeps_empty:
            found.append((window, encode_tile(image, window), of_tile))
    return found


def _loaded(ids: List[int], samples: List[Sample], tiling: Tiling, workers: int) -> Iterator[tuple]:
    """(id, sample, `_load` of it) in order; threads read and decode ahead, enough to be busy while a group is written,
    within a limit of bytes."""
    with ThreadPoolExecutor(workers) as pool, progress(len(samples), "converting") as bar:
        ahead, pending_bytes, left = deque(), 0, zip(ids, samples)
        pair = next(left, None)
        try:
            while pair is not None or ahead:
                while pair is not None and len(ahead) < 2 * workers + GROUP_ROWS and pending_bytes <= GROUP_BYTES:
                    size = _bytes_of(pair[1], tiling)
                    ahead.append((*pair, size, pool.submit(_load, pair[1], tiling)))
                    pending_bytes, pair = pending_bytes + size, next(left, None)
                img_id, sample, size, result = ahead.popleft()
                pending_bytes -= size
                yield img_id, sample, result.result()
                bar.update()
        finally:
            for *_, result in ahead:
                result.cancel()


class _ImageChecks:
    """Results of a conversion's image checks: issues, broken images, sizes."""

    def __init__(self, most_bad: int, needs_box: bool):
        self.most_bad, self.needs_box = most_bad, needs_box
        self.issues, self.bad, self.sizes = Issues(), [], {}

    def boxes(self, img_id: int, sample: Sample, size: tuple, orientation: int, reason: str):
        """Boxes clipped to the size of the image file, None if the image is left out.

        Raises:
            UserError: one broken image more than allowed.
        """
        if reason:
            self.bad.append((sample.path, reason))
            if len(self.bad) > self.most_bad:
                raise UserError(
                    f"broken image {sample.path}: {reason}; repair or remove it, or allow some with "
                    f"--max_bad_images ({self.most_bad} now)"
                )
            return None
        boxes = clip_to_image(sample, size, orientation, self.issues)
        if self.needs_box and len(boxes) == 0:
            return None
        self.sizes[img_id] = size
        return boxes


def record_ids(samples: List[Sample]) -> tuple:
    """int32 ids of the rows, and the data set's id of each, or None if they are the same."""
    ids = [sample.image_id for sample in samples]
    if all(isinstance(value, int) and -(2**31) <= value < 2**31 for value in ids) and len(set(ids)) == len(ids):
        return ids, None
    return list(range(len(ids))), ids


def write_records(cfg, data: DataSet, folder: str, prefix: str, manifest: dict, annotation_file: Optional[str]) -> None:
    """Write records into a temporary folder, then move them to `prefix`; the manifest is written last.

    Args:
        folder: `mindrecord_dir`, locked by `conversion_lock`.
        prefix: path of the files without their number, in `folder` or in a folder of it.
        manifest: what is known before writing: settings, data_path, fingerprint, sources, images.
        annotation_file: None for training; else the json that evaluation compares with, which is written here if it
            belongs next to the records.

    Raises:
        UserError: a broken image, no disk space, nothing left to write.
        OutputError: for example a full disk; earlier records are unchanged.
    """
    is_training = annotation_file is None
    _remove_left_overs(folder, prefix)
    tiling = of_config(cfg) if is_training else Tiling()  # evaluation puts the tiles of a picture together
    _check_room(folder, data.samples, tiling)
    temporary = _temporary_folder(folder)
    checked = _ImageChecks(cfg.max_bad_images, needs_box=is_training and not cfg.negative_images)
    ids, table = record_ids(data.samples)
    try:
        os.makedirs(temporary)
        temporary_prefix = os.path.join(temporary, os.path.basename(prefix))
        usable = _usable(ids, data, tiling, checked, cfg.num_parallel_workers)
        if tiling.side:
            table = []
            count = _write(temporary_prefix, _tile_rows(usable, table))
        else:
            count = _write(temporary_prefix, (_row(img_id, *rest) for img_id, _, *rest in usable))
        if count == 0:
            raise UserError(f"{data.where}: no image is left to write")
        if tiling.side:
            pictures = (
                f"{len(checked.sizes)} pictures became {count} tiles{'' if tiling.keeps_empty else ' with boxes'}"
            )
            LOGGER.info("tile %d, overlap %g: %s", tiling.side, tiling.overlap, pictures)
        rows = _rows_as_written(temporary_prefix, count)
        for line in checked.issues.repaired_lines():
            warn_once(f"{data.where}: {line}")
        names = [os.path.basename(path) for path in all_files(prefix)]
        if annotation_file and os.path.dirname(annotation_file) == os.path.dirname(prefix):
            names.append(os.path.basename(annotation_file))
            content = coco_json(data, ids, table, checked.sizes, list(cfg.classes))
            write_json(os.path.join(temporary, names[-1]), dict(content, info={"description": MARK}))
        write_unfinished(prefix)
        bad_images = f"bad_images_{'train' if is_training else 'eval'}.txt"
        _report_bad(os.path.join(os.path.dirname(prefix), bad_images), checked.bad)
        for name in names:
            os.replace(os.path.join(temporary, name), os.path.join(os.path.dirname(prefix), name))
        entry = annotation_entry(annotation_file, prefix, cfg.data_path) if annotation_file else None
        known = {"count": count, "rows": rows.tolist(), "ids": table, "bad_images": len(checked.bad)}
        write_manifest(prefix, dict(manifest, **known, annotation_file=entry))
    except (OSError, OutputError) as error:
        raise OutputError(
            f"mindrecord_dir: writing {prefix}* failed: {getattr(error, 'strerror', None) or error} "
            f"({shutil.disk_usage(folder).free} bytes are free)"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rows_as_written(prefix: str, count: int) -> np.ndarray:
    """`read_row_ids` of records that were just written: MindSpore reports little about a failed write."""
    try:
        kept = count_rows(prefix)
    except IncompleteRecords as error:
        raise OSError(f"the files are incomplete: {error}") from None
    if kept != count:
        raise OSError(f"{kept} of {count} rows were written")
    return read_row_ids(prefix)


def read_row_ids(prefix: str) -> np.ndarray:
    """img_id of every row, int64 [rows], in the order of the files."""
    import mindspore.dataset as ds

    rows = ds.MindDataset(record_files(prefix)[0], ["img_id"], shuffle=False).batch(1000)
    batches = [batch[0].ravel() for batch in rows.create_tuple_iterator(num_epochs=1, output_numpy=True)]
    return np.concatenate(batches).astype(np.int64)


def _usable(ids: List[int], data: DataSet, tiling: Tiling, checked: _ImageChecks, workers: int) -> Iterator[tuple]:
    """(id, sample, content as of `_load`, boxes [M, 5]) of the images that are not left out."""
    loaded = _loaded(ids, data.samples, tiling, max(workers, 1))
    for img_id, sample, (content, size, orientation, reason, odd) in loaded:
        if odd:
            checked.issues.warn(odd, sample.path)
        boxes = checked.boxes(img_id, sample, size, orientation, reason)
        if boxes is not None:
            sample.boxes = boxes
            yield img_id, sample, content, boxes


def _row(img_id: int, content: bytes, boxes: np.ndarray) -> dict:
    return {
        "img_id": np.array([img_id], np.int32),
        "image": content,
        "annotation": boxes.astype(np.int32).reshape(-1, 5),
    }


def _tile_rows(usable: Iterator[tuple], table: list) -> Iterator[dict]:
    """The rows of tiles, numbered in their order; `table` gets the id of each: the picture's id, left and top."""
    for _, sample, tiles, _ in usable:
        for (top, left, *_), content, boxes in tiles:
            table.append(f"{sample.image_id}@{left},{top}")
            yield _row(len(table) - 1, content, boxes)


def _write(path: str, rows: Iterator[dict]) -> int:
    """Write the rows in groups and return their number."""
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
            for name in all_files(path):
                os.chmod(name, 0o666 & ~_umask())  # MindSpore makes them readable for their owner only
    except RuntimeError as error:
        # MindSpore's first line names the location of the failure; the reason comes later, or not at all
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
        reason = [line for line in lines if "Error Message" not in line and "Exception thrown" not in line]
        raise OSError(reason[0] if reason else lines[0]) from None
    return count


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _report_bad(path: str, bad: List[Tuple[str, str]]) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    if bad:
        write_text(path, "".join(f"{one_line(name)}: {reason}\n" for name, reason in bad))
        LOGGER.warning("%d broken images were left out, listed in %s", len(bad), path)
