"""Hand-made sets of labelling tools: the annotations of each lie at one place, and what the readers say about them."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from src.data.readers import read_dataset
from src.data.records.prepare import check_images_exist
from src.utils.errors import UserError
from tests.helpers.annotations import config

ANNO = {"yolo": "yolo/data.yaml", "labelme": "labelme", "cvat": "annotations.xml", "label_studio": "tasks.json"}


def read(folder, dataset, *more, is_training=True):
    """The data set that the files of a test give."""
    return read_dataset(settings(folder, dataset, *more), is_training)


def settings(folder, dataset, *more):
    """The configuration that reads the files of a test."""
    return config(folder, f"--dataset={dataset}", f"--anno_path={ANNO[dataset]}", "--image_dir=", *more)


def picture(path, height=100, width=200):
    """Write a grey picture."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def refused(folder, dataset, *words, is_training=True, more=()):
    """The reader, or what follows it, ends in one line with these words."""
    with pytest.raises(UserError) as error:
        check_images_exist(read(folder, dataset, *more, is_training=is_training))
    assert len(str(error.value).splitlines()) == 1
    assert all(word in str(error.value) for word in words), str(error.value)
