#!/usr/bin/env python3
"""Draw training samples as the network gets them, to check data and targets before a long training.

    python3 scripts/show_samples.py --config_path FILE [--key=value ...] --output DIR [--count 12] [--epoch 0]

Samples are drawn after augmentation, from the arrays that are passed to the network. Coloured boxes: decoded targets;
thin boxes: the default boxes matched to them; white corners: ground truth. If targets and ground truth differ, the
encoding is wrong (exit status 1). Statistics of the labels are written to labels.html and labels.json.
All keys of the configuration are options, as for train.py.
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from src.boxes.default_boxes import build_default_boxes  # noqa: E402
from src.boxes.matcher import Matcher  # noqa: E402
from src.config import load_config  # noqa: E402
from src.data.images import read_header  # noqa: E402
from src.data.inspect.label_report import label_figures, label_report  # noqa: E402
from src.data.inspect.sample_preview import Preview, preview  # noqa: E402
from src.data.inspect.statistics import level_sizes  # noqa: E402
from src.data.readers import read_dataset  # noqa: E402
from src.data.records.prepare import check_images_exist  # noqa: E402
from src.data.records.writer import record_ids  # noqa: E402
from src.data.transforms import Augmentation, TrainTransform  # noqa: E402
from src.utils.drawing import caption, class_colour, draw_box, draw_corners, draw_tag, fitted, sheet  # noqa: E402
from src.utils.errors import RunError, UserError, run_main  # noqa: E402
from src.utils.log import progress, setup_logging  # noqa: E402
from src.utils.output import (  # noqa: E402
    Arrivals,
    ensure_writable,  # noqa: E402
    write_json,
    write_picture,
    write_text,
)
from src.utils.signals import SignalGuard  # noqa: E402

TILE = 480
LARGEST_DISTANCE = 0.5
OVERVIEW_TILES = 100


def draw(seen: Preview, name: str, cfg) -> np.ndarray:
    """A picture [H, W, 3] BGR of a sample with its caption."""
    image, scale = fitted(seen.image[..., ::-1], TILE)
    image = np.ascontiguousarray(image)
    faint = image.copy()
    for box, label in zip(seen.defaults, seen.targets[:, 4]):
        draw_box(faint, box * scale, class_colour(int(label)), 1)
    image = cv2.addWeighted(faint, 0.55, image, 0.45, 0)
    unique = np.unique(np.round(seen.targets, 1), axis=0)
    for row in unique:
        draw_box(image, row[:4] * scale, class_colour(int(row[4])))
    for row in seen.truth:
        draw_corners(image, row[:4] * scale)
    for row in unique:
        draw_tag(image, cfg.classes[int(row[4])], row[:4] * scale, class_colour(int(row[4])))
    top, left, bottom, right = seen.window
    levels = np.bincount(seen.levels, minlength=len(cfg.steps))
    lines = [
        name,
        f"window {right - left} x {bottom - top} at {left}, {top}{', flipped' if seen.flipped else ''}",
        f"{len(seen.truth)} boxes, {len(seen.defaults)} matched default boxes by stride: "
        + ", ".join(f"{step}: {number}" for step, number in zip(cfg.steps, levels)),
    ]
    return np.vstack([image, caption(lines, image.shape[1])])


def _add_sizes(samples: list) -> None:
    """Read missing image sizes from the files: list files do not annotate them."""
    for sample in samples:
        if not sample.width:
            try:
                (sample.height, sample.width), _ = read_header(sample.path)
            except ValueError as error:
                raise UserError(f"image {sample.path}: {error}") from None


def main(argv) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--count", type=int, default=12, help="number of samples to draw (default 12)")
    parser.add_argument("--epoch", type=int, default=0, help="epoch whose augmentation is used, from 0 (default 0)")
    parser.add_argument(
        "--statistics", type=int, default=300, help="number of samples for the statistics of matching (default 300)"
    )
    options, rest = parser.parse_known_args(argv)
    if min(options.count, options.statistics) < 1 or options.epoch < 0:
        raise UserError("--count and --statistics must be at least 1, --epoch at least 0")
    cfg = load_config(rest)
    setup_logging()
    SignalGuard().install()
    data = read_dataset(cfg, True)
    check_images_exist(data)
    ensure_writable(options.output, "output")
    _add_sizes(data.samples)
    ids, _ = record_ids(data.samples)
    matcher = Matcher(*build_default_boxes(cfg), cfg.match_threshold)
    of_run = cfg.img_shape, matcher, cfg.prior_scaling, cfg.seed, options.epoch
    transform = TrainTransform(*of_run, Augmentation.of(cfg))
    order = np.random.default_rng([cfg.seed, 0]).permutation(len(ids))[: max(options.count, options.statistics)]
    tiles, drawn, seen, arrivals = [], 0, [], Arrivals("files")
    with progress(len(order), "augmenting") as bar:
        for number in order:
            sample = data.samples[number]
            seen.append(preview(transform, sample, ids[number], level_sizes(cfg)))
            if drawn < options.count:
                picture = draw(seen[-1], os.path.basename(sample.path), cfg)
                tiles += [picture] * (drawn < OVERVIEW_TILES)
                with arrivals.one():
                    write_picture(os.path.join(options.output, f"sample_{drawn:02d}.png"), picture, drawing=True)
                drawn += 1
            seen[-1].image = None  # the statistics need no pixels
            bar.update()
    overview, count = os.path.join(options.output, "samples.png"), arrivals.count
    with arrivals.one():
        write_picture(overview, sheet(tiles), drawing=True)
        print(f"{count} samples: {os.path.abspath(overview)}")
    statistics = label_figures(data.samples, seen, cfg)
    with arrivals.one():
        write_json(os.path.join(options.output, "labels.json"), statistics)
    page = os.path.join(options.output, "labels.html")
    with arrivals.one():
        write_text(page, label_report(statistics, cfg))
        print(f"label statistics: {os.path.abspath(page)}")
    distance = max(sample.distance for sample in seen)
    print(f"largest distance between a target and its ground truth: {distance:.4f} pixels ({len(seen)} samples)")
    if distance > LARGEST_DISTANCE:
        raise RunError(f"targets are up to {distance:.1f} pixels away from the ground truth: the encoding is wrong")
    arrivals.finish()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
