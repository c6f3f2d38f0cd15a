"""Which records a run reads: those that are there, or new ones (SPEC sections 7 and 10a)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import List, Optional

from src.config import data_file
from src.data.annotations import read_dataset
from src.data.converter import convert, only_one_converter
from src.data.fingerprint import are_unchanged, fingerprint, note_path, read_note, stale_reason, write_origin
from src.data.record_files import NotWhole, Renamed, count_rows, foreign_files, record_files, stored_boxes
from src.data.sample import DataSet
from src.errors import UserError
from src.log import LOGGER, printable, warn_once
from src.output import OutputError
from src.ranks import Ranks


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

    def own_id(self, img_id: int) -> object:
        """The data set's own id of a row."""
        return int(img_id) if self.ids is None else self.ids[int(img_id)]


def record_prefix(cfg, is_training: bool) -> str:
    """Path of the record files without their number."""
    return os.path.join(data_file(cfg, cfg.mindrecord_dir), "ssd.mindrecord" if is_training else "ssd_eval.mindrecord")


def prepare_records(cfg, is_training: bool, ranks: Ranks = Ranks()) -> Records:
    """The records of a config, made anew when what they came from has changed.

    Rank 0 converts while the others wait; then the first rank of every other machine looks whether it sees the same
    files, and converts where it does not (a folder of its own). Records without our note beside them are another
    program's (the published scripts'): they are read as they are when they are whole, and the annotations are not
    looked at for training.

    Raises:
        UserError: no data, a missing or broken image, no room, a folder that cannot be written.
    """
    prefix = record_prefix(cfg, is_training)
    for first in (True, False):
        if (ranks.rank == 0) == first and ranks.local_rank == 0 and not _are_published(prefix):
            _write_if_stale(cfg, prefix, is_training)
        ranks.wait()
    return _published(cfg, prefix, is_training) if _are_published(prefix) else _own(prefix)


def _own(prefix: str) -> Records:
    note = read_note(prefix)
    if note is None:
        raise UserError(f"mindrecord_dir: no usable records at {prefix}*")
    ids = None if note["ids"] is None else dict(enumerate(note["ids"]))
    return Records(record_files(prefix), note["count"], ids, note.get("annotation_file", ""))


def _are_published(prefix: str) -> bool:
    """Whole records that have no note of ours.

    Raises:
        UserError: they were renamed; new ones would overwrite what is whole under its old name.
    """
    if os.path.exists(note_path(prefix)):
        return False
    try:
        return count_rows(prefix) > 0
    except Renamed as error:
        raise UserError(
            f"mindrecord_dir: {prefix}* were renamed ({error}), and MindRecord files can only be read under the name "
            f"they were written with: name them back, or remove them to have them made anew"
        ) from None
    except NotWhole:
        return False


def _published(cfg, prefix: str, is_training: bool) -> Records:
    count = count_rows(prefix)
    warn_once(
        f"{prefix}*: {count} rows without a fingerprint of ours are used as they are; a change of annotations or "
        f"classes is not seen (remove the files to have them made anew)"
    )
    _check_labels(prefix, cfg.num_classes)
    annotation_file = "" if is_training else evaluation_json(cfg, prefix)
    if annotation_file and not os.path.exists(annotation_file):
        raise UserError(
            f"{prefix}* were written by another program, and the annotation file that belongs to them is missing: "
            f"{annotation_file}; remove the records to have both made anew"
        )
    return Records(record_files(prefix), count, None, annotation_file)


def _check_labels(prefix: str, num_classes: int) -> None:
    """The classes in the rows are those of the config, as far as their number tells."""
    import mindspore.dataset as ds

    rows = ds.MindDataset(record_files(prefix)[0], ["annotation"], shuffle=False)
    for (annotation,) in rows.create_tuple_iterator(num_epochs=1, output_numpy=True):
        label = stored_boxes(annotation)[:, 4].max(initial=0)
        if label >= num_classes:
            raise UserError(
                f"mindrecord_dir: {prefix}* hold class {label}, but num_classes is {num_classes}: they were made for "
                f"another class list; remove them to have them made anew"
            )


def evaluation_json(cfg, prefix: str) -> str:
    """The COCO-style annotation file that evaluation compares with."""
    if cfg.dataset == "coco":
        return os.path.join(data_file(cfg, cfg.coco_root), cfg.instances_set.format(cfg.val_data_type))
    return data_file(cfg, cfg.voc_json) if cfg.dataset == "voc" else prefix + "_instances.json"


def check_images_exist(data: DataSet) -> None:
    """Every image file is there.

    Raises:
        UserError: how many are not, and the first five.
    """
    missing = [sample.path for sample in data.samples if not os.path.isfile(sample.path)]
    if missing:
        few = printable(", ".join(missing[:5]))
        raise UserError(f"{data.where}: {len(missing)} of {len(data.samples)} images are missing: {few}")


def _write_if_stale(cfg, prefix: str, is_training: bool) -> None:
    what = "training" if is_training else "evaluation"
    _tell_foreign(prefix)
    annotation_file = "" if is_training else evaluation_json(cfg, prefix)
    settings = _settings(cfg, is_training)
    whole = not annotation_file or os.path.exists(annotation_file)
    if settings and whole and are_unchanged(prefix, settings, list(cfg.classes), cfg.max_bad_images):
        LOGGER.info("records for %s: %s* are up to date", what, prefix)
        return
    data = read_dataset(cfg, is_training)
    check_images_exist(data)
    images = [sample.path for sample in data.samples]
    wanted = fingerprint(data.sources, images, list(cfg.classes), cfg.max_bad_images)

    def reason() -> str:
        stale = stale_reason(prefix, wanted)
        return stale or ("" if not annotation_file or os.path.exists(annotation_file) else "their json is missing")

    if reason():
        with only_one_converter(os.path.dirname(prefix)):
            why = reason()  # another run may have made them while this one waited
            if why:
                LOGGER.info("records for %s: converting %d images to %s* (%s)", what, len(data.samples), prefix, why)
                convert(cfg, data, prefix, wanted, annotation_file)
                _note_origin(prefix, settings, data.sources, images)
                return
    _note_origin(prefix, settings, data.sources, images)
    LOGGER.info("records for %s: %s* are up to date", what, prefix)


def _note_origin(prefix: str, settings: dict, sources: List[str], images: List[str]) -> None:
    """`write_origin` where it will be looked at; without it (a folder that is only read) the next start reads the
    annotations again."""
    if settings:
        with contextlib.suppress(OutputError):
            write_origin(prefix, settings, sources, images)


def _settings(cfg, is_training: bool) -> dict:
    """What a reader takes from the config besides the class list; {} for VOC, whose files are found by looking."""
    if cfg.dataset == "voc":
        return {}
    keys = ("train_data_type" if is_training else "val_data_type", "instances_set", "anno_path", "anno_path_val")
    places = {key: data_file(cfg, cfg[key]) for key in ("coco_root", "image_dir")}
    return dict({key: cfg[key] for key in keys}, dataset=cfg.dataset, data_path=data_file(cfg, "."), **places)


def _tell_foreign(prefix: str) -> None:
    others = foreign_files(prefix)
    if others and not os.path.exists(note_path(prefix)):
        warn_once(
            f"{os.path.dirname(prefix)} holds MindRecord files under other names ({', '.join(others[:3])}); they are "
            f"not read: records are {os.path.basename(prefix)}0..7 and cannot be renamed after they were written"
        )
