"""The log: `logging.getLogger("ssd")`; rank 0 logs at INFO, other ranks at WARNING."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Callable

from tqdm import tqdm

from src.utils.console import say
from src.utils.errors import output_arrived, output_lost
from src.utils.output import OutputError, append_bytes, append_line, output_error
from src.utils.text import escape_surrogates

LOGGER = logging.getLogger("ssd")
_ALREADY_WARNED = set()
PROGRESS_SECONDS = 20


def setup_logging(output_path: str | None = None, rank: int = 0, size: int = 1) -> logging.Logger:
    """Log to stdout, and in more detail to `output_path/log_{rank}.txt` when a folder is given.

    Calling it again replaces the handlers, so that nothing is written twice. A console that closes later, or a full
    disk, does not end the program.

    Raises:
        OutputError: the file cannot be written.
    """
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    prefix = "%(asctime)s " + (f"[{rank}] " if size > 1 else "")
    formatter = _Formatter(prefix + "%(levelname)s %(message)s", "%H:%M:%S")
    console = _Console(sys.stdout)
    console.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers = [console]
    if output_path:
        handlers.append(_LogFile(os.path.join(output_path, f"log_{rank}.txt")))
        handlers[-1].setLevel(logging.DEBUG)
    for handler in handlers:
        handler.setFormatter(formatter)
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    return LOGGER


def append_json_line(path: str, record: dict) -> None:
    """Append one JSON object as one line (the history of a run)."""
    append_line(path, json.dumps(record))


def warn_once(line: str) -> None:
    """Log a warning, once per process and message."""
    if line not in _ALREADY_WARNED:
        _ALREADY_WARNED.add(line)
        LOGGER.warning("%s", line)


def write_or_go_on(path: str, write: Callable, *arguments) -> bool:
    """Call `write(*arguments)`, which writes `path`. If it cannot be written, the program continues without it.

    Returns:
        Whether it was written. If not, a warning is logged (once per path), and the program ends with status 1 unless
        a later call for the same path succeeds.
    """
    try:
        write(*arguments)
    except OutputError as error:
        if output_lost(path, str(error)):
            LOGGER.warning("%s; the program continues without it", error)
        return False
    output_arrived(path)
    return True


class _LogLines:
    """A file for tqdm that logs each state of the progress bar as a line."""

    def write(self, text: str) -> None:
        if text.strip():
            LOGGER.info("%s", text.strip())

    def flush(self) -> None:
        """Nothing is buffered."""


class _Formatter(logging.Formatter):
    """Formatter whose lines every terminal and file accepts."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_surrogates(super().format(record))


class _Console(logging.StreamHandler):
    """Console handler that does not break tqdm's progress bar. After a write error it stays silent."""

    _works = True

    def emit(self, record: logging.LogRecord) -> None:
        if not self._works:
            return
        try:
            tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except OSError as error:
            self._works, self.stream.log_only = False, True
            line = f"standard output cannot be written any more ({error.strerror}); the program continues"
            say(line)
            LOGGER.warning("%s", line)


class _LogFile(logging.Handler):
    """Log file handler. Lines are written completely or not at all; only the first failure is reported.

    Raises:
        OutputError: the file cannot be created.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = os.path.abspath(path)
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
        except OSError as error:
            raise output_error(self.path, error) from error
        append_bytes(self.path, b"")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            append_line(self.path, self.format(record))
        except OutputError as error:
            if output_lost(self.path, f"lines are missing from {self.path}: {error}"):
                say(f"warning: {error}; the program continues")


def progress(total: int, what: str, unit: str = "images", is_main: bool = True, terminal_only: bool = False) -> tqdm:
    """A progress bar with rate and time left on a terminal; otherwise a line of the log every 20 seconds.

    Args:
        is_main: False (ranks other than 0) shows nothing.
        terminal_only: show nothing without a terminal (`disable` is True then), for callers that log lines themselves.
    """
    if sys.stderr.isatty():
        return tqdm(total=total, desc=what, unit=f" {unit}", disable=not is_main, leave=False, dynamic_ncols=True)
    if terminal_only:
        return tqdm(total=total, disable=True)
    return tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        file=_LogLines(),
        mininterval=PROGRESS_SECONDS,
        maxinterval=PROGRESS_SECONDS,
        delay=PROGRESS_SECONDS,
        bar_format="{desc}: {n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left",
        disable=not is_main,
        leave=False,
    )
