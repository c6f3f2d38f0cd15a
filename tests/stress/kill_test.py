#!/usr/bin/env python3
"""kill -9 at random moments; the same command with --resume must end as if nothing had happened.

    python3 tests/stress/kill_test.py [--kills 100 --seed 1 --folder DIR]

A short run on drawn pictures (conversion, training, an evaluation and checkpoints every epoch) is started again and
again and killed, after a random part of its undisturbed time or, to hit the short ones often enough, at a random
moment of a conversion or of the writing of a checkpoint, until it comes through; its last checkpoint must then
equal the undisturbed run's byte by byte, its history too but for the times. Then a new run begins, until `--kills` are
done. Prints a table of what was hit; exit status 0 when all runs were equal, else 1.
"""

from __future__ import annotations

import argparse
import filecmp
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EPOCHS, TRAIN, VAL = 2, 4, 2
AIMED = 0.4  # share of the kills that wait until records or a checkpoint are being written
LAST = f"ckpt_0/ssd-{EPOCHS}_{TRAIN // 2}.ckpt"


def start(data: str, output: str, *more: str) -> subprocess.Popen:
    """Start the tested run as a process; its output goes to `output`.txt."""
    options = {
        "config_path": f"{ROOT}/config/ssd_resnet50_fpn_config_quickstart.yaml",
        "data_path": data,
        "coco_root": "shapes",
        "mindrecord_dir": f"{output}.records",
        "output_path": output,
        "batch_size": 2,
        "epoch_size": EPOCHS,
        "lr": 0.01,
        "bn_recalibration_steps": 1,
        "run_eval": True,
        "eval_start_epoch": 1,
        "keep_checkpoint_max": 1,
        # a small head compiles faster, and half of a short run is compilation
        "num_addition_layers": 1,
        "extras_out_channels": [64] * 5,
    }
    command = [sys.executable, f"{ROOT}/train.py", *(f"--{key}={value}" for key, value in options.items()), *more]
    with open(f"{output}.txt", "w", encoding="utf-8") as words:
        return subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT, cwd=data)


def kill_at_random(process: subprocess.Popen, output: str, rng: np.random.Generator, duration: float, aim: str) -> bool:
    """Kill the run; False if it ended before.

    aim: pattern of a file that exists only while something is written: kill shortly after it appears; "" for any time.
    """
    if aim:
        while process.poll() is None and not glob.glob(aim):
            time.sleep(0.001)
        wait = rng.uniform(0, 0.05)
    else:
        # also after the usual end, or on a machine that has become slower no run would ever finish
        wait = rng.uniform(0, 1.2 * duration)
    try:
        process.wait(wait)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def hit(output: str) -> str:
    """What a killed run was doing."""
    if glob.glob(f"{output}.records/.writing-*"):
        return "conversion"
    if glob.glob(f"{output}/ckpt_0/.part-*"):
        return "saving"
    with open(f"{output}.txt", encoding="utf-8", errors="replace") as words:
        lines = [line for line in words if " INFO " in line or " WARNING " in line]
    if not any("training ssd" in line for line in lines):
        return "start"
    if ": loss" in lines[-1] and ", step" not in lines[-1] or "BN averages" in lines[-1]:
        return "evaluation"
    return "between two files" if "best mAP" in lines[-1] else "compilation, training"


def history(output: str) -> list:
    """The lines of a run without what depends on the clock."""
    with open(f"{output}/history.jsonl", encoding="utf-8") as handle:
        return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in handle]


def fail(text: str, output: str) -> None:
    with open(f"{output}.txt", encoding="utf-8", errors="replace") as words:
        sys.stderr.write(words.read()[-3000:])
    raise SystemExit(f"FAILED: {text}; files are in {os.path.dirname(output)}")


def compare(output: str, wanted: str) -> None:
    """Compare the final files of a run with those of the undisturbed run."""
    for name in (LAST, "ckpt_0/best_map.ckpt"):
        if not filecmp.cmp(f"{output}/{name}", f"{wanted}/{name}", shallow=False):
            fail(f"{name} differs from the undisturbed run's", output)
    if history(output) != history(wanted):
        fail(f"history: {history(output)}, undisturbed {history(wanted)}", output)
    left = sorted(os.listdir(f"{output}/ckpt_0"))
    if left != sorted(os.listdir(f"{wanted}/ckpt_0")):
        fail(f"left over: {left}", output)


def run(folder: str, kills: int, seed: int) -> None:
    rng, hits, runs = np.random.default_rng(seed), Counter(), 0
    draw = ["--output", f"{folder}/shapes", "--train", str(TRAIN), "--val", str(VAL), "--image_size", "128"]
    subprocess.run([sys.executable, f"{ROOT}/scripts/draw_shapes.py", *draw], check=True, stdout=subprocess.DEVNULL)
    wanted, began = f"{folder}/undisturbed", time.time()
    if start(folder, wanted).wait():
        fail("the undisturbed run", wanted)
    duration = time.time() - began
    print(f"undisturbed: {duration:.0f} s", flush=True)
    while sum(hits.values()) < kills:
        runs += 1
        output, killed = f"{folder}/run{runs}", 0
        while True:
            converting, saving = f"{output}.records/.writing-*", f"{output}/ckpt_0/.part-*"
            aim = str(rng.choice([converting, saving])) if rng.random() < AIMED else ""
            if aim == converting:
                shutil.rmtree(f"{output}.records", ignore_errors=True)
            process = start(folder, output, "--resume")
            if sum(hits.values()) >= kills or not kill_at_random(process, output, rng, duration, aim):
                break
            killed += 1
            hits[hit(output)] += 1
            print(f"run {runs}: killed in {hit(output)}", flush=True)
        if process.wait():
            fail(f"status {process.returncode} after {killed} kills", output)
        compare(output, wanted)
        print(f"run {runs}: {killed} kills, equal ({sum(hits.values())} kills so far)", flush=True)
        for path in (output, f"{output}.records"):
            shutil.rmtree(path)
    print(f"passed: {sum(hits.values())} kills, {runs} runs equal to the undisturbed one; hit were:")
    for what, count in hits.most_common():
        print(f"  {count:4d} {what}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", help="where to work; default: a temporary folder, removed when all went well")
    arguments = parser.parse_args()
    if arguments.kills < 1 or arguments.seed < 0:
        parser.error("--kills must be at least 1, --seed at least 0")
    folder = os.path.abspath(arguments.folder or tempfile.mkdtemp())
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        parser.error(f"--folder: cannot write to {folder}: {error.strerror}")
    run(folder, arguments.kills, arguments.seed)
    if not arguments.folder:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
