"""SIGTERM and Ctrl-C: at once where nothing is lost by it, after the step where training would lose something."""

from __future__ import annotations

import contextlib
import signal
import sys

# mpirun ends its ranks a second after its own SIGTERM; USR1 and USR2 it only passes on: scripts/launch.py sends those
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143, signal.SIGUSR2: 130}


class Stop:
    """Signal handlers of a run. Outside `held()` a signal ends the process through SystemExit (so that everything
    is cleaned up), inside it only sets `status`; a second signal always ends it."""

    def __init__(self):
        self.status = 0
        self._held = False

    def install(self) -> None:
        """Set the handlers; again where a library has replaced them."""
        for number in STATUS:
            signal.signal(number, self._received)

    def _received(self, number, _) -> None:
        again, self.status = bool(self.status), STATUS[number]
        if again or not self._held:
            print("stopped by a signal", file=sys.stderr, flush=True)
            raise SystemExit(self.status)

    @contextlib.contextmanager
    def held(self):
        """Signals wait for the end of a step (or of a file)."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
