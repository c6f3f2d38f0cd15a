"""The formats: data set name -> reader."""

from __future__ import annotations

from src.data.coco import read_coco
from src.data.listfile import read_list
from src.data.sample import DataSet
from src.data.voc import read_voc
from src.errors import UserError

READERS = {"coco": read_coco, "voc": read_voc, "other": read_list}


def read_dataset(cfg, is_training: bool) -> DataSet:
    """The samples of a config's data set.

    Raises:
        UserError: a root, file or annotation that is missing or cannot be used; nothing to train on.
    """
    data = READERS[cfg.dataset](cfg, is_training)
    if not data.samples:
        what = "image with a box of the listed classes" if is_training else "image"
        raise UserError(f"{data.sources[0]}: no {what}")
    return data
