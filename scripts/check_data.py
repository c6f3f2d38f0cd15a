#!/usr/bin/env python3
"""Check a data set before it is converted: counts, boxes, coverage by default boxes, and every problem.

    python3 scripts/check_data.py --config_path FILE [--key=value ...] [--split train|val|both] [--decode] [--suggest]
        [--json FILE]

All keys of the configuration are options, as for train.py. By default only the headers of images are read; --decode
decodes every image, as the conversion does. --suggest looks for default boxes that cover the training set better, and
names the options for them. With both splits, images that are in train and in val are found too. The exit status is 2 if
there is an ERROR, which would stop the conversion, else 0; warnings are for you to judge.
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src.config import load_config  # noqa: E402
from src.data.inspect.anchors import Cover  # noqa: E402
from src.data.inspect.check import check_splits  # noqa: E402
from src.utils.errors import run_main  # noqa: E402
from src.utils.log import setup_logging  # noqa: E402
from src.utils.output import write_json  # noqa: E402


def _share(value) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def format_report(report: dict) -> str:
    """The report of a split as text."""
    lines = [f"== {report['split']}"]
    if "images" in report:
        sizes = report["image_sizes"]
        lines.append(f"{report['source']}")
        lines.append(
            f"images {report['images']}, with boxes {report['images_with_boxes']}, boxes {report['boxes']}, "
            f"most in one image {report['most_boxes_an_image']}"
        )
        if sizes:
            lines.append("image sizes {} x {} to {} x {}".format(*sizes["smallest"], *sizes["largest"]))
        lines.append("")
        lines += _class_lines(report)
        if report["size"]:
            lines += ["", f"{'':34}" + "".join(f"{name:>9}" for name in report["size"])]
            for title, key in (("box size, pixels of the input", "size"), ("width / height", "aspect")):
                lines.append(f"{title:34}" + "".join(f"{value:>9.2f}" for value in report[key].values()))
            lines.append("boxes by size: " + ", ".join(f"{name} {number}" for name, number in report["sizes"].items()))
    lines += ["", "problems:" if report["faults"] else "no problems"]
    for problem in report["faults"]:
        severity = "ERROR" if problem["refused"] else "warning"
        places = ", ".join(problem["places"]) + (", ..." if 0 < len(problem["places"]) < problem["number"] else "")
        lines.append(f"  {severity:7} {problem['number']:>6} {problem['kind']}" + (f": {places}" if places else ""))
    return "\n".join(lines)


def format_suggestion(now: Cover, best: Cover) -> str:
    """What `suggest_anchors` found, as text."""

    def reached(cover: Cover) -> str:
        return f"{100 * cover.uncovered:.1f} % of the boxes uncovered, mean IoU {cover.mean_iou:.3f}"

    if best is now:
        return f"default boxes: nothing clearly better than the configuration's ({reached(now)})"
    return f"default boxes: {reached(now)}\nwith {best.options}: {reached(best)}"


def _class_lines(report: dict) -> list:
    width = max([len("class")] + [len(row["name"]) for row in report["classes"]])
    title = f"no default box above {report['match_threshold']}"
    lines = [f"{'class':{width}}{'boxes':>10}{'images':>10}{title:>30}"]
    for row in report["classes"]:
        lines.append(f"{row['name']:{width}}{row['boxes']:>10}{row['images']:>10}{_share(row['uncovered']):>30}")
    lines.append(
        f"{'all':{width}}{report['boxes']:>10}{report['images_with_boxes']:>10}{_share(report['uncovered']):>30}"
    )
    return lines


def main(argv) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--split", choices=("train", "val", "both"), default="both", help="what to check")
    parser.add_argument("--decode", action="store_true", help="decode every image instead of reading its header only")
    parser.add_argument("--suggest", action="store_true", help="suggest default boxes that suit the training set")
    parser.add_argument("--json", metavar="FILE", help="also write the report to a JSON file")
    options, rest = parser.parse_known_args(argv)
    cfg = load_config(rest)
    setup_logging()
    splits = [name for name in ("train", "val") if options.split in (name, "both")]
    reports = check_splits(cfg, splits, options.decode, options.suggest)
    for report in reports:
        print(format_report(report) + "\n")
        if "anchors" in report:
            print(format_suggestion(*report["anchors"]) + "\n")
            report["anchors"] = [cover._asdict() for cover in report["anchors"]]
    if options.suggest and not cfg.use_anchor_generator:
        print("no suggestion: --suggest looks for values of the anchor generator (use_anchor_generator True)\n")
    if options.json:
        write_json(os.path.abspath(options.json), {report["split"]: report for report in reports})
    problems = [problem for report in reports for problem in report["faults"]]
    errors = sum(problem["refused"] for problem in problems)
    warnings = len(problems) - errors
    usable = "the data can be used" + (f" ({warnings} kinds of warnings)" if warnings else "")
    print(f"{errors} kinds of errors must be fixed before the data can be used" if errors else usable)
    return 2 if errors else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
