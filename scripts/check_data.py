#!/usr/bin/env python3
"""Check a data set before it is converted: counts, boxes, cover by default boxes, and every fault.

    python3 scripts/check_data.py --config_path FILE [--key=value ...] [--split train|val|both] [--decode] [--json FILE]

All keys of the configuration are options, as for train.py. Headers of the images are read; --decode decodes
every image, as a conversion does. With both splits, pictures that are in train and in val are found too. Exit status 2
where a conversion would refuse the data, else 0: warnings are for you to judge.
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from src.config import load_config  # noqa: E402
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
    lines += ["", "faults:" if report["faults"] else "no faults"]
    for fault in report["faults"]:
        mark = "REFUSED" if fault["refused"] else "warning"
        places = ", ".join(fault["places"]) + (", ..." if 0 < len(fault["places"]) < fault["number"] else "")
        lines.append(f"  {mark} {fault['number']:>6} {fault['kind']}" + (f": {places}" if places else ""))
    return "\n".join(lines)


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
    parser.add_argument("--split", choices=("train", "val", "both"), default="both")
    parser.add_argument("--decode", action="store_true", help="decode every image, not its header only")
    parser.add_argument("--json", metavar="FILE", help="write the report there too")
    options, rest = parser.parse_known_args(argv)
    cfg = load_config(rest)
    setup_logging()
    splits = [name for name in ("train", "val") if options.split in (name, "both")]
    reports = check_splits(cfg, splits, options.decode)
    for report in reports:
        print(format_report(report) + "\n")
    if options.json:
        write_json(os.path.abspath(options.json), {report["split"]: report for report in reports})
    refused = sum(fault["refused"] for report in reports for fault in report["faults"])
    warnings = sum(not fault["refused"] for report in reports for fault in report["faults"])
    usable = "the data can be used" + (f" ({warnings} kinds of warnings)" if warnings else "")
    print(f"{refused} kinds of faults must be corrected first" if refused else usable)
    return 2 if refused else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
