"""Data for `scripts/benchmark.py`: drawn photos, boxes, and simulated outputs of a network."""

from __future__ import annotations

import contextlib
import os
import re

import cv2
import numpy as np

from src.boxes.default_boxes import default_boxes
from src.utils.output import atomic_write, write_json

PHOTOS, PHOTO_BYTES, BOXES = 640, 126_000, 8


def memory(key: str = "VmHWM") -> int:
    """Peak (VmHWM) or current (VmRSS) memory of this process in bytes. `getrusage` would include the peak of its
    parent; outside Linux it is taken all the same."""
    if not os.path.exists("/proc/self/status"):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    with open("/proc/self/status", encoding="utf-8") as handle:
        return 1024 * int(re.search(rf"{key}:\s+(\d+) kB", handle.read()).group(1))


def forget_peak() -> None:
    """Reset VmHWM (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="utf-8") as handle:
        handle.write("5")


def ground_truth(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes [count, 5] y1, x1, y2, x2, label: sizes as in COCO (half of them below 70 of 640 pixels), with corners on
    integer pixels, normalised."""
    side = np.exp(rng.normal(np.log(70), 0.9, count)).clip(6, 600)
    ratio = np.exp(rng.normal(0, 0.5, count))
    size = np.stack([side * np.sqrt(ratio), side / np.sqrt(ratio)], 1).round().clip(2, 640)
    low = (rng.uniform(0, 1, (count, 2)) * (640 - size)).round()
    return np.concatenate([np.hstack([low, low + size]) / 640, rng.integers(1, 81, (count, 1))], 1).astype(np.float32)


def network_output(seed: int, stage: str) -> tuple:
    """Boxes [51150, 4] and scores [51150, 81] like those of a network: a few groups of high scores ("trained"), many
    groups of low scores ("early in training"), or all scores near 0.5 ("untrained")."""
    rng = np.random.default_rng(seed)
    yxyx = default_boxes((640, 640))[1]
    boxes = np.clip(yxyx + rng.normal(0, 0.01, yxyx.shape), 0, 1).astype(np.float32)
    if stage == "untrained":
        return boxes, rng.uniform(0.45, 0.55, (len(boxes), 81)).astype(np.float32)
    scores = rng.uniform(0, 0.05, (len(boxes), 81)).astype(np.float32)
    objects, near, classes, apart = (10, 30, 1, 0.003) if stage == "trained" else (120, 40, 1, 0.02)
    for _ in range(objects):
        middle = boxes[rng.integers(len(boxes))]
        closest = np.argsort(np.abs(boxes - middle).sum(axis=1))[:near]
        boxes[closest] = np.clip(middle + rng.normal(0, apart, (near, 4)), 0, 1)
        for label in rng.integers(1, 81 if stage == "trained" else 21, classes):
            scores[closest, label] = np.linspace(0.95 if stage == "trained" else 0.4, 0.1, near)
    return boxes, scores


def photo(seed: int) -> bytes:
    """A JPEG of 640 x 480 pixels and about 126 KB with smooth and detailed parts."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.uniform(0, 255, (12, 16, 3)).astype(np.float32), (640, 480), interpolation=cv2.INTER_CUBIC)
    image += cv2.resize(rng.normal(0, 25, (120, 160, 3)).astype(np.float32), (640, 480))
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    best = b""
    for quality in range(70, 100, 2):
        content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if not best or abs(len(content) - PHOTO_BYTES) < abs(len(best) - PHOTO_BYTES):
            best = content
    return best


def small_picture(seed: int, side: int) -> bytes:
    """A JPEG of `side` x `side` pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    return cv2.imencode(".jpg", cv2.resize(pixels, (side, side)))[1].tobytes()


def coco_folder(work: str, count: int = PHOTOS, name: str = "photos", side: int = 0, boxes: int = BOXES) -> None:
    """Create the COCO data set `work/name` if it is missing: `count` photos (or images of `side` pixels), each with
    `boxes` boxes."""
    root = os.path.join(work, name)
    if os.path.exists(os.path.join(root, "annotations", "instances_train2017.json")):
        return
    os.makedirs(os.path.join(root, "train2017"), exist_ok=True)
    os.makedirs(os.path.join(root, "annotations"), exist_ok=True)
    rng, annotations = np.random.default_rng(1), []
    photos = [photo(seed) if not side else small_picture(seed, side) for seed in range(32)]
    width, height = (side, side) if side else (640, 480)
    for number in range(1, count + 1):
        with atomic_write(os.path.join(root, "train2017", f"{number:012}.jpg"), "wb", durable=False) as handle:
            handle.write(photos[number % len(photos)])
        for y1, x1, y2, x2, label in ground_truth(rng, boxes).tolist():
            box = [width * x1, height * y1, max(width * (x2 - x1), 2), max(height * (y2 - y1), 2)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1 + int(label) % 3,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    images = [{"id": k, "file_name": f"{k:012}.jpg", "height": height, "width": width} for k in range(1, count + 1)]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "kite"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(os.path.join(root, "annotations", "instances_train2017.json"), content)
