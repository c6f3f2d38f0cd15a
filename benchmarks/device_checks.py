"""The rows of `scripts/check_device.py`: each measured by processes of their own with a time limit."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from typing import Callable, Dict, List, NamedTuple, Optional

import numpy as np

from benchmarks.data import coco_folder
from benchmarks.device import Devices
from benchmarks.processes import HERE, ROOT, figures_of, output_of

NETWORK = "ssd_resnet50_fpn"
LEAST = 5  # seconds that a measurement takes at least
# of the losses of 20 steps, relative. A training amplifies rounding: with convolutions on a CPU that round differently,
# the losses differ by 5e-7 after 10 steps and by 1.3e-3 after 20
STEPS_MAY_DIFFER = 1e-2
# key of a row, title, width, form
COLUMNS = (
    ("part", "part", "<34", ""),
    ("precision", "precision", ">10", ""),
    ("seconds_a_step", "s/step", ">9", ".4f"),
    ("images_a_second", "images/s", ">10", ".1f"),
    ("gib", "GiB", ">7", ".1f"),
    ("waiting", "waiting", ">9", ".1%"),
)


class Sizes(NamedTuple):
    """batch: images per device; side: of the network's input in pixels; steps: timed on data that is on the device;
    trained: steps of a training; devices: of the training on several; compared: steps on device and CPU."""

    batch: int
    side: int
    steps: int
    trained: int
    devices: int
    compared: int


class Rows:
    """The rows of the table; each is printed when it is there.

    Args:
        minutes: after this time the measurements that are left are not made.
        limit: seconds that a measurement may take. The first one may take twice as long: MindSpore's kernels are
            compiled for a device that it has no code for.
    """

    def __init__(self, minutes: float, limit: float):
        self.rows: List[dict] = []
        self._end = time.monotonic() + 60 * minutes
        self._minutes, self._limit = minutes, limit

    @staticmethod
    def header() -> str:
        """The titles of the columns."""
        return "".join(f"{title:{width}}" for _, title, width, _ in COLUMNS) + "  result"

    def measure(self, part: str, precision: str, function: Callable[..., dict], *arguments) -> Optional[dict]:
        """Add the row of `function(*arguments, limit in seconds)`; None if it failed, with the reason in the row."""
        limit = min(self._limit * (1 if self.rows else 2), self._end - time.monotonic())
        if limit < LEAST:
            return self.add(part, precision, result=f"failed: the {self._minutes:g} minutes were over")
        try:
            values = function(*arguments, limit)
        except Exception as error:  # of a measurement, whatever it is: the others go on
            text = " ".join(str(error).split())
            return self.add(part, precision, result=f"failed: {text or type(error).__name__}")
        return self.add(part, precision, **values)

    def add(self, part: str, precision: str, **values) -> Optional[dict]:
        """Add a row, which is returned unless its result is "failed: reason"; prints it."""
        row = {"part": part, "precision": precision, **{key: None for key, *_ in COLUMNS[2:]}, "result": "ok", **values}
        self.rows.append(row)
        print(format_row(row), flush=True)
        return None if row["result"].startswith("failed") else row

    @property
    def failures(self) -> int:
        """The number of rows that failed."""
        return sum(row["result"].startswith("failed") for row in self.rows)


def format_row(row: dict) -> str:
    """A line of the table."""
    line = ""
    for key, _, width, form in COLUMNS:
        value = "" if row[key] is None else format(row[key], form)
        line += f"{value:{width}}"
    return f"{line}  {row['result'][:240]}"


def rate(seconds: float, images: int, **more) -> dict:
    """The values of a row with a step time."""
    return {"seconds_a_step": seconds, "images_a_second": images / seconds, **more}


def our_step(devices: Devices, sizes: Sizes, precision: str, limit: float) -> dict:
    """A training step on data that is on the device, in MindSpore: the median."""
    words = [sys.executable, os.path.join(HERE, "step_mindspore.py"), sizes.batch, sizes.side, sizes.steps, NETWORK]
    found = figures_of([*words, devices.target, precision], limit)
    result = f"ok: fastest {found['step']:.4f} s, first (compiles) {found['first']:.1f} s"
    result += f", forward of 1 image {1000 * found['forward']:.1f} ms"
    return rate(found["median"], sizes.batch, gib=found["peak"], result=result)


def torch_step(python: str, devices: Devices, sizes: Sizes, precision: str, limit: float) -> dict:
    """The same step of the equal network in PyTorch: the fastest."""
    words = [python, os.path.join(HERE, "step_pytorch.py"), sizes.batch, sizes.side, sizes.steps, NETWORK]
    found = figures_of([*words, "cpu" if devices.target == "CPU" else "cuda", precision], limit)
    result = f"ok: the fastest; forward of 1 image {1000 * found['forward']:.1f} ms"
    return rate(found["step"], sizes.batch, gib=found["peak"], result=result)


def training(work: str, devices: Devices, sizes: Sizes, precision: str, count: int, limit: float) -> dict:
    """An epoch of train.py on `count` devices, with drawn photos: what a user gets."""
    name = f"photos_{count}"
    coco_folder(work, sizes.batch * sizes.trained * count, name, side=128 if devices.target == "CPU" else 0)
    out = os.path.join(work, "out")
    words = [sys.executable, os.path.join(ROOT, "scripts", "launch.py"), "train", "--device_num", count]
    words += ["--device_target", devices.target, "--log_output", os.path.join(work, "log_output")]
    words += ["--config_path", os.path.join(ROOT, "config", f"{NETWORK}_config_gpu.yaml"), f"--data_path={work}"]
    words += [f"--coco_root={name}", f"--mindrecord_dir={name}/records", f"--output_path={out}", "--epoch_size=1"]
    words += [f"--batch_size={sizes.batch}", f"--img_shape=[{sizes.side}, {sizes.side}]", "--lr=0.001"]
    words += [f"--use_float16={precision == 'float16'}", "--feature_extractor_base_param=", "--compile_cache=False"]
    forbidden = {"NVIDIA_TF32_OVERRIDE": "0"} if precision == "float32" else {}
    try:
        output_of(words, limit, **forbidden)
        with open(os.path.join(out, "history.jsonl"), encoding="utf-8") as handle:
            done = json.loads(handle.readlines()[-1])
    finally:
        shutil.rmtree(out, ignore_errors=True)
    seconds = done["seconds_a_step"]
    return rate(
        seconds, sizes.batch * count, waiting=done["waiting_seconds_share"], result=f"ok: {done['steps']} steps"
    )


def numbers(target: str, steps: int, limit: float, **variables: str) -> dict:
    """The published figures and the losses of a training, on a device."""
    words = [sys.executable, os.path.join(HERE, "device_numbers.py"), target, steps]
    return figures_of(words, limit, **variables)


def check_numbers(rows: Rows, devices: Devices, steps: int) -> None:
    """Rows of the published figures, and of a training on the device and on the CPU. If the device is the CPU it
    computes with MindSpore's own convolutions, so that the two round differently."""
    found: Dict[str, list] = {}

    def on_device(limit: float) -> dict:
        variables = {"SSD_PLAIN_CONV": "1"} if devices.target == "CPU" else {}
        computed = numbers(devices.target, steps, limit, **variables)
        found.update(computed["figures"], losses=computed["losses"])
        worst = max(computed["figures"], key=lambda name: computed["figures"][name][0] / computed["figures"][name][1])
        difference, allowed = computed["figures"][worst]
        line = f"{worst} differ by up to {difference:.1e}, allowed {allowed:.0e}"
        # not "difference > allowed": a NaN has failed too
        return {"result": f"ok: {line}" if difference <= allowed else f"failed: {line}", "figures": computed["figures"]}

    def as_on_cpu(limit: float) -> dict:
        theirs = numbers("CPU", steps, limit)["losses"]
        difference = float(np.abs(np.array(found["losses"]) / theirs - 1).max())
        line = f"losses differ by up to {difference:.1e} (relative), allowed {STEPS_MAY_DIFFER:.0e}"
        fine = difference <= STEPS_MAY_DIFFER
        return {"result": f"ok: {line}" if fine else f"failed: {line}", "losses": found["losses"], "losses_cpu": theirs}

    rows.measure("published figures", "float32", on_device)
    if "losses" in found:
        rows.measure(f"{steps} steps as on a CPU", "float32", as_on_cpu)


