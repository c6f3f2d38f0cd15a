#!/usr/bin/env python3
"""A long run of short epochs on drawn pictures: do memory, open files and threads stay constant?

    python3 tests/stress/soak.py [--epochs 200 --folder DIR]

Training, a checkpoint and an evaluation every 5 epochs, in one process that is measured all the time. Prints a
table; exit status 0 when memory after epoch 20 grew by less than 1 % and the other two did not change, else 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SETTLED = 20  # epochs until caches and pools are filled
WINDOW = 10  # epochs to average over
ALLOWED_GROWTH = 0.01


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as handle:
        return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sample(pid: int) -> tuple:
    """(resident MB, open files, threads)."""
    return (
        resident_bytes(pid) / 1e6,
        len(os.listdir(f"/proc/{pid}/fd")),
        len(os.listdir(f"/proc/{pid}/task")),
    )


def lines_of(path: str) -> int:
    """Number of lines, 0 if the file is missing."""
    if not os.path.exists(path):
        return 0
    with open(path, "rb") as handle:
        return handle.read().count(b"\n")


def run(folder: str, epochs: int) -> list:
    """A training run of `epochs`; measures once per epoch."""
    subprocess.run(
        [sys.executable, f"{ROOT}/scripts/draw_shapes.py", "--output", f"{folder}/shapes", "--train", "4", "--val", "2",
         "--image_size", "128"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    options = {
        "config_path": f"{ROOT}/config/ssd_resnet50_fpn_config_quickstart.yaml",
        "data_path": folder,
        "coco_root": "shapes",
        "output_path": f"{folder}/run",
        "batch_size": 2,
        "epoch_size": epochs,
        "lr": 0.01,
        "bn_recalibration_steps": 0,
        "run_eval": True,
        "eval_start_epoch": 5,
        "eval_interval": 5,
        "save_checkpoint_epochs": 5,
    }
    command = [sys.executable, f"{ROOT}/train.py", *(f"--{key}={value}" for key, value in options.items())]
    history, samples, seen = f"{folder}/run/history.jsonl", [], []
    with open(f"{folder}/output.txt", "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
        while process.poll() is None:
            try:
                seen.append(sample(process.pid))
            except OSError:  # it has just ended
                break
            if len(samples) < lines_of(history):
                # files are opened and closed within an epoch: the minimum is what stays open
                memory, files, threads = zip(*seen)
                samples.append((float(np.median(memory)), min(files), min(threads)))
                seen = []
            time.sleep(0.05)
        process.wait()
    if process.returncode:
        with open(f"{folder}/output.txt", encoding="utf-8") as output:
            sys.stderr.write(output.read()[-3000:])
        raise SystemExit(f"the run ended with status {process.returncode}")
    return samples


def report(samples: list) -> bool:
    """Print the table; True if nothing grew."""
    table = np.array(samples)
    print("epochs      memory MB   open files   threads")
    for start in range(0, len(table), WINDOW):
        rows = table[start : start + WINDOW]
        files, threads = (f"{rows[:, i].min():.0f} - {rows[:, i].max():.0f}" for i in (1, 2))
        print(f"{start + 1:4d} - {start + len(rows):4d} {rows[:, 0].mean():10.1f} {files:>12} {threads:>9}")
    first, last = table[SETTLED : SETTLED + WINDOW], table[-WINDOW:]
    growth = last[:, 0].mean() / first[:, 0].mean() - 1
    files, threads = (int(last[:, i].max() - first[:, i].max()) for i in (1, 2))
    passed = growth < ALLOWED_GROWTH and files <= 0 and threads <= 0
    print(
        f"{'passed' if passed else 'FAILED'}: from epochs {SETTLED + 1} - {SETTLED + WINDOW} to the last {WINDOW} "
        f"memory {growth:+.2%}, open files {files:+d}, threads {threads:+d}"
    )
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--folder", help="where to work; default: a temporary folder")
    arguments = parser.parse_args()
    if arguments.epochs < SETTLED + 2 * WINDOW:
        parser.error(f"--epochs must be at least {SETTLED + 2 * WINDOW}")
    if arguments.folder:
        try:
            os.makedirs(arguments.folder, exist_ok=True)
        except OSError as error:
            parser.error(f"--folder: cannot write to {os.path.abspath(arguments.folder)}: {error.strerror}")
        return 0 if report(run(os.path.abspath(arguments.folder), arguments.epochs)) else 1
    with tempfile.TemporaryDirectory() as folder:
        return 0 if report(run(folder, arguments.epochs)) else 1


if __name__ == "__main__":
    sys.exit(main())
