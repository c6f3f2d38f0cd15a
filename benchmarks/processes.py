"""The parts of `scripts/benchmark.py` that start separate processes: step, start-up, growth."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Optional

import numpy as np

from benchmarks.data import coco_folder, memory
from src.config import NETWORKS, load_config

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
BATCH, STEPS = 2, 6
# of the user: the variables that prepare_environment sets later for MindSpore would slow down PyTorch
ENVIRONMENT = dict(os.environ)


def output_of(words: list, seconds: Optional[float] = None, **variables: str) -> str:
    """What a program prints, in the environment of the user and `variables`.

    Raises:
        RuntimeError: it failed, or it was ended, with all that it started, after `seconds`.
    """
    name = os.path.basename(words[1])
    run = subprocess.Popen(
        list(map(str, words)),
        env={**ENVIRONMENT, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = run.communicate(timeout=seconds)
    except BaseException as error:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"{name} had not ended after {seconds:.0f} s") from None
        raise
    if run.returncode:
        raise RuntimeError(f"{name} ended with {run.returncode}: {_reason(err.strip() or out.strip())}")
    return out


def _reason(text: str) -> str:
    """The end of what a failed program printed, from its last line with an error on: MindSpore's texts are long."""
    found = list(re.finditer(r"^(error|[\w.]*(Error|Exception)): ", text, re.M))
    return text[found[-1].start() :][:500] if found else text[-500:]


def figures_of(words: list, seconds: Optional[float] = None, **variables: str) -> dict:
    """The JSON in the last line that a program prints; see `output_of`."""
    return json.loads(output_of(words, seconds, **variables).strip().splitlines()[-1])


def _measure(python: str, script: str, model_name: str, size: int, best: dict) -> dict:
    """Run a script in a new process; for each of its results the minimum of the result and `best`."""
    found = figures_of([python, os.path.join(HERE, script), BATCH, size, STEPS, model_name])
    return {name: min(value, best.get(name, value)) for name, value in found.items()}


def measure_step(table, options, model_name: str = "ssd_resnet50_fpn") -> None:
    """A training step and a forward pass at the network's published size, in float32; with --torch, alternating with
    the same network in PyTorch."""
    size = load_config([f"--model_name={model_name}"]).img_shape[0]
    ours, theirs = {}, {}
    for _ in range(2):
        ours = _measure(sys.executable, "step_mindspore.py", model_name, size, ours)
        theirs = _measure(options.torch, "step_pytorch.py", model_name, size, theirs) if options.torch else {}
    note = f"{size} x {size}" + (", plain = PyTorch" if options.torch else "")
    table.add(f"{model_name}: step, batch {BATCH}", "s", ours["step"], theirs.get("step"), note)
    table.add("    forward, batch 1", "s", ours["forward"], theirs.get("forward"), note)
    table.add("    peak memory of training", "GiB", ours["peak"], theirs.get("peak"), note)


def measure_family(table, options) -> None:
    """`measure_step` of the other networks."""
    for model_name in NETWORKS:
        if model_name != "ssd_resnet50_fpn":
            measure_step(table, options, model_name)


def _seconds_to(line: str, script: str, words: list, environment: dict) -> float:
    """Seconds from the start of a Python script until it prints a line that contains `line`."""
    start = time.perf_counter()
    command = [sys.executable, os.path.join(ROOT, script), *words]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        for printed in run.stdout:
            if line in printed:
                seconds = time.perf_counter() - start
                run.communicate()
                return seconds
    raise RuntimeError(f"{script} ended without a line that contains '{line}'")


