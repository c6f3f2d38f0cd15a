#!/usr/bin/env python3
"""Check the devices of this machine: speed, memory, scaling, and whether they compute the published figures.

    bash scripts/check_device.sh [--json FILE]      on GPUs or Ascend; under 6 minutes on one device
    bash scripts/check_device.sh --cpu              the same on the CPU, at a small size

It prints what it found (devices, versions), one table, and a line for README's table of results. Every measurement is
made by processes of its own; one that fails, or for which no time is left, is a row "failed: reason", and the others go
on. Run nothing else at the same time. docs/devices.md explains the rows.

Exit status: 0 all rows are ok, 1 some failed, 2 no device (without --cpu) or a wrong option.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
from benchmarks.device import Devices, find_devices, has_torch, processor, versions  # noqa: E402
from benchmarks.device_checks import Rows, Sizes, check_mindspore, torch_step  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.gpu_libraries import prepare_gpu  # noqa: E402
from src.utils.output import ensure_writable, write_json  # noqa: E402

NEEDS_GIB = 20.0  # a float32 step of 16 images asks for 19.3 GB


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="check the CPU, at a small size")
    parser.add_argument("--json", metavar="FILE", help="also write everything to a JSON file")
    parser.add_argument("--batch", type=int, metavar="N", help="images per device (default: 16; Ascend 32, CPU 2)")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the input (default: 640; CPU 128)")
    parser.add_argument("--devices", type=int, metavar="N", help="to train on together (default: all; CPU 2)")
    parser.add_argument("--minutes", type=float, help="after which nothing more is started (default: 6; CPU 30)")
    parser.add_argument(
        "--torch",
        metavar="PYTHON",
        default=sys.executable,
        help="a Python that has torch, to compare with (default: this one)",
    )
    parser.add_argument("--work", metavar="DIR", help="folder for drawn data and checkpoints (default: temporary)")
    options = parser.parse_args(argv)
    for name in ("batch", "size", "devices", "minutes"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name} must be above 0, got {value}")
    if options.size and options.size % 128:
        raise UserError(f"--size must be a multiple of 128, got {options.size}")
    if options.json and os.path.isdir(options.json):
        raise UserError(f"--json: {options.json} is a folder; name the file to write")
    return options


def sizes_for(devices: Devices, options) -> Sizes:
    """The sizes of the measurements: given ones, else those of the published runs that fit into the memory."""
    on_cpu = devices.target == "CPU"
    batch = 2 if on_cpu else 32 if devices.target == "Ascend" else 16
    if not on_cpu and 0 < devices.gib < NEEDS_GIB:
        batch = 8
    count = options.devices or (2 if on_cpu else len(devices.names))
    side, steps, trained, compared = (128, 4, 6, 6) if on_cpu else (640, 14, 24, 20)
    return Sizes(options.batch or batch, options.size or side, steps, trained, count, compared)


def main(argv) -> int:
    options = parse(argv)
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # what was started ends too
    devices = processor() if options.cpu else find_devices()
    if devices is None:
        raise UserError(
            "no device: the NVIDIA driver (libcuda.so.1) finds no GPU, and there is no Ascend (/dev/davinci*); "
            "--cpu tries everything on the CPU"
        )
    if not options.cpu and options.devices and options.devices > len(devices.names):
        raise UserError(f"--devices {options.devices}: this machine has {len(devices.names)}")
    if options.json:
        ensure_writable(os.path.dirname(os.path.abspath(options.json)), "json")
    if options.work:
        ensure_writable(options.work, "work")
    sizes = sizes_for(devices, options)
    rows = Rows(options.minutes or (30 if options.cpu else 6), limit=600 if options.cpu else 150)
    missing = ""
    if devices.target == "GPU":
        try:
            prepare_gpu()
        except UserError as error:
            missing = " ".join(str(error).split())
    found = versions()
    print(f"devices:  {devices}")
    print(f"versions: {', '.join(f'{name} {number}' for name, number in found.items())}")
    print(f"measured: batch {sizes.batch} per device, {sizes.side} x {sizes.side}\n")
    print(Rows.header(), flush=True)
    readme = ""
    if missing:
        rows.add("MindSpore", "", result=f"failed: {missing}")
    else:
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            readme = check_mindspore(rows, devices, sizes, work)
    compare_with_torch(rows, options.torch, devices, sizes)
    print(f"\n{len(rows.rows)} rows, {rows.failures} failed")
    if readme:
        print(f"for README's table of results:\n{readme}")
    if options.json:
        content = {"devices": devices._asdict(), "versions": found, "sizes": sizes._asdict(), "rows": rows.rows}
        write_json(options.json, {**content, "readme": readme}, indent=1)
    return 1 if rows.failures else 0


def compare_with_torch(rows: Rows, python: str, devices: Devices, sizes: Sizes) -> None:
    """The equal network in PyTorch, where there is one for these devices."""
    if devices.target == "Ascend":
        return
    if not has_torch(python):
        rows.add("step in PyTorch", "", result=f"left out: {python} has no torch; name one that has with --torch")
        return
    for precision in devices.precisions if devices.target == "GPU" else ["float32"]:
        rows.measure("step in PyTorch", precision, torch_step, python, devices, sizes, precision)


if __name__ == "__main__":
    sys.exit(run_main(main))
