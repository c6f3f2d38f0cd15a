"""Seconds per step, and the share of that time spent waiting for data."""

from __future__ import annotations

import time


class StepTimer:
    """Measures the time of an epoch's steps and of waiting for their batches. The first step, which may compile, counts
    only until there is a second one."""

    def __init__(self, images_per_step: int):
        self._images = images_per_step
        self._start = self._mark = self._report = time.time()
        self._waited, self._steps = 0.0, 0

    def fetched(self) -> None:
        """Call it when a batch has arrived."""
        now = time.time()
        self._waited += now - self._mark
        self._mark = now

    def stepped(self) -> None:
        """Call it when the step of that batch is launched, and the one before it done."""
        self._mark = time.time()
        self._steps += 1
        if self._steps == 1:
            self._first = self._mark - self._start, self._waited

    def finished(self) -> None:
        """Call it when the result of the last step has been read: a device may still have computed it until then."""
        self._mark = time.time()

    def reported(self) -> None:
        """Call it when a line was logged."""
        self._report = time.time()

    def since_report(self) -> float:
        """Seconds since the last logged line."""
        return time.time() - self._report

    def _warm(self) -> tuple:
        """(steps, seconds, seconds of waiting), without the first step if there are more."""
        if self._steps < 2:
            return max(self._steps, 1), max(self._mark - self._start, 1e-9), self._waited
        seconds, waited = self._first
        return self._steps - 1, max(self._mark - self._start - seconds, 1e-9), self._waited - waited

    @property
    def seconds_per_step(self) -> float:
        """Mean time of a step, waiting included."""
        steps, seconds, _ = self._warm()
        return seconds / steps

    @property
    def images_per_second(self) -> float:
        """Images per second of all ranks."""
        return self._images / self.seconds_per_step

    @property
    def waiting(self) -> float:
        """Share of the time spent waiting for batches."""
        _, seconds, waited = self._warm()
        return waited / seconds
