"""The formats: data set name -> reader."""

from __future__ import annotations

from src.data.coco import read_coco
from src.data.listfile import read_list
from src.data.sample import DataSet
from src.data.voc import read_voc
from src.errors import UserError
from src.log import warn_once

READERS = {"coco": read_coco, "voc": read_voc, "other": read_list}
"""Each reader: (cfg, is_training) -> DataSet. It raises UserError only where nothing can be read at all (a missing
folder or file, no JSON); every other fault is in `DataSet.faults`, so that a check can list them all."""


def read_dataset(cfg, is_training: bool) -> DataSet:
    """The samples of a config's data set: for training the images with a box, for evaluation every image.

    What was mended is told once, one line a kind.

    Raises:
        UserError: a root, file or annotation that is missing or cannot be used; nothing to train on.
    """
    data = READERS[cfg.dataset](cfg, is_training)
    data.faults.raise_refused(data.where)
    for line in data.faults.repaired_lines():
        warn_once(f"{data.where}: {line}")
    if is_training:
        data.samples = [sample for sample in data.samples if len(sample.boxes)]
    if not data.samples:
        what = "image with a box of the listed classes" if is_training else "image"
        raise UserError(f"{data.where}: no {what}")
    return data
