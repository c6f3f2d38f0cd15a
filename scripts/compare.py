#!/usr/bin/env python3
"""Compare two evaluations of the same images: is B better than A beyond chance?

    python3 scripts/compare.py output_a output_b [--output pictures] [--json comparison.json]

A and B are output folders of eval.py, or two predictions.json files together with --annotations. Printed: mAP, AP50 and
the AP of each class, their differences B - A with 95 % bootstrap intervals over images (the same resamples on both
sides), and which differences are beyond chance. --output draws the images that changed most, A and B side by side: the
change is that of matched objects minus false positives (IoU 0.5), each side at its score with the best F1.
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
from src.evaluation.comparison import compare, comparison_table, verdict  # noqa: E402
from src.evaluation.comparison_files import (  # noqa: E402
    common_truth,
    draw_pair,
    find_evaluation,
    find_pictures,
    read_detections,
)
from src.inference.pictures import read_picture  # noqa: E402
from src.utils.drawing import DrawingPaths  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.log import LOGGER, setup_logging  # noqa: E402
from src.utils.output import Arrivals, ensure_writable, write_json, write_picture  # noqa: E402
from src.utils.signals import SignalGuard  # noqa: E402
from src.utils.text import one_line  # noqa: E402


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", metavar="A", help="output folder of eval.py, or predictions.json")
    parser.add_argument("second", metavar="B", help="the same of the other model")
    parser.add_argument(
        "--annotations", metavar="FILE", help="COCO annotation file (default: the one that evaluation.json names)"
    )
    parser.add_argument("--output", metavar="DIR", help="folder for drawings of the images that changed most")
    parser.add_argument("--images", metavar="DIR", help="folder of the images (default: found as in COCO's layout)")
    parser.add_argument("--count", type=int, default=12, help="number of drawings (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all figures and all changed images to this file")
    options = parser.parse_args(argv)
    if options.count < 1:
        raise UserError(f"--count must be at least 1, got {options.count}")
    if options.images and not os.path.isdir(options.images):
        raise UserError(f"--images: no such folder: {one_line(os.path.abspath(options.images))}")
    return options


def draw_changed(options, truth, sides, result, arrivals: Arrivals) -> None:
    """Draw the pictures of `result["changed"]` that are found."""
    rows = result["changed"][: options.count]
    pictures = find_pictures(truth, options.images)
    missing = sum(row["image_id"] not in pictures for row in rows)
    if missing:
        LOGGER.warning("%d of %d pictures are not found; name their folder with --images DIR", missing, len(rows))
    paths = DrawingPaths(options.output, pictures.values())
    for number, row in enumerate(rows, 1):
        original = pictures.get(row["image_id"])
        if original is None:
            continue
        try:
            image = read_picture(original)[..., ::-1]
        except UserError as error:
            LOGGER.warning("not drawn: %s", error)
            continue
        path = paths.path(f"{number:02}_{os.path.basename(original)}", ".png")
        with arrivals.one():
            write_picture(path, draw_pair(image, truth, sides, row, result["score_thresholds"]), drawing=True)


def main(argv) -> int:
    options = parse(argv)
    SignalGuard().install()
    setup_logging()
    evaluated = [find_evaluation(path) for path in (options.first, options.second)]
    truth = common_truth(evaluated, options.annotations)
    sides = [read_detections(side, truth) for side in evaluated]
    if options.output:
        ensure_writable(options.output, "output")
    result = compare(truth, *sides)
    lines = [f"A: {one_line(options.first)}", f"B: {one_line(options.second)}", f"images: {result['images']}"]
    lines += ["", comparison_table(result), "", verdict(result)]
    changed = result["changed"]
    better = sum(row["change"] > 0 for row in changed)
    lines.append(
        f"images that changed: {better} better, {len(changed) - better} worse (matched objects - false positives)"
    )
    lines += [
        f"  {row['change']:+d}  {one_line(truth.file_names[row['image_id']])}: matched {row['matched'][0]} -> "
        f"{row['matched'][1]}, false {row['false'][0]} -> {row['false'][1]}"
        for row in changed[:5]
    ]
    arrivals = Arrivals("files")
    if options.json:
        with arrivals.one():
            write_json(options.json, dict(result, A=options.first, B=options.second), indent=1)
    if options.output:
        before = arrivals.count
        draw_changed(options, truth, sides, result, arrivals)
        lines.append(f"drew {arrivals.count - before} images: {one_line(os.path.abspath(options.output))}")
    print("\n".join(lines))
    arrivals.finish()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
