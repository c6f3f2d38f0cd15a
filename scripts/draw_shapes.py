#!/usr/bin/env python3
"""Draw a small data set in COCO format: discs, octagons and kites on photo-like backgrounds.

    python3 scripts/draw_shapes.py --output shapes [--train 600 --val 60 --image_size 256 --seed 1]

Writes DIR/train2017, DIR/val2017 and DIR/annotations/instances_{train,val}2017.json, whole or not at
all. The same arguments give the same files. Some images are grey JPEGs, some hold a crowd box.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it tells in one line where this Python has no packages
import src  # noqa: E402, F401

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from src.errors import UserError, run_main  # noqa: E402

VERSION = 3
# names and ids of COCO's own categories, so that a COCO class list works on this data
CATEGORIES = (("stop sign", 13), ("sports ball", 37), ("kite", 38))
ASPECTS = ((1.0, 1.0), (0.75, 1.0), (1.0, 0.75))
GREY_SHARE, CROWD_SHARE = 0.15, 0.05
MIN_SIZE, MAX_SIZE = 0.2, 0.6  # longer side of a shape over the longer side of the image
VISIBLE = 0.65  # of a shape that a later one may not cover


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth noise of several scales, a light gradient and blurred clutter: uint8 [H, W, 3]."""
    image = np.empty((height, width, 3), np.float32)
    image[:] = rng.uniform(90, 160) + rng.uniform(-30, 30, 3)
    for cells, strength in ((3, 45), (8, 25), (32, 10)):
        # mostly light and dark, a little colour
        noise = rng.normal(0, strength, (cells, cells, 1)) + rng.normal(0, strength / 3, (cells, cells, 3))
        noise = noise.astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    light = np.linspace(*rng.uniform(-30, 30, 2), height)[:, None] + np.linspace(*rng.uniform(-30, 30, 2), width)
    image += light[..., None]
    for _ in range(int(rng.integers(2, 7))):
        start = (int(rng.integers(width)), int(rng.integers(height)))
        end = (int(rng.integers(width)), int(rng.integers(height)))
        colour = rng.uniform(30, 220, 3).tolist()
        cv2.line(image, start, end, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
    image = cv2.GaussianBlur(image, (0, 0), 1.5)
    return np.clip(image, 0, 255).astype(np.uint8)


def outline(kind: int, rng: np.random.Generator, centre: np.ndarray, size: float) -> np.ndarray:
    """Corner points [K, 2] (x, y) in pixels of a shape whose longer side is about `size`."""
    if kind == 0:
        angles = (np.arange(8) + 0.5) * np.pi / 4
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * size / 2 / np.cos(np.pi / 8)
        turn = rng.uniform(-0.2, 0.2)
    elif kind == 1:
        angles = np.arange(72) * np.pi / 36
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * size / 2
        turn = 0.0
    else:
        narrow = rng.uniform(0.55, 0.8)
        points = np.array([[0, -0.5], [narrow / 2, -0.1], [0, 0.5], [-narrow / 2, -0.1]]) * size
        turn = rng.uniform(-0.7, 0.7)
    cos, sin = np.cos(turn), np.sin(turn)
    return points @ np.array([[cos, sin], [-sin, cos]]) + centre


def paint(image: np.ndarray, mask: np.ndarray, kind: int, rng: np.random.Generator, points: np.ndarray) -> None:
    """Fill a shape with a colour of its kind's range, shading and a marking."""
    bases = ((40, 40, 200), (60, 180, 235), (190, 110, 40))  # BGR
    colour = np.clip(np.array(bases[kind]) + rng.uniform(-45, 45, 3), 0, 255)
    height, width = mask.shape
    shade = np.linspace(1.15, 0.8, height)[:, None] * np.linspace(1.1, 0.9, width)[None]
    layer = np.clip(colour * shade[..., None] + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
    centre = points.mean(axis=0)
    inner = ((points - centre) * 0.8 + centre).round().astype(np.int32)
    light = tuple(int(v) for v in np.clip(colour + 110, 0, 255))
    dark = tuple(int(v) for v in np.clip(colour - 90, 0, 255))
    radius = float(np.abs(points - centre).max())
    thick = max(1, int(radius / 12))
    if kind == 0:
        cv2.polylines(layer, [inner], True, light, thick, cv2.LINE_AA)
    elif kind == 1:
        cv2.ellipse(
            layer,
            tuple(centre.round().astype(int).tolist()),
            (int(radius), int(radius * 0.4)),
            float(rng.uniform(0, 180)),
            0,
            360,
            dark,
            thick,
            cv2.LINE_AA,
        )
    else:
        for a, b in ((0, 2), (1, 3)):
            cv2.line(
                layer,
                tuple(points[a].round().astype(int).tolist()),
                tuple(points[b].round().astype(int).tolist()),
                dark,
                thick,
                cv2.LINE_AA,
            )
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)[..., None]
    image[:] = np.round(image * (1 - alpha) + layer * alpha).astype(np.uint8)


def draw_image(rng: np.random.Generator, longest: int) -> tuple:
    """One picture: uint8 BGR [H, W, 3] and a list of (category id, bbox [x, y, w, h], area, iscrowd)."""
    height, width = (int(longest * side) for side in ASPECTS[rng.integers(len(ASPECTS))])
    image = background(rng, height, width)
    masks, kinds = [], []
    for _ in range(int(rng.integers(1, 5))):
        kind = int(rng.integers(3))
        for _ in range(20):
            size = longest * np.exp(rng.uniform(np.log(MIN_SIZE), np.log(MAX_SIZE)))
            centre = rng.uniform(
                size * 0.45, [max(width - size * 0.45, size * 0.45 + 1), max(height - size * 0.45, size * 0.45 + 1)]
            )
            points = outline(kind, rng, centre, size)
            mask = np.zeros((height, width), np.uint8)
            cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
            if mask.sum() < 0.85 * cv2.contourArea(points.astype(np.float32)):
                continue
            if all((old & (1 - mask)).sum() >= VISIBLE * full for old, full in masks):
                masks = [(old & (1 - mask), full) for old, full in masks] + [(mask, int(mask.sum()))]
                kinds.append(kind)
                paint(image, mask, kind, rng, points)
                break
    annotations = [(CATEGORIES[kind][1], *_box(mask), 0) for (mask, _), kind in zip(masks, kinds)]
    if rng.random() < CROWD_SHARE:
        annotations.append(_crowd(image, rng))
    return image, annotations


def _box(mask: np.ndarray) -> tuple:
    """Tight [x, y, w, h] and area of a mask's visible pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
    return [float(v) for v in box], float(mask.sum())


def _crowd(image: np.ndarray, rng: np.random.Generator) -> tuple:
    """A group of tiny discs under one crowd box."""
    height, width = image.shape[:2]
    w, h = int(width * 0.3), int(height * 0.18)
    x, y = int(rng.integers(width - w)), int(rng.integers(height - h))
    for _ in range(14):
        centre = (int(rng.integers(x + 4, x + w - 4)), int(rng.integers(y + 4, y + h - 4)))
        cv2.circle(image, centre, 4, [int(v) for v in rng.integers(40, 240, 3)], -1, cv2.LINE_AA)
    return CATEGORIES[1][1], [float(x), float(y), float(w), float(h)], float(w * h), 1


def draw_split(folder: str, json_path: str, count: int, seed: list, longest: int, first_id: int) -> None:
    """Draw `count` pictures and their annotation file."""
    os.makedirs(folder)
    images, annotations = [], []
    for index in range(count):
        rng = np.random.default_rng(seed + [index])
        image, found = draw_image(rng, longest)
        image_id = first_id + 7 * index
        name = f"{image_id:012d}.jpg"
        if rng.random() < GREY_SHARE:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        if not cv2.imwrite(os.path.join(folder, name), image, [cv2.IMWRITE_JPEG_QUALITY, 92]):
            raise UserError(f"cannot write {os.path.join(folder, name)}")
        images.append({"id": image_id, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
        for category, box, area, crowd in found:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "area": area,
                    "iscrowd": crowd,
                }
            )
    categories = [{"id": number, "name": name, "supercategory": "shape"} for name, number in CATEGORIES]
    with open(json_path, "w", encoding="utf-8") as handle:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, handle)


def main(argv) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of the data set")
    parser.add_argument("--train", type=int, default=600, help="training images")
    parser.add_argument("--val", type=int, default=60, help="held-out images")
    parser.add_argument("--image_size", type=int, default=256, help="longer side in pixels")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    if options.train < 1 or options.val < 1 or options.image_size < 64 or options.seed < 0:
        raise UserError("--train and --val must be at least 1, --image_size at least 64, --seed at least 0")
    output = os.path.abspath(options.output)
    stamp = json.dumps(
        {
            "version": VERSION,
            "train": options.train,
            "val": options.val,
            "seed": options.seed,
            "image_size": options.image_size,
        },
        sort_keys=True,
    )
    stamp_file = os.path.join(output, "drawn.json")
    if os.path.isdir(output) and os.listdir(output):
        if not os.path.exists(stamp_file):
            raise UserError(f"--output: {output} holds files that this script did not draw; name an empty folder")
        with open(stamp_file, encoding="utf-8") as handle:
            if handle.read() == stamp:
                print(f"already drawn: {output}")
                return 0
    os.makedirs(os.path.dirname(output), exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".drawing-", dir=os.path.dirname(output))
    try:
        os.makedirs(os.path.join(temporary, "annotations"))
        for part, (split, count) in enumerate((("train2017", options.train), ("val2017", options.val))):
            draw_split(
                os.path.join(temporary, split),
                os.path.join(temporary, "annotations", f"instances_{split}.json"),
                count,
                [options.seed, part],
                options.image_size,
                1009 + part * 500000,
            )
        with open(os.path.join(temporary, "drawn.json"), "w", encoding="utf-8") as handle:
            handle.write(stamp)
        shutil.rmtree(output, ignore_errors=True)
        os.chmod(temporary, 0o755)
        os.rename(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"drew {options.train} training and {options.val} held-out images: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
