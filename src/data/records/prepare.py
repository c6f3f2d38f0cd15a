"""The records that a run reads: existing ones, or new ones.

Records lie in `mindrecord_dir` under the published names. A second data set or class list that uses the same
`mindrecord_dir` gets a separate folder in it, so two of them never touch each other's files. Every process that reads
records holds a shared lock on them; a conversion replaces only records that nobody reads.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from dataclasses import dataclass
from typing import Iterator, List, Optional, Tuple

import numpy as np

from src.config import data_file
from src.data.readers import read_dataset
from src.data.readers.locate import missing_images
from src.data.readers.yolo import missing_split
from src.data.records.files import (
    IncompleteRecords,
    RenamedRecords,
    all_files,
    boxes_of_row,
    count_rows,
    foreign_files,
    record_files,
)
from src.data.records.ground_truth import annotation_file_for, copy_to_voc_json, given_annotation_files
from src.data.records.manifest import (
    annotation_path,
    fingerprint,
    manifest_path,
    outdated_because,
    portable_path,
    read_manifest,
    record_settings,
    settings_key,
)
from src.data.records.writer import conversion_lock, read_row_ids, write_records
from src.data.sample import DataSet
from src.utils.distributed import Communicator
from src.utils.errors import UserError
from src.utils.locks import Lock, try_lock, wait_lock
from src.utils.log import LOGGER, warn_once
from src.utils.text import one_line

_MAX_PREFIXES = 100


@dataclass
class RecordSet:
    """A complete set of MindRecord files.

    files: the 8 paths; count: rows; rows: img_id of every row in the order of the files, int64 [count]; ids: img_id ->
    the data set's id, None where they are the same; annotation_file: COCO-style json for the evaluator, "" for
    training; lock: shared, so that no conversion replaces the files while this object lives.
    """

    files: List[str]
    count: int
    rows: np.ndarray
    ids: Optional[dict]
    annotation_file: str
    lock: Lock

    def dataset_id(self, img_id: int) -> object:
        """The data set's id of a row."""
        return int(img_id) if self.ids is None else self.ids[int(img_id)]


def prepare_records(cfg, is_training: bool, comm: Communicator = Communicator()) -> RecordSet:
    """The records of a configuration, written again if their sources have changed.

    Rank 0 converts while the others wait; then the first rank of every other machine checks whether it sees the same
    files, and converts if it does not (a folder of that machine). Records without a manifest are another program's (the
    published scripts'): they are read as they are if they are complete, and the annotations are not read for
    training.

    Raises:
        UserError: no data, a missing or broken image, no disk space, a folder that cannot be written.
    """
    _check_locale(data_file(cfg, cfg.mindrecord_dir))
    found: Optional[Tuple[str, Lock]] = None
    for first in (True, False):
        if (comm.rank == 0) == first and comm.local_rank == 0:
            found = _find(cfg, is_training) or _convert(cfg, is_training)
        comm.barrier()
    # a local folder may have led to another prefix than rank 0's
    prefixes = [row for row in comm.all_gather((socket.gethostname(), found[0] if found else "")) if row[1]]
    prefix = next((path for host, path in prefixes if host == socket.gethostname()), prefixes[0][1])
    lock = found[1] if found else _reader_lock(prefix)
    manifest = read_manifest(prefix)
    return _ours(cfg, prefix, manifest, lock) if manifest else _foreign(cfg, prefix, is_training, lock)


def _check_locale(folder: str) -> None:
    """Check that the locale encodes a path as UTF-8, as MindSpore does; otherwise MindSpore crashes.

    Raises:
        UserError: they differ for this path.
    """
    try:
        same = os.fsencode(folder) == folder.encode("utf-8")
    except UnicodeEncodeError:
        same = False
    if not same:
        raise UserError(
            f"mindrecord_dir: MindSpore cannot open {one_line(folder)} in this locale (Python's file names are "
            f"{sys.getfilesystemencoding()}): start the program with PYTHONUTF8=1 or LC_ALL=C.UTF-8, or choose a "
            f"folder with an ASCII path"
        )


def _ours(cfg, prefix: str, manifest: dict, lock: Lock) -> RecordSet:
    ids = None if manifest["ids"] is None else dict(enumerate(manifest["ids"]))
    rows = np.array(manifest["rows"], np.int64)
    return RecordSet(
        record_files(prefix), manifest["count"], rows, ids, annotation_path(manifest, prefix, cfg.data_path), lock
    )


def _name(is_training: bool) -> str:
    return "ssd.mindrecord" if is_training else "ssd_eval.mindrecord"


def _prefixes(cfg, is_training: bool) -> Iterator[str]:
    """Prefixes that records of this configuration may have, in the order of preference."""
    folder, name = data_file(cfg, cfg.mindrecord_dir), _name(is_training)
    yield os.path.join(folder, name)
    key = settings_key(record_settings(cfg, is_training), cfg.data_path)
    for number in range(1, _MAX_PREFIXES):
        yield os.path.join(folder, key if number == 1 else f"{key}-{number}", name)


