#!/usr/bin/env python3
"""Draw a small data set in COCO format: discs, octagons and kites on photo-like backgrounds.

    python3 scripts/draw_shapes.py --output shapes [--train 600 --val 60 --image_size 256 --seed 1]

Writes train2017, val2017 and annotations/instances_{train,val}2017.json into the folder --output: all of them or, if it
fails or is stopped, nothing. The same arguments give the same files. Some images are grey JPEGs, some have a crowd box.
The file drawn.json lists all files. Drawing again with other arguments replaces only these, and stops with an error if
one of them was changed in the meantime.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.locks import hold_folder  # noqa: E402
from src.utils.output import (  # noqa: E402
    ensure_writable,  # noqa: E402
    output_error,
    write_json,
    write_picture,
)
from src.utils.signals import SignalGuard  # noqa: E402
from src.utils.text import one_line  # noqa: E402

VERSION = 3
RECORD, WORK = "drawn.json", ".drawing"
MAX_IMAGES = 70000  # per split: with more, the ids of both splits would overlap
# names and ids of COCO categories, so that a COCO class list works on this data
CATEGORIES = (("stop sign", 13), ("sports ball", 37), ("kite", 38))
ASPECTS = ((1.0, 1.0), (0.75, 1.0), (1.0, 0.75))
GREY_SHARE, CROWD_SHARE = 0.15, 0.05
MIN_SIZE, MAX_SIZE = 0.2, 0.6  # longer side of a shape relative to the longer side of the image
MIN_VISIBLE = 0.65  # share of a shape that later ones must leave visible


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth noise of several scales, a light gradient and blurred clutter: uint8 [H, W, 3]."""
    image = np.empty((height, width, 3), np.float32)
    image[:] = rng.uniform(90, 160) + rng.uniform(-30, 30, 3)
    for cells, strength in ((3, 45), (8, 25), (32, 10)):
        # mostly brightness, some colour
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
    """Fill a shape with a random colour of its kind, shading and a marking."""
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
            if all((old & (1 - mask)).sum() >= MIN_VISIBLE * full for old, full in masks):
                masks = [(old & (1 - mask), full) for old, full in masks] + [(mask, int(mask.sum()))]
                kinds.append(kind)
                paint(image, mask, kind, rng, points)
                break
    annotations = [(CATEGORIES[kind][1], *_box(mask), 0) for (mask, _), kind in zip(masks, kinds)]
    if rng.random() < CROWD_SHARE:
        annotations.append(_crowd(image, rng))
    return image, annotations


