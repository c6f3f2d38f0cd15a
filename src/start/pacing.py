"""How a running training keeps to the time: what follows it, and another number of epochs where it misses its end."""

from __future__ import annotations

import time
from typing import Callable, Optional

from src.start.processes import Pace, progress_of, steps_that_fit
from src.training.run_files import epoch_and_step, list_checkpoints

OFF = 0.06
"""Part of the time by which a training may miss its end before its schedule is changed."""
OBSERVED = 0.15
"""Part of the time that a training is watched before its speed counts."""
TELL_SECONDS = 20


def reserve(pace: Pace, batch: int, val_pictures: int) -> float:
    """Seconds for what follows the training: BN statistics, evaluation, export; from the times of a training."""
    per_picture = 0.4 * pace.step / batch
    return 20 * batch * per_picture + val_pictures * per_picture + 1.6 * pace.start + 10


def epochs_done(folder: str, steps_per_epoch: int) -> float:
    """Epochs of the newest checkpoint, with fractions."""
    epoch, step = epoch_and_step(list_checkpoints(folder)[-1])
    return epoch - 1 + step / steps_per_epoch


class Teller:
    """Prints the progress lines of a training, at most one in `TELL_SECONDS`."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._last = say, 0.0

    def tell(self, line: str) -> None:
        """Take a line of the training's log."""
        if progress_of(line) is not None and time.monotonic() - self._last > TELL_SECONDS:
            self._last = time.monotonic()
            self._say("training: " + line[line.index("epoch ") :])


class Pacer:
    """Compares a training with the time that is left; `epochs`: another number of epochs, where it misses its end.

    Args:
        left: seconds until the training should end; total: of the command; pace: as measured; per_epoch: steps.
    """

    def __init__(
        self,
        left: Callable[[], float],
        total: float,
        pace: Pace,
        per_epoch: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._left, self._total, self._pace, self._per_epoch, self._clock = left, total, pace, per_epoch, clock
        self._first: Optional[tuple] = None
        self.epochs: Optional[int] = None

    def epochs_for(self, done: float, pace: Optional[Pace] = None) -> int:
        """Total epochs of a process that starts now after `done` epochs."""
        more = steps_that_fit(self._left(), pace or self._pace, self._per_epoch) / self._per_epoch
        return max(int(round(done + more)), int(done) + 1)

    def watch(self, line: str) -> bool:
        """Whether the training is to be stopped and go on with `epochs`; takes each line of its log."""
        found, now = progress_of(line), self._clock()
        if found is None:
            return False
        done = found.epoch - 1 + (found.step / self._per_epoch if found.step else 1)
        if self._first is None:
            self._first = done, now
        elapsed, left = now - self._first[1], self._left()
        if elapsed < OBSERVED * self._total:
            return False
        rate = elapsed / (done - self._first[0])
        late = (found.epochs - done) * rate - left
        if abs(late) <= OFF * self._total or (left < 2 * self._pace.start and late < 2 * self._pace.start):
            return False  # starting again costs more than it gains
        pace = Pace(self._pace.start, rate / self._per_epoch, 0.0)
        epochs = self.epochs_for(done, pace)
        if epochs == found.epochs:
            return False
        self.epochs, self._first = epochs, None
        return True
