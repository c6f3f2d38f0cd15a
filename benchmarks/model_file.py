"""A process that runs one model file, for `scripts/benchmark_model.py`: python -m benchmarks.model_file '{"path": ...}'

It writes a line of JSON to the file descriptor `answers` when the model is ready, and one with the seconds of each call
for every number of seconds that it reads from standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import List, Optional

from src.utils.errors import UserError
from src.utils.text import one_line

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
# the user's: what prepare_environment sets for MindSpore is no other runtime's
ENVIRONMENT = dict(os.environ)
WARM_UP = 3  # calls


@dataclass
class Case:
    """What is measured: a file in a runtime ("mindspore" for a checkpoint and a MINDIR) with a batch, on so many cores.

    config_path: of a checkpoint, "" where its run's is near.
    """

    path: str
    runtime: str
    batch: int
    threads: int
    config_path: str = ""


class ModelProcess:
    """The process of a case, loaded and warm. `ready` has load_s, batch (the file's where it is fixed) and computes.

    Raises:
        UserError: it could not be loaded, or ended while it ran; the reason is one line.
    """

    def __init__(self, case: Case):
        reading, writing = os.pipe()
        words = [sys.executable, "-m", "benchmarks.model_file", json.dumps(dict(asdict(case), answers=writing))]
        bound = sorted(os.sched_getaffinity(0))[: case.threads] if hasattr(os, "sched_getaffinity") else []
        cores = ",".join(map(str, bound))
        # for MindSpore, which has no such option once it is imported
        threads = {name: str(case.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self.case = case
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=dict(ENVIRONMENT, GLOG_v="4", BENCHMARK_CORES=cores, **threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[writing],
        )
        os.close(writing)
        self._answers = os.fdopen(reading)
        self.ready = self._answer()

    def run(self, seconds: float) -> List[float]:
        """Seconds of each call during this time, at least one."""
        with contextlib.suppress(OSError):  # no answer comes then
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.flush()
        return self._answer()["calls"]

    def close(self) -> Optional[int]:
        """End the process; its peak memory in bytes, None where it had ended before."""
        try:
            self.process.stdin.close()
            line = self._answers.readline()
        except OSError:
            line = ""
        self.process.kill()
        self.process.wait()
        self._answers.close()
        self.process.stderr.close()
        return json.loads(line)["peak"] if line else None

    def _answer(self) -> dict:
        line = self._answers.readline()
        if line:
            return json.loads(line)
        errors = self.process.stderr.read().strip().splitlines() or [f"ended with {self.process.wait()}"]
        self.close()
        raise UserError(one_line(errors[-1].replace("error: ", "", 1)))


def _open(case: Case):
    """The detector of a case."""
    from src.inference.open_model import open_model

    if case.runtime != "mindspore":
        return open_model(case.path, runtime=case.runtime, threads=case.threads)
    from src.config import load_config
    from src.inference.predictor import options_of
    from src.utils.device import init_device, prepare_environment

    is_checkpoint = case.path.lower().endswith(".ckpt")
    options = options_of(case.path, case.config_path) if is_checkpoint else []
    cfg = load_config([*options, "--device_target=CPU", "--run_distribute=False", f"--batch_size={case.batch}"])
    prepare_environment()
    init_device(cfg)
    return open_model(case.path, cfg if is_checkpoint else None)


def _serve(case: Case, answers) -> int:
    from dataclasses import replace

    from benchmarks.data import memory
    from src.inference.pictures import comparison_pictures

    def answer(**values) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    start = time.perf_counter()
    detector = _open(case)
    loaded = time.perf_counter() - start
    if detector.description.dynamic_batch:
        detector.description = replace(detector.description, batch_size=case.batch)
    description = detector.description
    images, shapes, _ = comparison_pictures("", description.img_shape, description.batch_size)
    batch = detector._input(images)
    for _ in range(WARM_UP):
        detector.run(batch, shapes)
    computes = description.precision + (", bf16" if getattr(detector, "computes_in", "") == "bf16" else "")
    answer(load_s=loaded, batch=description.batch_size, computes=computes)
    for line in sys.stdin:
        calls, begin = [], time.perf_counter()
        while not calls or time.perf_counter() - begin < float(line):
            at = time.perf_counter()
            detector.run(batch, shapes)
            calls.append(time.perf_counter() - at)
        answer(calls=calls)
    answer(peak=memory())
    return 0


def main(argv) -> int:
    values = json.loads(argv[0])
    with os.fdopen(values.pop("answers"), "w") as answers:
        return _serve(Case(**values), answers)


if __name__ == "__main__":
    # before any library starts its threads; macOS binds no process to cores
    if os.environ["BENCHMARK_CORES"]:
        os.sched_setaffinity(0, {int(core) for core in os.environ["BENCHMARK_CORES"].split(",")})
    from src.utils.errors import run_main

    sys.exit(run_main(main))
