#!/usr/bin/env python3
"""Draw ground truth (green) and detections (red) on pictures.

    python3 scripts/draw_detections.py --annotations instances_val2017.json --images val2017 \
        --predictions output/predictions.json --output pictures [--count 12 --min_score 0.3]
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import cv2
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src.data.coco import load_coco_json  # noqa: E402
from src.data.images import decode_rgb  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402

GREEN, RED = (60, 200, 60), (40, 40, 230)  # BGR
TILE = 384


def draw(image: np.ndarray, boxes: list, colour: tuple, below: bool) -> None:
    """Boxes [(x, y, w, h), text] on a BGR image in place."""
    for (x, y, w, h), text in boxes:
        first, last = (int(round(x)), int(round(y))), (int(round(x + w)), int(round(y + h)))
        cv2.rectangle(image, first, last, colour, 2)
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
        top = last[1] + height + 5 if below else first[1] - 4
        top = int(np.clip(top, height + 2, image.shape[0] - 3))
        left = int(np.clip(first[0], 0, max(image.shape[1] - width, 0)))
        cv2.rectangle(image, (left, top - height - 2), (left + width, top + 3), colour, -1)
        cv2.putText(image, text, (left, top), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)


def tile(image: np.ndarray) -> np.ndarray:
    """The image centred on a white square."""
    square = np.full((TILE, TILE, 3), 255, np.uint8)
    y, x = (TILE - image.shape[0]) // 2, (TILE - image.shape[1]) // 2
    square[y : y + image.shape[0], x : x + image.shape[1]] = image
    return square


def main(argv) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("annotations", "images", "predictions", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--min_score", type=float, default=0.3)
    options = parser.parse_args(argv)
    content = load_coco_json(options.annotations)
    try:
        with open(options.predictions, encoding="utf-8") as handle:
            predictions = json.load(handle)
    except (OSError, ValueError) as error:
        raise UserError(f"--predictions: cannot read {options.predictions}: {error}") from None
    names = {category["id"]: category["name"] for category in content["categories"]}
    os.makedirs(options.output, exist_ok=True)
    tiles = []
    for record in content["images"][: options.count]:
        path = os.path.join(options.images, record["file_name"])
        try:
            with open(path, "rb") as handle:
                image = decode_rgb(handle.read())[..., ::-1]
        except (OSError, ValueError) as error:
            raise UserError(f"--images: cannot read {path}: {error}") from None
        scale = TILE / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        truth = [
            (np.array(a["bbox"]) * scale, names[a["category_id"]] + (" (crowd)" if a["iscrowd"] else ""))
            for a in content["annotations"]
            if a["image_id"] == record["id"]
        ]
        found = [
            (np.array(d["bbox"]) * scale, f"{names[d['category_id']]} {d['score']:.2f}")
            for d in predictions
            if d["image_id"] == record["id"] and d["score"] >= options.min_score
        ]
        draw(image, truth, GREEN, below=True)
        draw(image, found, RED, below=False)
        name = os.path.splitext(os.path.basename(record["file_name"]))[0] + ".png"
        cv2.imwrite(os.path.join(options.output, name), image)
        tiles.append(tile(image[:TILE, :TILE]))
    while len(tiles) % 4:
        tiles.append(np.full((TILE, TILE, 3), 255, np.uint8))
    sheet = np.vstack([np.hstack(tiles[start : start + 4]) for start in range(0, len(tiles), 4)])
    cv2.imwrite(os.path.join(options.output, "overview.png"), sheet)
    print(f"drew {min(options.count, len(content['images']))} pictures: {os.path.join(options.output, 'overview.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
