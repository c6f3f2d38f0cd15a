"""Seconds per step, and the share of them spent waiting for data."""

from __future__ import annotations

import time


class StepTimer:
    """Where an epoch's time goes: steps, and waiting for their batches. Its first step, which compiles, counts only
    until there is a second one."""

    def __init__(self, images_per_step: int):
        self._images = images_per_step
        self._start = self._mark = self._report = time.time()
        self._waited, self._steps = 0.0, 0

    def fetched(self) -> None:
        """A batch has come."""
        now = time.time()
        self._waited += now - self._mark
        self._mark = now

    def stepped(self) -> None:
        """Its step is done."""
        self._mark = time.time()
        self._steps += 1
        if self._steps == 1:
            self._first = self._mark - self._start, self._waited

    def reported(self) -> None:
        """A line was logged now."""
        self._report = time.time()

    def since_report(self) -> float:
        """Seconds since the last line."""
        return time.time() - self._report

    def _warm(self) -> tuple:
        """(steps, seconds, seconds waited)."""
        if self._steps < 2:
            return max(self._steps, 1), max(self._mark - self._start, 1e-9), self._waited
        seconds, waited = self._first
        return self._steps - 1, max(self._mark - self._start - seconds, 1e-9), self._waited - waited

    @property
    def seconds_per_step(self) -> float:
        """Waiting included."""
        steps, seconds, _ = self._warm()
        return seconds / steps

    @property
    def images_per_second(self) -> float:
        """Of all ranks."""
        return self._images / self.seconds_per_step

    @property
    def waiting(self) -> float:
        """Share of the time that went by until batches came."""
        _, seconds, waited = self._warm()
        return waited / seconds
