"""Signals that end a run: immediately, or after the current step if training would lose something."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from typing import Iterator

# mpirun kills its ranks a second after a SIGTERM, but only forwards USR1 and USR2: scripts/launch.py sends those
_STATUS = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129, "SIGUSR1": 143, "SIGUSR2": 130}
STATUS = {getattr(signal, name): status for name, status in _STATUS.items() if hasattr(signal, name)}
SIGHUP = getattr(signal, "SIGHUP", None)  # Windows has SIGTERM and SIGINT only


class SignalGuard:
    """Signal handlers of a run. Inside `with deferred():` a first signal only sets `status`; otherwise, and for a
    second signal, the process exits through SystemExit, so that everything is cleaned up.

    A second SIGHUP is ignored: for one closed terminal both the shell and the kernel send it.
    """

    def __init__(self):
        self.status = 0
        self._deferred = False

    def install(self) -> None:
        """Set the handlers. If SIGHUP is ignored from the start (`nohup`), it stays ignored."""
        for number in STATUS:
            if number != SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._received)

    def _received(self, number, _) -> None:
        if self.status and number == SIGHUP:
            return
        again, self.status = bool(self.status), STATUS[number]
        if again or not self._deferred:
            with contextlib.suppress(OSError):  # the terminal may be closed
                os.write(2, b"stopped by a signal\n")  # unlike print, it may interrupt a print
            raise SystemExit(self.status)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Record a signal in `status` instead of exiting, until the end of the block (a step, a file)."""
        done = threading.Event()
        keeper = threading.Thread(target=_reinstall_handlers, args=(done,), daemon=True)
        self._deferred = True
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            self._deferred = False


def _reinstall_handlers(done: threading.Event) -> None:
    """Re-install the current handlers every 10 ms: every graph run by MindSpore 2.10 turns Ctrl-C into SIGTERM.

    `signal.signal` works in the main thread only, which is busy with the graph.
    """
    try:
        sigaction = ctypes.CDLL(None).sigaction
    except (OSError, TypeError, AttributeError):  # Windows
        return
    actions = {int(number): ctypes.create_string_buffer(256) for number in STATUS}  # struct sigaction is smaller
    for number, action in actions.items():
        sigaction(number, None, action)
    while not done.wait(0.01):
        for number, action in actions.items():
            sigaction(number, action, None)
