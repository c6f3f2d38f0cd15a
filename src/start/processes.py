"""The existing programs as processes, and the times that their log lines give."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import Callable, List, NamedTuple, Optional

import numpy as np

from src.config.load import ROOT
from src.utils.errors import RunError, UserError

_EPOCH = re.compile(r"epoch (\d+)/(\d+): loss.* ([\d.]+) s/step")
_STEP = re.compile(r"epoch (\d+)/(\d+), step (\d+)/(\d+): loss.* ([\d.]+) s/step")
STOPPED = 143


class Progress(NamedTuple):
    """A progress line of train.py: `step` of `epoch` (from 1) of `steps` in an epoch, 0 for the end of the epoch."""

    epoch: int
    epochs: int
    step: int
    seconds_per_step: float


def progress_of(line: str) -> Optional[Progress]:
    """The progress that a line of train.py's log tells, None for another line."""
    match = _EPOCH.search(line)
    if match:
        return Progress(int(match.group(1)), int(match.group(2)), 0, float(match.group(3)))
    match = _STEP.search(line)
    return Progress(*map(int, match.groups()[:3]), float(match.group(5))) if match else None


def run_program(what: str, words: List[str], log: str, watch: Callable[[str], bool] = lambda line: False) -> str:
    """Run a program of this repository to its end; returns its output, which is written into `log` too.

    Args:
        what: names the stage in an error.
        words: file of the program, and its options.
        watch: called with each line; True stops the program as a signal does.

    Raises:
        UserError, RunError: it failed (status 2, any other); the program's error line and the log's path.
    """
    os.makedirs(os.path.dirname(log), exist_ok=True)
    environment = dict(os.environ, PYTHONUNBUFFERED="1", GLOG_v=os.environ.get("GLOG_v", "3"))
    command = [sys.executable, os.path.join(ROOT, words[0]), *words[1:]]
    lines, stopped = [], False
    with open(log, "a", encoding="utf-8", errors="replace") as copy:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                lines.append(line)
                copy.write(line + "\n")
                copy.flush()
                if not stopped and watch(line):
                    stopped = True
                    process.send_signal(signal.SIGTERM)
            status = process.wait()
        except BaseException:
            process.terminate()  # a training saves a checkpoint
            copy.write(process.communicate()[0].decode("utf-8", "replace"))
            raise
    if status not in (0, STOPPED if stopped else 0):
        errors = [line.split("error: ", 1)[1] for line in lines if "error: " in line]
        last = errors[-1] if errors else next((line for line in reversed(lines) if line.strip()), "no output")
        kind = UserError if status == 2 else RunError
        raise kind(f"{what} failed: {last[:600]} (all of its output: {log})")
    return "\n".join(lines)


class Pace(NamedTuple):
    """Seconds of a training: until its first step has run, of a step, and of the end of an epoch."""

    start: float
    step: float
    epoch: float

    def seconds(self, epochs: int, steps_per_epoch: int) -> float:
        """Of a process that trains so many epochs."""
        return self.start + epochs * (steps_per_epoch * self.step + self.epoch)


class Stopwatch:
    """Watches a training that is run for its times only; `watch` stops it as soon as they are known.

    Args:
        steps: in an epoch; most: seconds that the measurement may take after the first epoch.
    """

    def __init__(self, steps: int, most: float, clock: Callable[[], float] = time.monotonic):
        self._steps, self._most, self._clock = steps, most, clock
        self._begin, self._ends, self._rates = clock(), [], []

    def watch(self, line: str) -> bool:
        found = progress_of(line)
        if found is None or found.step:
            return False
        self._ends.append(self._clock())
        self._rates.append(found.seconds_per_step)
        return len(self._ends) > 1 and self._ends[-1] - self._ends[0] >= self._most

    def pace(self) -> Pace:
        """The times; the first epoch holds the compilation."""
        step = float(np.median(self._rates[1:]))
        between = np.diff(self._ends)
        end = max(float(np.median(between)) - self._steps * step, 0.0)
        start = max(self._ends[0] - self._begin - self._steps * step - end, 0.0)
        return Pace(start, step, end)


def steps_that_fit(seconds: float, pace: Pace, steps_per_epoch: int) -> int:
    """Number of steps that a process can train in so many seconds, 0 if there is no time for any."""
    per_step = pace.step + pace.epoch / max(steps_per_epoch, 1)
    return max(int((seconds - pace.start) / per_step), 0)