def _reader_lock(prefix: str) -> Lock:
    return wait_lock(prefix + ".lock", f"waiting for another process that is writing {prefix}*", shared=True)


def _find(cfg, is_training: bool) -> Optional[Tuple[str, Lock]]:
    """Prefix and shared lock of records that can be used as they are, None if there are none."""
    settings = record_settings(cfg, is_training)
    for prefix in _prefixes(cfg, is_training):
        if not os.path.isdir(os.path.dirname(prefix)):
            break
        if _is_foreign(prefix):
            if _usable_foreign(cfg, prefix, is_training):
                return prefix, _reader_lock(prefix)
            continue
        manifest = read_manifest(prefix)
        if manifest is None or manifest["settings"] != settings or outdated_because(prefix, manifest, cfg):
            continue
        lock = _reader_lock(prefix)
        if read_manifest(prefix) == manifest:  # nobody replaced them before the lock was taken
            LOGGER.info("records for %s: %s* are up to date", _what(is_training), prefix)
            return prefix, lock
        lock.release()
    return None


def _what(is_training: bool) -> str:
    return "training" if is_training else "evaluation"


def _convert(cfg, is_training: bool) -> Tuple[str, Lock]:
    """Prefix and shared lock of records written by this call, or by another process in the meantime."""
    folder, settings = data_file(cfg, cfg.mindrecord_dir), record_settings(cfg, is_training)
    _warn_about_renamed_files(os.path.join(folder, _name(is_training)))
    data = read_dataset(cfg, is_training)
    check_images_exist(data)
    given = [] if is_training else given_annotation_files(cfg)
    manifest = {
        "settings": settings,
        "data_path": os.path.abspath(cfg.data_path),
        "sources": [portable_path(path, cfg.data_path) for path in [*data.sources, *given]],
        "given": given,
        "images": [portable_path(sample.path, cfg.data_path) for sample in data.samples],
    }
    manifest["fingerprint"] = fingerprint(settings, manifest["sources"], manifest["images"], cfg.data_path)
    with conversion_lock(folder):
        found = _find(cfg, is_training)  # another run may have written them while this one waited
        if found:
            return found
        prefix, lock, reason = _reserve(cfg, is_training)
        try:
            LOGGER.info(
                "records for %s: converting %d images to %s* (%s)",
                _what(is_training),
                len(data.samples),
                prefix,
                reason,
            )
            annotation_file = None if is_training else annotation_file_for(cfg, data, prefix)
            write_records(cfg, data, folder, prefix, manifest, annotation_file)
            copy_to_voc_json(cfg, annotation_file)
        except BaseException:
            _remove_if_empty(prefix)
            raise
        finally:
            lock.release()
        return prefix, _reader_lock(prefix)


def _reserve(cfg, is_training: bool) -> Tuple[str, Lock, str]:
    """(prefix, exclusive lock, why records are written) of the first prefix that is free, or holds an outdated version
    that nobody reads."""
    reasons = []
    for prefix in _prefixes(cfg, is_training):
        usable, reason = _may_replace(cfg, prefix, is_training)
        if usable:
            try:
                os.makedirs(os.path.dirname(prefix), exist_ok=True)
                lock = try_lock(prefix + ".lock")
            except OSError as error:
                raise UserError(
                    f"mindrecord_dir: cannot write to {os.path.dirname(prefix)}: {error.strerror}; name another "
                    f"folder with --mindrecord_dir"
                ) from None
            if lock is not None:
                return prefix, lock, "; ".join([*reasons, reason])
            reason += ", but another process reads them"
        reasons.append(f"{prefix}* {reason}")
    raise UserError(f"mindrecord_dir: all {_MAX_PREFIXES} folders in {data_file(cfg, cfg.mindrecord_dir)} are in use")


def _may_replace(cfg, prefix: str, is_training: bool) -> Tuple[bool, str]:
    """Whether new records may be written at `prefix`, and the state of those that are there, in words."""
    if _is_foreign(prefix):
        return False, "were written by another program"
    manifest = read_manifest(prefix)
    if manifest is None:
        exist = any(os.path.exists(path) for path in all_files(prefix))
        unfinished = "an earlier conversion did not finish, or an earlier version wrote the records"
        return True, unfinished if exist else "there are none yet"
    same = manifest["settings"] == record_settings(cfg, is_training)
    if same and manifest["data_path"] == os.path.abspath(cfg.data_path):
        return True, outdated_because(prefix, manifest, cfg)
    base = manifest["data_path"]
    if not any(os.path.exists(os.path.join(base, path)) for path in manifest["sources"]):
        return True, f"belong to a data set that no longer exists: {base}"
    return False, "belong to another data set, class list, tile size or negative_images"


