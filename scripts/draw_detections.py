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

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it tells in one line where this Python has no packages
import src  # noqa: E402, F401

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from src.data.coco import load_coco_json  # noqa: E402
from src.data.images import decode_rgb  # noqa: E402
from src.drawing import draw_box, draw_tag, fitted, sheet  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402

GREEN, RED = (60, 200, 60), (40, 40, 230)  # BGR
TILE = 384


def draw(image: np.ndarray, boxes: list, colour: tuple, below: bool) -> None:
    """Boxes [(x, y, w, h), text] on a BGR image in place."""
    for (x, y, w, h), text in boxes:
        box = (y, x, y + h, x + w)
        draw_box(image, box, colour)
        draw_tag(image, text, box, colour, below)


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
        image, scale = fitted(image, TILE)
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
        tiles.append(image)
    cv2.imwrite(os.path.join(options.output, "overview.png"), sheet(tiles))
    print(f"drew {min(options.count, len(content['images']))} pictures: {os.path.join(options.output, 'overview.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
