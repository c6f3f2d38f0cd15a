#!/usr/bin/env python3
"""From a folder of labelled pictures to a detector, in one command:

    python3 scripts/start.py FOLDER [--minutes 20]

The folder holds pictures and their labels: COCO, Pascal VOC, YOLO (with data.yaml), LabelMe, CVAT for images, Label
Studio (JSON), or a list file. The program recognises the format, splits into train and val, chooses network, image
size, default boxes, batch, learning rate and steps, checks the data, trains, evaluates and exports ONNX. It prints each
choice with its reason. The choices are in FOLDER_detector/start.yaml: edit it and give the same command again. The same
command also continues an interrupted start. Nothing is written into FOLDER.
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
from src.data.readers import READERS  # noqa: E402
from src.start.run import Start  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.locks import hold_folder  # noqa: E402
from src.utils.log import setup_logging  # noqa: E402
from src.utils.output import ensure_writable  # noqa: E402
from src.utils.signals import SignalGuard  # noqa: E402


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder with the pictures and their labels")
    parser.add_argument("--minutes", type=float, default=20, help="for the command (default: %(default)s)")
    parser.add_argument("--output", default="", help="folder for all results (default: FOLDER_detector)")
    parser.add_argument("--dataset", default="", choices=tuple(READERS), help="the format, if the folder has several")
    parser.add_argument("--classes", default="", metavar="NAME,NAME", help="train these classes only")
    parser.add_argument(
        "--group_by",
        default="",
        metavar="folder|PATTERN",
        help="keep the pictures of a folder on one side of the split, or those for whose paths a regular expression "
        "gives the same first group",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the split and of the training (default: %(default)s)")
    parser.add_argument("--device_target", default="CPU", choices=("CPU", "GPU", "Ascend"))
    return parser.parse_args(argv)


def main(argv) -> int:
    options = parse(argv)
    if not 0 < options.minutes <= 100_000:
        raise UserError(f"--minutes must be a positive number, got {options.minutes:g}")
    if not 0 <= options.seed < 2**32:
        raise UserError(f"--seed must lie in 0..4294967295, got {options.seed}")
    folder = os.path.abspath(options.folder)
    output = os.path.abspath(options.output or f"{folder}_detector")
    if output == folder or output.startswith(folder + os.sep):
        raise UserError(
            f"--output: {output} lies in the folder of the pictures, where nothing is written; name another"
        )
    if not os.path.isdir(folder):
        raise UserError(f"no such folder: {folder}")
    SignalGuard().install()
    setup_logging()
    ensure_writable(output, "output")
    classes = [name.strip() for name in options.classes.split(",") if name.strip()]
    with hold_folder(output, "start", key="output"):
        start = Start(
            folder,
            output,
            options.minutes,
            options.dataset,
            options.group_by,
            options.seed,
            classes,
            options.device_target,
            lambda line: print(line, flush=True),
        )
        start.run()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
