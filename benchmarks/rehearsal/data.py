#!/usr/bin/env python3
"""The data of scripts/rehearsal.py: a drawn set of the size of COCO, and one pass of the input pipeline over it.

    python3 benchmarks/rehearsal/data.py draw DIR --scale 1.0
    python3 benchmarks/rehearsal/data.py read --config_path FILE [--key=value ...]

`draw` writes DIR/train2017, DIR/val2017, DIR/annotations and DIR/drawn.json (numbers of images and boxes). `read` reads
all batches of an epoch from the records and prints the number of images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from src.config import load_config  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.output import atomic_write, output_error, write_json  # noqa: E402

# split -> (images, images with a box, boxes), as in COCO 2017
SPLITS = {"train2017": (118287, 117266, 860001), "val2017": (5000, 4952, 36781)}
LARGEST_IMAGE_ID = 581929
NO_CATEGORIES = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids in 1..90 that COCO does not use
PERSONS, CROWDS = 0.3, 0.01  # shares of the boxes
SIDES = ((64, 64), (48, 64), (64, 48), (43, 64))  # height, width
BASES = 75  # backgrounds of each size
SHAPES = 300  # number of different outlines
SMALLEST = 4.0  # pixels


class Split(NamedTuple):
    """The plan of a split.

    image_ids [N]; sides [N, 2] height, width; starts [N + 1]: image n has the boxes starts[n] to starts[n + 1] - 1;
    boxes float64 [M, 4] x, y, width, height in pixels; labels [M] 0..79; crowds bool [M].
    """

    image_ids: np.ndarray
    sides: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray


def scaled(split: str, scale: float) -> tuple:
    """(images, images with a box, boxes) of a split at a scale."""
    pictures, boxed, boxes = (max(int(round(number * scale)), 8) for number in SPLITS[split])
    return pictures, min(boxed, pictures - 1), max(boxes, boxed)


def category_ids() -> List[int]:
    """The 80 category ids of COCO, ascending."""
    return [number for number in range(1, 91) if number not in NO_CATEGORIES]


def _image_ids(scale: float) -> Dict[str, np.ndarray]:
    """Image ids of both splits: distinct, unordered, the largest as in COCO."""
    counts = [scaled(split, scale)[0] for split in SPLITS]
    ids = np.random.default_rng(2017).permutation(LARGEST_IMAGE_ID - 1)[: sum(counts)] + 1
    ids[0] = LARGEST_IMAGE_ID
    return dict(zip(SPLITS, np.split(ids, [counts[0]])))


def plan(split: str, scale: float) -> Split:
    """Image sizes, boxes and classes of a split, always the same at the same scale."""
    pictures, boxed, total = scaled(split, scale)
    rng = np.random.default_rng([7, list(SPLITS).index(split)])
    sides = np.array(SIDES)[rng.integers(len(SIDES), size=pictures)]
    # a long tail, as in COCO: 7 boxes on average, 90 in a few images
    weights = rng.gamma(0.9, size=boxed)
    counts = np.zeros(pictures, np.int64)
    counts[rng.permutation(pictures)[:boxed]] = 1 + rng.multinomial(total - boxed, weights / weights.sum())
    starts = np.concatenate([[0], np.cumsum(counts)])
    of_box = np.repeat(sides, counts, axis=0)[:, ::-1].astype(np.float64)  # width, height
    size = of_box.mean(1, keepdims=True) * np.exp(rng.normal(np.log(0.3), 0.6, (total, 1)))
    ratio = np.exp(rng.normal(0, 0.4, (total, 1)))
    size = np.clip(np.hstack([size * ratio, size / ratio]), SMALLEST, 0.98 * of_box)
    low = rng.uniform(0, 1, (total, 2)) * (of_box - size)
    boxes = np.floor(np.hstack([low, size]) * 100) / 100
    tail = 1 / np.arange(2, 81)
    shares = np.concatenate([[PERSONS], (1 - PERSONS) * tail / tail.sum()])
    labels = rng.choice(80, total, p=shares)
    crowds = np.zeros(total, bool)
    crowds[rng.permutation(total)[: max(int(round(CROWDS * total)), 1)]] = True
    return Split(_image_ids(scale)[split], sides, starts, boxes, labels, crowds)


def _backgrounds() -> Dict[tuple, List[np.ndarray]]:
    rng, found = np.random.default_rng(5), {}
    for height, width in SIDES:
        cells = [rng.integers(20, 236, (6, 6, 3)).astype(np.uint8) for _ in range(BASES)]
        found[(height, width)] = [
            cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) for coarse in cells
        ]
    return found


def _palette() -> List[tuple]:
    hues = np.linspace(0, 179, 80).astype(np.uint8)
    hsv = np.stack([hues, np.full(80, 220, np.uint8), np.where(np.arange(80) % 2, 230, 140).astype(np.uint8)], 1)
    return [tuple(int(v) for v in row) for row in cv2.cvtColor(hsv[None], cv2.COLOR_HSV2BGR)[0]]


def picture(data: Split, number: int, backgrounds: dict, palette: list) -> bytes:
    """The JPEG of one image: a filled rectangle or ellipse for each box, and a comment that makes the file unique."""
    key = tuple(data.sides[number].tolist())
    image = backgrounds[key][int(data.image_ids[number]) % BASES].copy()
    rows = slice(data.starts[number], data.starts[number + 1])
    for (x, y, width, height), label in zip(data.boxes[rows].tolist(), data.labels[rows].tolist()):
        corners = (round(x), round(y)), (round(x + width) - 1, round(y + height) - 1)
        if label % 2:
            cv2.rectangle(image, *corners, palette[label], -1)
        else:
            middle = (int(x + width / 2), int(y + height / 2))
            cv2.ellipse(image, middle, (int(width / 2), int(height / 2)), 0, 0, 360, palette[label], -1)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    comment = f"rehearsal {data.image_ids[number]}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def _outlines() -> tuple:
    """(polygons, run lengths) as JSON text of COCO's length: 370 bytes of an annotation's 500. No program here reads
    them, but every reader of the file has to pass them."""
    rng = np.random.default_rng(11)
    polygons = []
    for length in rng.integers(16, 90, SHAPES):
        numbers = ",".join(f"{value:.2f}" for value in rng.uniform(0, 640, 2 * (length // 2)))
        polygons.append(f"[[{numbers}]]")
    runs = []
    for length in rng.integers(100, 900, 20):
        numbers = ",".join(str(value) for value in rng.integers(1, 900, length))
        runs.append(f'{{"counts": [{numbers}],"size": [64,64]}}')
    return polygons, runs


def _write_annotations(path: str, split: str, data: Split) -> None:
    ids, names = category_ids(), load_config(["--device_target=CPU"]).classes[1:]
    polygons, runs = _outlines()
    with atomic_write(path, durable=False) as handle:
        handle.write('{"info": {"description": "drawn by benchmarks/rehearsal/data.py"},"licenses": [],"images": [')
        for number, (image_id, (height, width)) in enumerate(zip(data.image_ids.tolist(), data.sides.tolist())):
            handle.write("," if number else "")
            handle.write(
                f'{{"license": 3,"file_name": "{image_id:012d}.jpg","coco_url": '
                f'"http://images.cocodataset.org/{split}/{image_id:012d}.jpg","height": {height},"width": {width},'
                f'"date_captured": "2013-11-14 11:18:45","flickr_url": '
                f'"http://farm9.staticflickr.com/8186/{image_id:010d}_a3a52b0a0e_z.jpg","id": {image_id}}}'
            )
        handle.write('],"annotations": [')
        owners = np.repeat(data.image_ids, np.diff(data.starts)).tolist()
        rows = zip(owners, data.boxes.tolist(), data.labels.tolist(), data.crowds.tolist())
        for number, (owner, (x, y, width, height), label, crowd) in enumerate(rows, 1):
            shape = runs[number % len(runs)] if crowd else polygons[number % SHAPES]
            handle.write("," if number > 1 else "")
            handle.write(
                f'{{"segmentation": {shape},"area": {0.6 * width * height:.4f},"iscrowd": {int(crowd)},'
                f'"image_id": {owner},"bbox": [{x:.2f},{y:.2f},{width:.2f},{height:.2f}],'
                f'"category_id": {ids[label]},"id": {number}}}'
            )
        categories = [{"supercategory": "thing", "id": number, "name": name} for number, name in zip(ids, names)]
        handle.write(f'],"categories": {json.dumps(categories)}}}')


def draw(folder: str, scale: float) -> dict:
    """Draw both splits below `folder`.

    Returns:
        split -> {"images", "images_with_boxes", "boxes", "crowds"}, which is also written to drawn.json.

    Raises:
        OutputError: a file cannot be written.
    """
    backgrounds, palette, drawn = _backgrounds(), _palette(), {}
    for split in SPLITS:
        data = plan(split, scale)
        pictures = os.path.join(folder, split)

        def write(number: int, data=data, pictures=pictures) -> None:
            path = os.path.join(pictures, f"{data.image_ids[number]:012d}.jpg")
            try:
                with open(path, "wb") as handle:
                    handle.write(picture(data, number, backgrounds, palette))
            except OSError as error:
                raise output_error(path, error) from error

        try:
            os.makedirs(pictures)
        except OSError as error:
            raise output_error(pictures, error) from error
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for _ in pool.map(write, range(len(data.image_ids))):
                pass
        _write_annotations(os.path.join(folder, "annotations", f"instances_{split}.json"), split, data)
        counts = np.diff(data.starts)
        drawn[split] = {
            "images": len(counts),
            "images_with_boxes": int((counts > 0).sum()),
            "boxes": len(data.boxes),
            "crowds": int(data.crowds.sum()),
        }
        print(f"{split}: {drawn[split]}", flush=True)
    write_json(os.path.join(folder, "drawn.json"), drawn)
    return drawn


def read(argv: list) -> None:
    """Read one epoch of training batches, without training."""
    cfg = load_config(argv)
    from src.data.pipeline import TrainLoader
    from src.data.records import prepare_records
    from src.utils.device import prepare_environment
    from src.utils.log import setup_logging

    setup_logging()
    prepare_environment()
    data, images = TrainLoader(prepare_records(cfg, is_training=True), cfg), 0
    for pixels, _, _ in data.numpy_batches(0):
        images += len(pixels)
    print(f"read {images} images in {data.steps} batches")


def main(argv) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("draw", "read"), help="see above")
    if argv and argv[0] == "read":
        read(argv[1:])
        return 0
    parser.add_argument("folder", help="folder to draw into; it must be empty or missing")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the numbers (default: %(default)s)")
    options = parser.parse_args(argv)
    if not 0 < options.scale <= 1:
        raise UserError(f"--scale must lie in (0, 1], got {options.scale}")
    if os.path.isdir(options.folder) and os.listdir(options.folder):
        raise UserError(f"{os.path.abspath(options.folder)} is not empty; name an empty folder")
    draw(os.path.abspath(options.folder), options.scale)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