def check_mindspore(rows: Rows, devices: Devices, sizes: Sizes, work: str) -> str:
    """All rows of MindSpore; returns the line for README's table of results, "" without a training that succeeded.

    The order is that of importance, as the time may not be enough for all.
    """
    check_numbers(rows, devices, sizes.compared)
    for precision in devices.precisions:
        rows.measure("step, data on the device", precision, our_step, devices, sizes, precision)
    # what a user gets who sets nothing: TF32 where the device has it
    usual = "tf32" if "tf32" in devices.precisions else "float32"
    alone = rows.measure("training (train.py)", usual, training, work, devices, sizes, usual, 1)
    several = None
    if sizes.devices > 1:
        part = f"training on {sizes.devices} devices"
        several = rows.measure(part, usual, training, work, devices, sizes, usual, sizes.devices)
        if alone and several:
            share = several["images_a_second"] / (sizes.devices * alone["images_a_second"])
            rows.add("scaling efficiency", usual, efficiency=share, result=f"ok: {share:.1%} of {sizes.devices} x one")
    for precision in devices.precisions:
        if precision != usual:
            rows.measure("training (train.py)", precision, training, work, devices, sizes, precision, 1)
    best = several or alone
    return readme_line(devices, sizes, best, sizes.devices if several else 1) if best else ""


def readme_line(devices: Devices, sizes: Sizes, row: dict, count: int) -> str:
    """A row for the table "Results" of README.md."""
    return (
        f"| `{NETWORK}` | {count} {devices.names[0]} ({row['precision']}) | none, {sizes.batch} | not trained | "
        f"{row['seconds_a_step']:.3f} | measured: `check_device.sh` at {sizes.side} x {sizes.side} |"
    )