def _remove_if_empty(prefix: str) -> None:
    """After a failed conversion: no lock file and no folder without records."""
    if not any(os.path.exists(path) for path in (*all_files(prefix), manifest_path(prefix))):
        with contextlib.suppress(OSError):
            os.remove(prefix + ".lock")
            os.rmdir(os.path.dirname(prefix))


def _is_foreign(prefix: str) -> bool:
    """Complete records without a manifest.

    Raises:
        UserError: they were renamed; they are still complete under their old names, and new ones would overwrite them.
    """
    if os.path.exists(manifest_path(prefix)):
        return False
    try:
        return count_rows(prefix) > 0
    except RenamedRecords as error:
        raise UserError(
            f"mindrecord_dir: {prefix}* were renamed ({error}), and MindRecord files can only be read under the name "
            f"they were written with: rename them back, or remove them to have them written again"
        ) from None
    except IncompleteRecords:
        return False


def _usable_foreign(cfg, prefix: str, is_training: bool) -> bool:
    if is_training and cfg.tile:
        warn_once(
            f"{prefix}* are not used: they hold pictures that are not cut, and tile is {cfg.tile}; records are written "
            f"from the data set instead, into a separate folder"
        )
        return False
    if cfg.dataset == "other":
        warn_once(
            f"{prefix}* are not used: the published scripts wrote the boxes of list files with x and y swapped; "
            f"records are written from the list file instead, into a separate folder"
        )
        return False
    if is_training and cfg.negative_images:
        warn_once(
            f"{prefix}* are not used: another program wrote them, without the images that have no box "
            f"(negative_images); records are written into a separate folder"
        )
        return False
    return True


def _foreign(cfg, prefix: str, is_training: bool, lock: Lock) -> RecordSet:
    warn_once(
        f"{prefix}*: {count_rows(prefix)} rows of another program (they have no manifest) are used as they are; a "
        f"change of annotations or classes is not noticed (remove the files to have them written again)"
    )
    _check_labels(prefix, cfg.num_classes)
    annotation_file = "" if is_training else annotation_file_for(cfg, None, prefix)
    if annotation_file and not os.path.exists(annotation_file):
        raise UserError(
            f"{prefix}* were written by another program, and the annotation file that belongs to them is missing: "
            f"{annotation_file}; remove the records to have both written again"
        )
    rows = read_row_ids(prefix)
    return RecordSet(record_files(prefix), len(rows), rows, None, annotation_file, lock)


def _check_labels(prefix: str, num_classes: int) -> None:
    """Check that the classes in the rows are those of the configuration, as far as their number shows.

    Raises:
        UserError: a row has a class beyond `num_classes`."""
    import mindspore.dataset as ds

    rows = ds.MindDataset(record_files(prefix)[0], ["annotation"], shuffle=False)
    for (annotation,) in rows.create_tuple_iterator(num_epochs=1, output_numpy=True):
        label = boxes_of_row(annotation)[:, 4].max(initial=0)
        if label >= num_classes:
            raise UserError(
                f"mindrecord_dir: {prefix}* hold class {label}, but num_classes is {num_classes}: they were made for "
                f"another class list; remove them to have them written again"
            )


def missing_evaluation_set(cfg) -> str:
    """The file or folder that is missing for an evaluation, "" if nothing is missing or records exist.

    COCO's archive of annotations has both splits, so the folder of the images may be what is missing.
    """
    if os.path.exists(record_files(next(_prefixes(cfg, is_training=False)))[0]):
        return ""
    settings = record_settings(cfg, is_training=False)
    if cfg.dataset == "yolo":
        return missing_split(cfg, is_training=False)
    path = os.path.join(os.path.abspath(cfg.data_path), settings.get("annotations") or settings["folder"])
    if not os.path.exists(path):
        return path
    images = os.path.join(os.path.abspath(cfg.data_path), settings.get("images") or settings["folder"])
    if os.path.isdir(images):
        return ""
    data = read_dataset(cfg, is_training=False)
    return images if len(missing_images(data)[0]) == len(data.samples) else ""  # paths may point elsewhere


def check_images_exist(data: DataSet) -> None:
    """Check that every image file exists.

    Raises:
        UserError: the number of missing files, and the first five.
    """
    missing, hint = missing_images(data)
    if missing:
        few = one_line(", ".join(missing[:5]))
        hint = f" ({hint})" if hint else ""
        raise UserError(
            f"{data.where}: {len(missing)} of {len(data.samples) + len(data.left_out)} images are missing: {few}{hint}"
        )


def _warn_about_renamed_files(prefix: str) -> None:
    others = foreign_files(prefix)
    if others and not os.path.exists(manifest_path(prefix)):
        warn_once(
            f"{os.path.dirname(prefix)} holds MindRecord files with other names ({', '.join(others[:3])}); they are "
            f"not read: records are {os.path.basename(prefix)}0..7 and cannot be renamed after they were written"
        )
