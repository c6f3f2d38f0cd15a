"""The formats: data set name -> reader."""

from __future__ import annotations

from typing import Sequence

from src.data.issues import Issues
from src.data.readers.coco import read_coco
from src.data.readers.cvat import read_cvat
from src.data.readers.doubts import note_doubts
from src.data.readers.label_studio import read_label_studio
from src.data.readers.labelme import read_labelme
from src.data.readers.list_file import read_list
from src.data.readers.voc import read_voc
from src.data.readers.yolo import read_yolo
from src.data.sample import DataSet, Sample
from src.utils.errors import UserError
from src.utils.log import warn_once

READERS = {
    "coco": read_coco,
    "voc": read_voc,
    "other": read_list,
    "yolo": read_yolo,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "label_studio": read_label_studio,
}
"""Each reader: (cfg, is_training) -> DataSet. It raises UserError only if nothing can be read at all (a missing
folder or file, invalid JSON); every other problem is in `DataSet.issues`, so that a check can list them all."""


def read_dataset(cfg, is_training: bool) -> DataSet:
    """The samples of a config's data set: for training images with a box, with `negative_images` the others too; every
    image for evaluation.

    Each kind of repaired problem is logged once, with its count and first occurrences.

    Raises:
        UserError: a root, file or annotation that is missing or cannot be used; nothing to train on.
    """
    data = READERS[cfg.dataset](cfg, is_training)
    data.issues.raise_errors(data.where)
    note_doubts(data.samples, data.form, data.issues)
    if is_training:
        note_without_boxes(data.samples, data.issues, cfg.negative_images)
        with_box = [sample for sample in data.samples if len(sample.boxes)]
        if not with_box or not cfg.negative_images:
            data.left_out = [sample for sample in data.samples if not len(sample.boxes)]
            data.samples = with_box
    for line in data.issues.repaired_lines():
        warn_once(f"{data.where}: {line}")
    if not data.samples:
        what = "image with a box of the listed classes" if is_training else "image"
        raise UserError(f"{data.where}: no {what}")
    return data


def note_without_boxes(samples: Sequence[Sample], issues: Issues, are_used: bool) -> None:
    """Note the images without a box, which training leaves out or, with `negative_images`, uses as background."""
    use = "are trained as background" if are_used else "are left out of training"
    kind = f"of {len(samples)} images have no box of the listed classes and {use}"
    for sample in samples:
        if len(sample.boxes) == 0:
            issues.warn(kind, sample.path)
