"""`scripts/benchmark.py scoring`: scoring of a set of the size of val2017, compared with pycocotools.

Each side runs in a separate process (`benchmarks/scoring.py ours|plain FOLDER`), to measure its peak of memory.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import numpy as np

from benchmarks.data import forget_peak, memory

IMAGES, BOXES, CLASSES, PER_IMAGE = 5000, 36500, 80, 100
HEIGHT, WIDTH = 480, 640
NAMES = ["background", *(f"class {number}" for number in range(1, CLASSES + 1))]


def scored_set(folder: str) -> None:
    """Create `folder/truth.json` and `folder/found.npz` if they are missing: boxes of sizes as in COCO, 1 % of them
    crowds, and 100 detections per image, up to five of them near each box, the others anywhere."""
    if os.path.exists(os.path.join(folder, "found.npz")):
        return
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(0, IMAGES, BOXES))
    side, ratio = np.exp(rng.normal(np.log(70), 0.9, BOXES)).clip(6, 470), np.exp(rng.normal(0, 0.4, BOXES))
    size = np.stack([side * np.sqrt(ratio), side / np.sqrt(ratio)], 1).clip(2, [WIDTH - 1, HEIGHT - 1])
    boxes = np.round(np.hstack([rng.uniform(0, 1, (BOXES, 2)) * ([WIDTH, HEIGHT] - size), size]), 2)
    share = 1 / np.arange(1, CLASSES + 1) ** 0.8
    label = rng.choice(CLASSES, BOXES, p=share / share.sum()) + 1
    for row in np.flatnonzero((image[1:] == image[:-1]) & (rng.uniform(size=BOXES - 1) < 0.6)) + 1:
        label[row] = label[row - 1]  # so that images have several objects of a class
    crowd = rng.uniform(size=BOXES) < 0.01
    content = {
        "images": [{"id": 7 * k, "file_name": f"{k}.jpg", "height": HEIGHT, "width": WIDTH} for k in range(IMAGES)],
        "categories": [{"id": k, "name": NAMES[k]} for k in range(1, CLASSES + 1)],
        "annotations": [
            {
                "id": k + 1,
                "image_id": 7 * i,
                "category_id": c,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(is_crowd),
            }
            for k, (i, c, box, is_crowd) in enumerate(zip(image.tolist(), label.tolist(), boxes.tolist(), crowd))
        ],
    }
    with open(os.path.join(folder, "truth.json"), "w", encoding="utf-8") as handle:
        json.dump(content, handle)
    starts, rows = np.searchsorted(image, np.arange(IMAGES + 1)), []
    for k in range(IMAGES):
        truth, classes = boxes[starts[k] : starts[k + 1]], label[starts[k] : starts[k + 1]]
        near = min(5 * len(truth), PER_IMAGE)
        pick = rng.integers(0, len(truth), near) if near else np.empty(0, int)
        corners = np.hstack([truth[:, 1::-1], truth[:, 1::-1] + truth[:, 3:1:-1]])[pick]
        corners = corners + rng.normal(0, 0.08, corners.shape) * truth[pick, 2:].mean(axis=1, keepdims=True)
        low = rng.uniform(0, 0.8, (PER_IMAGE - near, 2)) * [HEIGHT, WIDTH]
        away = np.hstack([low, low + rng.uniform(0.03, 0.4, low.shape) * [HEIGHT, WIDTH]])
        found = np.clip(np.vstack([corners, away]) / ([HEIGHT, WIDTH] * 2), 0, 1).astype(np.float32)
        scores = np.r_[rng.beta(2, 3, near), 0.02 + 0.5 * rng.beta(1, 9, PER_IMAGE - near)].astype(np.float32)
        labels = rng.integers(1, CLASSES + 1, PER_IMAGE)
        labels[:near] = np.where(rng.uniform(size=near) < 0.8, classes[pick], labels[:near])
        order = np.lexsort((-scores, labels))
        rows.append((found[order] * np.array([HEIGHT, WIDTH] * 2, np.float64), scores[order], labels[order]))
    found, scores, labels = (np.stack(column) for column in zip(*rows))
    np.savez(os.path.join(folder, "found.npz"), boxes=found, scores=scores, labels=labels)


def ours(folder: str) -> dict:
    """Seconds of saving and scoring with `CocoEvaluator` (both protocols, classes and curves), and the metrics."""
    from src.evaluation.coco_evaluator import CocoEvaluator

    evaluator = CocoEvaluator(os.path.join(folder, "truth.json"), NAMES)
    with np.load(os.path.join(folder, "found.npz")) as found:
        for k, rows in enumerate(zip(found["boxes"], found["scores"], found["labels"])):
            evaluator.add(7 * k, *rows)
    saving = time.perf_counter()
    evaluator.save(os.path.join(folder, "predictions.json"))
    start = time.perf_counter()
    stats = evaluator.summarize()["stats"]
    evaluator.curves()
    return {"saving": start - saving, "scoring": time.perf_counter() - start, "stats": stats}


def plain(folder: str) -> dict:
    """The same with pycocotools for one protocol; detections are dicts."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with open(os.path.join(folder, "predictions.json"), encoding="utf-8") as handle:
        detections = json.load(handle)
    forget_peak()
    saving = time.perf_counter()
    with open(os.path.join(folder, "plain.json"), "w", encoding="utf-8") as handle:
        json.dump(detections, handle)
        handle.flush()
        os.fsync(handle.fileno())
    saving = time.perf_counter() - saving
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(os.path.join(folder, "truth.json"))
        start = time.perf_counter()
        run = COCOeval(truth, truth.loadRes(detections), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return {"saving": saving, "scoring": time.perf_counter() - start, "stats": run.stats.tolist()}


def measure_scoring(table, options) -> None:
    """Scoring of 500,000 detections on 5,000 images with 36,500 boxes."""
    folder = os.path.join(options.work, "scoring")
    scored_set(folder)
    results = []
    for side in ("ours", "plain"):
        command = [sys.executable, os.path.abspath(__file__), side, folder]
        results.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    mine, theirs = results
    assert mine["stats"] == theirs["stats"], "the metrics differ"
    note = f"mAP {mine['stats'][0]!r} on both sides; ours: two protocols, plain: pycocotools, one"
    table.add("scoring 500,000 detections", "s", mine["scoring"], theirs["scoring"], note)
    table.add("peak memory of scoring", "MB", mine["peak"] / 1e6, theirs["peak"] / 1e6)
    table.add("saving predictions.json", "s", mine["saving"], theirs["saving"], "plain: json.dump")


if __name__ == "__main__":
    measured = {"ours": ours, "plain": plain}[sys.argv[1]](sys.argv[2])
    print(json.dumps(dict(measured, peak=memory())))
