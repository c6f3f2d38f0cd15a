#!/usr/bin/env python3
"""How fast model files are: checkpoints, MINDIR and ONNX files, each runtime, by batch and threads.

    python3 scripts/benchmark_model.py best_map.ckpt ssd.mindir ssd.onnx ssd_int8.onnx --batch 1 4 --threads 1 2

One line per file and runtime: pictures per second, their ratio to the first line of the same batch and threads, the
time of a call (median and 95th percentile), the peak memory of the process, and how long loading took. A call is the
network from its input to its outputs, without reading and resizing pictures. The lines of a batch run in turns, each in
a separate process, so that the ratios hold on a machine whose speed varies. Run nothing else at the same time.

A file of a fixed batch is measured with that batch only. --threads is also the number of cores that a process may use.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import platform
import sys
from typing import Dict, List

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
import numpy as np  # noqa: E402

from benchmarks.model_file import Case, ModelProcess  # noqa: E402
from src.inference.open_model import ENDINGS  # noqa: E402
from src.inference.runtimes import RUNTIMES  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.output import ensure_writable, write_json  # noqa: E402
from src.utils.text import one_line  # noqa: E402
from src.utils.threads import cores  # noqa: E402

TURNS = 5
# (key of a row, title, width, form)
COLUMNS = (
    ("file", "file", "<26", ".26"),
    ("runtime", "runtime", "<16", ""),
    ("computes", "computes", "<13", ""),
    ("batch", "batch", ">5", ""),
    ("threads", "threads", ">7", ""),
    ("pictures_per_s", "pict./s", ">9", ".2f"),
    ("times", "times", ">6", ".2f"),
    ("p50_ms", "p50 ms", ">8", ".1f"),
    ("p95_ms", "p95 ms", ">8", ".1f"),
    ("peak_mb", "peak MB", ">8", ".0f"),
    ("load_s", "load s", ">7", ".1f"),
    ("file_mb", "file MB", ">8", ".1f"),
)


def cases_of(files: List[str], runtimes: List[str], batch: int, threads: int, config_path: str) -> List[Case]:
    """Each file in each runtime that is meant for it."""
    cases = []
    for path in files:
        for runtime in runtimes if path.lower().endswith(".onnx") else ["mindspore"]:
            cases.append(Case(path, runtime, batch, threads, config_path))
    return cases


def measure(cases: List[Case], seconds: float, done: set, failures: Dict[str, str]) -> List[dict]:
    """A row per case, in turns of the processes that are open together.

    Args:
        done: (file, runtime, batch, threads) that have a row; a file of a fixed batch comes again for each `--batch`.
        failures: "file in runtime" -> why it could not be measured; added to.
    """
    with contextlib.ExitStack() as stack:
        running = []
        for case in cases:
            name = f"{case.path} in {case.runtime}"
            if name in failures:
                continue
            try:
                process = ModelProcess(case)
            except UserError as error:
                failures[name] = str(error)
                continue
            key = (case.path, case.runtime, process.ready["batch"], case.threads)
            if key in done:
                process.close()
                continue
            done.add(key)
            stack.callback(process.process.kill)
            running.append((process, []))
        for _ in range(TURNS):
            for process, calls in running:
                calls += process.run(seconds / TURNS)
        return [row_of(process, np.array(calls)) for process, calls in running]


def row_of(process: ModelProcess, calls: np.ndarray) -> dict:
    """The figures of a case; ends its process."""
    case, ready = process.case, process.ready
    return {
        "file": os.path.basename(case.path),
        "runtime": case.runtime,
        "computes": ready["computes"],
        "batch": ready["batch"],
        "threads": case.threads,
        "pictures_per_s": ready["batch"] * len(calls) / calls.sum(),
        "p50_ms": 1000 * float(np.percentile(calls, 50)),
        "p95_ms": 1000 * float(np.percentile(calls, 95)),
        "calls": len(calls),
        "peak_mb": process.close() / 1e6,
        "load_s": ready["load_s"],
        "file_mb": os.path.getsize(case.path) / 1e6,
    }


def machine() -> dict:
    """The processor and the versions of what runs the files."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as handle:
        names = [line.split(":")[1].strip() for line in handle if line.startswith("model name")]
    versions = {}
    for package in ("mindspore", "onnxruntime", "openvino"):
        with contextlib.suppress(Exception):
            from importlib.metadata import version  # Python 3.8

            versions[package] = version(package)
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": cores(),
        "python": platform.python_version(),
        "packages": versions,
    }


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help=f"x{', x'.join(ENDINGS)}")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], metavar="N", help="default: 1")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="default: all cores")
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, help="of ONNX files; default: all that are installed")
    parser.add_argument("--seconds", type=float, default=10, help="for each line (default: %(default)s)")
    parser.add_argument("--config_path", default="", help="for a checkpoint (default: its run's own config.yaml)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args(argv)
    most = cores()
    options.threads = options.threads or [most]
    for path in options.files:
        if not os.path.isfile(path):
            raise UserError(f"no such file: {one_line(os.path.abspath(path))}")
        if not path.lower().endswith(ENDINGS):
            raise UserError(f"a model's name ends in {', '.join(ENDINGS)}, got {one_line(path)}")
    if min(options.batch) < 1:
        raise UserError(f"--batch must be at least 1, got {min(options.batch)}")
    if not 1 <= min(options.threads) <= max(options.threads) <= most:
        raise UserError(f"--threads must lie in 1 to {most}, the cores of this machine, got {options.threads}")
    if not 0 < options.seconds <= 3600:
        raise UserError(f"--seconds must lie in (0, 3600], got {options.seconds:g}")
    if not options.runtime:
        options.runtime = [name for name in RUNTIMES if importlib.util.find_spec(name.split("_")[0])]
    return options


def main(argv) -> int:
    options = parse(argv)
    if os.name == "nt":
        raise UserError("the benchmark needs Linux or macOS: Windows passes no open pipe to another program")
    if options.json:
        if os.path.isdir(options.json):
            raise UserError(f"--json: {options.json} is a folder; name the file to write")
        ensure_writable(os.path.dirname(os.path.abspath(options.json)), "json")
    files = [os.path.abspath(path) for path in options.files]
    about, rows, done, failures = machine(), [], set(), {}
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    print(f"{about['processor']}, {about['cores']} cores, Python {about['python']}, {packages}")
    print(" ".join(f"{title:{width}}" for _, title, width, _ in COLUMNS))
    for threads in options.threads:
        for batch in options.batch:
            cases = cases_of(files, options.runtime, batch, threads, options.config_path)
            found = measure(cases, options.seconds, done, failures)
            for row in found:
                first = next(
                    one for one in [*rows, *found] if (one["batch"], one["threads"]) == (row["batch"], threads)
                )
                row["times"] = row["pictures_per_s"] / first["pictures_per_s"]
                print(" ".join(f"{row[name]:{width}{form}}" for name, _, width, form in COLUMNS), flush=True)
            rows += found
    if options.json:
        write_json(options.json, dict(about, rows=rows), indent=1)
    if failures:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in failures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