def measure_start(table, options) -> None:
    """From the start of train.py to its first step, 128 x 128, batch 4: without and with the compile cache."""
    config = os.path.join(ROOT, "config", "ssd_resnet50_fpn_config_quickstart.yaml")
    firsts, seconds, plain = [], [], []
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        draw = [
            sys.executable,
            os.path.join(ROOT, "scripts", "draw_shapes.py"),
            "--output",
            f"{folder}/shapes",
            "--train",
            "4",
        ]
        subprocess.run([*draw, "--val", "1", "--image_size", "128"], check=True, stdout=subprocess.DEVNULL)
        environment = dict(os.environ, XDG_CACHE_HOME=os.path.join(folder, "cache"))
        # the published optimiser and loss, which is what the plain side has
        network = [f"--config_path={config}", "--optimizer=momentum", "--box_loss=smooth_l1", "--ema_decay=0"]
        network += ["--class_prior=0"]
        words = [*network, f"--data_path={folder}", "--coco_root=shapes", "--epoch_size=1"]
        words += [f"--output_path={folder}/out", "--bn_recalibration_steps=0"]
        for _ in range(2):
            plain.append(_seconds_to("first step", "benchmarks/start_baseline.py", network, dict(os.environ)))
            for times in (firsts, seconds):
                times.append(_seconds_to("epoch 1/1", "train.py", words, environment))  # one step per epoch
                shutil.rmtree(os.path.join(folder, "out"))
            for name in os.listdir(folder):
                if name != "shapes":  # the records and the compile cache
                    shutil.rmtree(os.path.join(folder, name))
    table.add("start to first step, first start", "s", min(firsts), min(plain), "plain = MindSpore's layers")
    table.add("start to first step, second start", "s", min(seconds), min(plain), "plain has no compile cache")


def _growth(function: str, work: str, count: int, boxes: int) -> list:
    """The results that `function` prints in a separate process, for `count` small images with `boxes` boxes each."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        f"from benchmarks.processes import {function}\n"
        f"{function}(*sys.argv[2:])"
    )
    words = [sys.executable, "-c", code, ROOT, work, str(count), str(boxes)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-800:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def growth_conversion(work: str, count: str, boxes: str) -> None:
    """Convert the data and open the records; prints the peak of memory."""
    cfg = _growth_config(work, int(count), int(boxes))
    from src.data.pipeline import TrainLoader
    from src.data.records import prepare_records

    shutil.rmtree(os.path.join(work, cfg.mindrecord_dir), ignore_errors=True)
    TrainLoader(prepare_records(cfg, is_training=True), cfg)
    print(json.dumps([memory()]))


def growth_epoch(work: str, count: str, boxes: str) -> None:
    """Open the records and read an epoch; prints the seconds of both and the peak of memory."""
    cfg = _growth_config(work, int(count), int(boxes))
    import mindspore.dataset  # noqa: F401 - the import takes a second, independent of the data

    from src.data.pipeline import TrainLoader
    from src.data.records import prepare_records

    start = time.perf_counter()
    records = prepare_records(cfg, is_training=True)
    started = time.perf_counter() - start
    data = TrainLoader(records, cfg)  # its matcher takes as long for one image as for many
    start = time.perf_counter()
    for _ in data.numpy_batches(0):
        pass
    print(json.dumps([started, time.perf_counter() - start, memory()]))


def _growth_config(work: str, count: int, boxes: int):
    name = f"growth_{count}_{boxes}"
    coco_folder(work, count, name, side=64, boxes=boxes)
    options = [f"--data_path={work}", f"--coco_root={name}", f"--mindrecord_dir={name}/records", "--batch_size=16"]
    return load_config([*options, "--img_shape=[128, 128]", "--device_target=CPU"])


def measure_growth(table, options) -> None:
    """Start-up time, time per epoch and memory for several numbers of images (64 x 64) and of boxes."""
    base = None
    for count, boxes in ((1000, 8), (10_000, 8), (100_000, 8), (10_000, 64)):
        (converting,) = _growth("growth_conversion", options.work, count, boxes)
        started, epoch, peak = _growth("growth_epoch", options.work, count, boxes)
        base = base or (started, epoch, peak)
        table.add(
            f"epoch of {count} images, {boxes} boxes each", "s", epoch, None, f"{1e6 * epoch / count:.0f} us per image"
        )
        table.add("    start-up without conversion", "s", started, None, f"{1e6 * started / count:.1f} us per image")
        table.add("    peak memory", "MB", peak / 1e6, None, f"{(peak - base[2]) / 1e6:+.0f} MB")
        table.add("    peak memory of the conversion", "MB", converting / 1e6)
        np.testing.assert_array_less(epoch / count, 3 * base[1] / 1000)