def _box(mask: np.ndarray) -> tuple:
    """Tight box [x, y, w, h] and area of the visible pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
    return [float(v) for v in box], float(mask.sum())


def _crowd(image: np.ndarray, rng: np.random.Generator) -> tuple:
    """A group of tiny discs with one crowd box."""
    height, width = image.shape[:2]
    w, h = int(width * 0.3), int(height * 0.18)
    x, y = int(rng.integers(width - w)), int(rng.integers(height - h))
    radius = min(4, (h - 1) // 2)  # in a small image the box is too small for the usual discs
    for _ in range(14):
        centre = (
            int(rng.integers(x + radius, x + w - radius)),
            int(rng.integers(y + radius, y + h - radius)),
        )
        cv2.circle(image, centre, radius, [int(v) for v in rng.integers(40, 240, 3)], -1, cv2.LINE_AA)
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
        write_picture(os.path.join(folder, name), image)
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
    write_json(json_path, {"images": images, "annotations": annotations, "categories": categories})


def draw_all(folder: str, options: argparse.Namespace) -> None:
    """Draw both splits into a folder."""
    for part, (split, count) in enumerate((("train2017", options.train), ("val2017", options.val))):
        draw_split(
            os.path.join(folder, split),
            os.path.join(folder, "annotations", f"instances_{split}.json"),
            count,
            [options.seed, part],
            options.image_size,
            1009 + part * 500000,
        )


def checksum(path: str) -> str:
    """SHA-256 of a file, "" if it does not exist."""
    if not os.path.isfile(path):
        return ""
    with open(path, "rb") as handle:
        return hashlib.sha256(handle.read()).hexdigest()


def checksums(folder: str) -> dict:
    """Relative path -> SHA-256 of every file below a folder, pictures first."""
    paths = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    paths.sort(key=lambda path: (path.endswith(".json"), path))
    return {os.path.relpath(path, folder): checksum(path) for path in paths}


def read_record(output: str) -> dict:
    """Read drawn.json: the arguments, `files` (path -> SHA-256) and, while files are being replaced, `earlier` (path ->
    list of SHA-256). {} for an empty folder, and for a damaged drawn.json: then no file counts as drawn.

    Raises:
        UserError: the folder has files but no drawn.json.
    """
    try:
        with open(os.path.join(output, RECORD), encoding="utf-8") as handle:
            content = json.load(handle)
        return content if isinstance(content, dict) else {}
    except FileNotFoundError:
        others = [name for name in os.listdir(output) if name not in (WORK, ".drawing.lock")]
        if others:
            raise UserError(
                f"--output: {one_line(output)} has files that this script did not draw; name an empty folder"
            ) from None
    except (OSError, ValueError):
        pass
    return {}


def known_checksums(record: dict) -> dict:
    """Path -> set of checksums that a file drawn by this script may have there."""
    found = {}
    for key in ("files", "earlier"):
        rows = record.get(key)
        for path, value in rows.items() if isinstance(rows, dict) else ():
            if not os.path.isabs(path) and ".." not in path.split("/"):
                found.setdefault(path, set()).update([value] if isinstance(value, str) else value)
    return found


def is_foreign(output: str, path: str, known: set) -> bool:
    """Whether the path is taken by content that this script did not draw, or a file is in place of its folder."""
    folder = os.path.join(output, os.path.dirname(path))
    if os.path.lexists(folder) and not os.path.isdir(folder):
        return True
    return os.path.lexists(os.path.join(output, path)) and checksum(os.path.join(output, path)) not in known


def publish(work: str, output: str, record: dict, arguments: dict) -> list:
    """Move the drawn files from `work` to `output`, and remove the other files of an earlier drawing.

    While it works, drawn.json lists both drawings, so that after a kill the next run recognises all files.

    Returns:
        The paths that were kept because the user changed these files.

    Raises:
        UserError: a path is taken by a file that this script did not draw; nothing is changed.
    """
    new, old = checksums(work), known_checksums(record)
    same = without_files(record) == arguments
    changed = [path for path, value in new.items() if is_foreign(output, path, {value, *old.get(path, ())})]
    if changed and not (same and all(os.path.isfile(os.path.join(output, path)) for path in changed)):
        raise UserError(
            f"--output: {one_line(output)}: {len(changed)} files were not drawn by this script, or were changed since "
            f"(first {changed[0]}), and would be replaced; move them away or name another folder"
        )
    write_json(os.path.join(output, RECORD), {"files": new, "earlier": {path: sorted(old[path]) for path in old}})
    for path in old:
        target = os.path.join(output, path)
        if path not in new and checksum(target) in old[path]:
            os.remove(target)
            with contextlib.suppress(OSError):  # it contains files of the user
                os.rmdir(os.path.dirname(target))
    for path in new:
        if path not in changed:
            os.makedirs(os.path.dirname(os.path.join(output, path)), exist_ok=True)
            os.replace(os.path.join(work, path), os.path.join(output, path))
    write_json(os.path.join(output, RECORD), dict(arguments, files=new))
    return changed


def without_files(record: dict) -> dict:
    """The arguments in drawn.json."""
    return {key: value for key, value in record.items() if key not in ("files", "earlier")}


def draw_into(output: str, options: argparse.Namespace) -> None:
    """Draw the data set into a locked folder, unless it was drawn there before."""
    arguments = {
        "version": VERSION,
        "train": options.train,
        "val": options.val,
        "seed": options.seed,
        "image_size": options.image_size,
    }
    record, work = read_record(output), os.path.join(output, WORK)
    files = known_checksums(record)
    if files and without_files(record) == arguments and all(os.path.isfile(os.path.join(output, p)) for p in files):
        print(f"already drawn: {one_line(output)}")
        return
    try:
        shutil.rmtree(work, ignore_errors=True)  # of a killed drawing
        draw_all(work, options)
        changed = publish(work, output, record, arguments)
    except OSError as error:
        raise output_error(error.filename or output, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"drew {options.train} training and {options.val} validation images: {one_line(output)}")
    if changed:
        print(f"not replaced, because they were changed since: {len(changed)} of them, first {changed[0]}")


def main(argv) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of the data set")
    parser.add_argument("--train", type=int, default=600, help="number of training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=60, help="number of validation images (default: %(default)s)")
    parser.add_argument(
        "--image_size", type=int, default=256, help="longer side in pixels, 64 to 4096 (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="random seed (default: %(default)s)")
    options = parser.parse_args(argv)
    if not (1 <= options.train <= MAX_IMAGES and 1 <= options.val <= MAX_IMAGES and 64 <= options.image_size <= 4096):
        raise UserError(f"--train and --val must lie in [1, {MAX_IMAGES}], --image_size in [64, 4096]")
    if not 0 <= options.seed < 2**64:
        raise UserError("--seed must lie in [0, 2^64)")
    SignalGuard().install()
    output = os.path.abspath(options.output)
    is_new = not os.path.isdir(output)
    ensure_writable(output, "output")
    try:
        with hold_folder(output, "drawing", key="output"):
            draw_into(output, options)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # empty when nothing was drawn
                os.rmdir(output)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
