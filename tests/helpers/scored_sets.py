"""Random ground truth and detections as arrays, and pycocotools' results for them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.evaluation.scoring import Detections, Truth

IMAGES = 14


def random_set(seed, most=12, grid=True, crowds=0.15, weak=0, categories=4, sizes=(4, 150)):
    """(Truth, Detections): boxes on a grid with scores of one decimal (ties everywhere), or random floats.

    Every third image is empty and the last category has no ground truth; `weak`: more detections of category 0 in each
    fifth image.
    """
    rng = np.random.default_rng(seed)
    rows, found = [], []
    for image in range(IMAGES):
        objects = []
        for _ in range(int(rng.integers(0, most)) if image % 3 else 0):
            box = np.r_[rng.uniform(0, 200, 2), rng.uniform(*sizes, 2)]
            box = np.round(box) if grid else box
            rows.append((image, int(rng.integers(0, max(categories - 1, 1))), box, rng.uniform() < crowds))
            for _ in range(int(rng.integers(0, 12))):
                offset = rng.integers(-6, 7, 4) if grid else rng.normal(0, 8, 4)
                category = rows[-1][1] if rng.uniform() < 0.8 else int(rng.integers(0, categories))
                objects.append((category, np.maximum(box + offset, [0, 0, 1, 1])))
        for _ in range(5 + (weak if image % 5 == 0 else 0)):
            objects.append((0, np.r_[rng.uniform(0, 200, 2), rng.uniform(4, 150, 2)]))
        found += [(image, *one) for one in objects]
    scores = rng.uniform(0, 1, len(found))

    def column(rows, place):
        return np.array([row[place] for row in rows])

    boxes = column(rows, 2).reshape(-1, 4)
    truth = Truth(
        column(rows, 0).astype(int),
        column(rows, 1).astype(int),
        boxes,
        boxes[:, 2] * boxes[:, 3] * rng.choice([1, 0.6], len(boxes)),  # a mask's area is not the box's
        column(rows, 3).astype(bool),
    )
    return truth, Detections(
        column(found, 0).astype(int),
        column(found, 1).astype(int),
        column(found, 2),
        np.round(scores, 1) if grid else scores,
    )


def resampled(rows, weights):
    """The rows of a set (Truth or Detections) in which each image occurs as often as its weight says; the copies of an
    image follow each other."""
    positions = np.repeat(np.arange(IMAGES), weights)
    parts = [(np.flatnonzero(rows.image == old), new) for new, old in enumerate(positions)]
    order = np.concatenate([part for part, _ in parts])
    images = np.concatenate([np.full(len(part), new) for part, new in parts])
    return type(rows)(images, *(column[order] for column in rows[1:]))


def without_ties_in_an_image(found):
    """Lower the scores of an image by their position in it: equal scores are left between images only."""
    positions = np.arange(len(found.image)) - np.searchsorted(found.image, found.image)
    return found._replace(scores=found.scores - positions / 10000)


def index(images, categories, annotations):
    coco = COCO()
    coco.dataset = {
        "images": [{"id": one} for one in images],
        "categories": [{"id": one} for one in categories],
        "annotations": [dict(row, id=number) for number, row in enumerate(annotations, 1)],
    }
    coco.createIndex()
    return coco


def pycocotools(truth, found, categories, images=None):
    """A run of pycocotools; all its ids begin with 1."""
    columns = [column.tolist() for column in truth]
    given = [
        {"image_id": i + 1, "category_id": c + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, c, box, area, crowd in zip(*columns)
    ]
    columns = [column.tolist() for column in found]
    made = [
        {"image_id": i + 1, "category_id": c + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": score}
        for i, c, box, score in zip(*columns)
    ]
    every = [range(1, IMAGES + 1), range(1, categories + 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(index(*every, given), index(*every, made), "bbox")
        if images is not None:
            run.params.imgIds = (np.flatnonzero(images) + 1).tolist()
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run
