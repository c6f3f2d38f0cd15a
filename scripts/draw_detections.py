#!/usr/bin/env python3
"""Draw ground truth (green) and detections (red) on pictures.

    python3 scripts/draw_detections.py --annotations instances_val2017.json --images val2017 \\
        --predictions output/predictions.json --output pictures [--count 12 --min_score 0.3]

--predictions is predictions.json of eval.py or detections.json of predict.py (whose pictures and classes are found by
name). Detections of other images are skipped, and their number is logged.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import defaultdict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
import numpy as np  # noqa: E402

from src.data.readers.coco import load_coco_json  # noqa: E402
from src.inference.pictures import read_picture  # noqa: E402
from src.utils.drawing import DrawingPaths, draw_box, draw_tag, fitted, sheet  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.log import LOGGER, setup_logging  # noqa: E402
from src.utils.output import (  # noqa: E402
    Arrivals,
    ensure_writable,  # noqa: E402
    write_picture,
)
from src.utils.signals import SignalGuard  # noqa: E402
from src.utils.text import one_line  # noqa: E402

GREEN, RED = (60, 200, 60), (40, 40, 230)  # BGR
TILE = 384
OVERVIEW, OVERVIEW_TILES = "overview.png", 100


def draw(image: np.ndarray, boxes: list, colour: tuple, below: bool) -> None:
    """Draw boxes [((x, y, w, h), text)] on a BGR image, in place."""
    for (x, y, w, h), text in boxes:
        box = np.clip((y, x, y + h, x + w), -TILE, 2 * TILE)  # limits coordinates far outside
        draw_box(image, box, colour)
        draw_tag(image, text, box, colour, below)


def category_names(categories: list) -> dict:
    """Category id -> name, replaced by the id where OpenCV's fonts cannot draw it (not ASCII)."""
    return {row["id"]: row["name"] if row["name"].isascii() else f"category {row['id']}" for row in categories}


def read_predictions(path: str, content: dict, folder: str) -> dict:
    """Detections by image id of the annotation file: {id: [([x, y, w, h], category name, score)]}.

    Args:
        content: of the annotation file.
        folder: of its images.

    Raises:
        UserError: the file cannot be read, a row cannot be used, or no detection belongs to one of the images.
    """
    try:
        with open(path, encoding="utf-8") as handle:
            predictions = json.load(handle)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"it is not valid JSON ({error})"
        raise UserError(f"--predictions: cannot read {one_line(path)}: {reason}") from None
    ids, names = {record["id"]: record["id"] for record in content["images"]}, category_names(content["categories"])
    if isinstance(predictions, dict):
        ids, names, predictions = _from_predict(path, predictions, content, folder)
    if not isinstance(predictions, list):
        raise _unusable(path)
    found, unknown = defaultdict(list), 0
    for number, row in enumerate(predictions, 1):
        box, score, category = _checked(row, f"--predictions: {one_line(path)}: row {number}")
        image_id = row["image_id"]
        if isinstance(image_id, (str, int, float)) and image_id in ids:
            found[ids[image_id]].append((box, names.get(category, f"category {category}"), score))
        else:
            unknown += 1
    if unknown == len(predictions) > 0:
        raise UserError(
            f"--predictions: none of the {unknown} detections in {one_line(path)} is of an image of --annotations"
        )
    if unknown:
        LOGGER.warning(
            "%d of %d detections are skipped: --annotations does not list their images", unknown, len(predictions)
        )
    return found


def _unusable(path: str) -> UserError:
    return UserError(
        f"--predictions: {one_line(path)} is neither predictions.json of eval.py (a list of detections) nor "
        "detections.json of predict.py"
    )


def _checked(row, where: str) -> tuple:
    """(box, score, category id) of a detection."""
    try:
        box, score, category = [float(value) for value in row["bbox"]], float(row["score"]), row["category_id"]
        row["image_id"]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{where} is not a detection with image_id, category_id, bbox and score") from None
    if len(box) != 4 or not all(math.isfinite(value) and abs(value) < 1e9 for value in (*box, score)):
        raise UserError(
            f"{where}: bbox must be four numbers below 1e9 and score a number, got {str(row['bbox'])[:80]}, "
            f"{str(row['score'])[:20]}"
        )
    return box, score, category if isinstance(category, (int, float, str)) else one_line(category)


def _from_predict(path: str, predictions: dict, content: dict, folder: str) -> tuple:
    """(image id in it -> image id of the annotation file, category names, rows) of a detections.json of predict.py."""
    try:
        annotated = {os.path.realpath(os.path.join(folder, r["file_name"])): r["id"] for r in content["images"]}
        by_name = defaultdict(list)
        for real, image_id in annotated.items():
            by_name[os.path.basename(real)].append(image_id)
        ids = {}
        for record in predictions["images"]:
            same = by_name[os.path.basename(record["file_name"])]
            image_id = annotated.get(os.path.realpath(record["file_name"]), same[0] if len(same) == 1 else None)
            if image_id is not None and "frame" not in record:
                ids[record["id"]] = image_id
        return ids, category_names(predictions["categories"]), predictions["annotations"]
    except (KeyError, TypeError, AttributeError):
        raise _unusable(path) from None


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--annotations", required=True, metavar="FILE", help="COCO annotation file with the ground truth"
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of its images")
    parser.add_argument("--predictions", required=True, metavar="FILE", help="detections, see above")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--count", type=int, default=12, help="number of pictures (default: %(default)s)")
    parser.add_argument("--min_score", type=float, default=0.3, help="minimum score (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.count < 1:
        raise UserError(f"--count must be at least 1, got {options.count}")
    if not 0 <= options.min_score <= 1:
        raise UserError(f"--min_score must lie in [0, 1], got {options.min_score}")
    if not os.path.isdir(options.images):
        raise UserError(f"--images: no such folder: {one_line(os.path.abspath(options.images))}")
    return options


def main(argv) -> int:
    options = parse(argv)
    SignalGuard().install()
    setup_logging()
    content = load_coco_json(options.annotations)
    if not content["images"]:
        raise UserError(f"--annotations: {one_line(options.annotations)} lists no image")
    predictions = read_predictions(options.predictions, content, options.images)
    names, truths = category_names(content["categories"]), defaultdict(list)
    for row in content["annotations"]:
        text = names[row["category_id"]] + " (crowd)" * bool(row["iscrowd"])
        truths[row["image_id"]].append((row["bbox"], text))
    ensure_writable(options.output, "output")
    records = content["images"][: options.count]
    originals = [os.path.join(options.images, record["file_name"]) for record in records]
    paths, arrivals, tiles = DrawingPaths(options.output, originals, [OVERVIEW]), Arrivals("pictures"), []
    for record, original in zip(records, originals):
        try:
            image = read_picture(original)[..., ::-1]
        except UserError as error:
            raise UserError(f"--images: {error}") from None
        image, scale = fitted(image, TILE)
        found = [row for row in predictions[record["id"]] if row[2] >= options.min_score]
        draw(image, [(np.array(box) * scale, text) for box, text in truths[record["id"]]], GREEN, below=True)
        draw(image, [(np.array(box) * scale, f"{name} {score:.2f}") for box, name, score in found], RED, below=False)
        if len(tiles) < OVERVIEW_TILES:
            tiles.append(image)
        with arrivals.one():
            write_picture(paths.path(record["file_name"], ".png"), image, drawing=True)
    overview = os.path.join(options.output, OVERVIEW)
    drawn = arrivals.count
    with arrivals.one():
        write_picture(overview, sheet(tiles), drawing=True)
        print(f"drew {drawn} pictures: {one_line(overview)}")
    arrivals.finish()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
