"""Signals that end a run: at once where nothing is lost by it, after the step where training would lose something."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from typing import Iterator

# mpirun ends its ranks a second after its own SIGTERM; USR1 and USR2 it only passes on: scripts/launch.py sends those
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGUSR1: 143, signal.SIGUSR2: 130}


class SignalGuard:
    """Signal handlers of a run. Within `deferred()` a first signal only sets `status` and is handled after the current
    step; otherwise, and for a second signal, the process ends through SystemExit, so that everything is cleaned up.

    A closed terminal is not taken for a second signal: shell and kernel send SIGHUP both.
    """

    def __init__(self):
        self.status = 0
        self._deferred = False

    def install(self) -> None:
        """Set the handlers. Where SIGHUP is ignored from the start (`nohup`), it stays ignored."""
        for number in STATUS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._received)

    def _received(self, number, _) -> None:
        if self.status and number == signal.SIGHUP:
            return
        again, self.status = bool(self.status), STATUS[number]
        if again or not self._deferred:
            with contextlib.suppress(OSError):  # the terminal may be what is gone
                os.write(2, b"stopped by a signal\n")  # unlike print, it may interrupt a print
            raise SystemExit(self.status)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals are deferred to the end of a step (or of a file)."""
        over = threading.Event()
        keeper = threading.Thread(target=_reinstall_handlers, args=(over,), daemon=True)
        self._deferred = True
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()
            self._deferred = False


def _reinstall_handlers(over: threading.Event) -> None:
    """Re-install the current handlers every 10 ms: every graph that MindSpore 2.10 runs turns Ctrl-C into SIGTERM.

    Python's own `signal.signal` works in the main thread only, and that is inside the graph.
    """
    libc = ctypes.CDLL(None)
    actions = {int(number): ctypes.create_string_buffer(256) for number in STATUS}  # struct sigaction is smaller
    for number, action in actions.items():
        libc.sigaction(number, None, action)
    while not over.wait(0.01):
        for number, action in actions.items():
            libc.sigaction(number, action, None)
