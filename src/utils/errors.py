"""Errors and exit statuses: a user error is one line and status 2; others have status 1, bugs a traceback."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import traceback
from typing import Dict

from src import PACKAGES, missing_package_message
from src.utils.console import PIPE_STATUS, guarded_streams, say, use_utf8_streams

# caused by the machine's state, not by a bug
_ENVIRONMENT = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EROFS EACCES EPERM EFBIG EIO ENOTDIR EISDIR ENAMETOOLONG EMFILE ENFILE ESTALE".split()
}


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong, where, and what to do."""


class RunError(Exception):
    """The run cannot continue, but not because of the user's input: one line, exit status 1."""


_LOGGER = logging.getLogger("ssd")
_ranks = None
_lost: Dict[str, str] = {}


def set_ranks(ranks) -> None:
    """Set the communicator (`src.utils.distributed.Communicator`) whose ranks must end with this one."""
    global _ranks
    _ranks = ranks


def output_lost(path: str, line: str) -> bool:
    """Note an output that could not be written although the program continues: its exit status will be 1.

    Args:
        path: of the output.
        line: the error; the program prints it again at its end.

    Returns:
        Whether it is new.
    """
    new = path not in _lost
    _lost[path] = line
    return new


def output_arrived(path: str) -> None:
    """Note that a later write of this output succeeded."""
    _lost.pop(path, None)


def run_main(main, argv=None) -> int:
    """Run `main(argv)`; a `UserError`, a `RunError` or a missing package becomes one line on stderr.

    Returns the exit status: 0 success, 2 wrong user input, 1 any other error, 128 + number after a signal, 141 if
    the reader of the printed results went away. An exception that is a bug keeps its traceback. With several ranks the
    last line names rank and cause, and all ranks end: otherwise the others would wait forever.
    """
    use_utf8_streams()
    argv = sys.argv[1:] if argv is None else argv
    _lost.clear()
    with guarded_streams() as stdout:
        status, line = _run(main, argv, stdout)
        if line:
            _LOGGER.debug("error: %s", line)  # to the log file, if there is one: stderr may have no reader
            rank = f"rank {_ranks.rank}: " if _is_distributed() else ""
            say(f"error: {rank}{line}")
        if status and _is_distributed():
            _ranks.abort(status)
    return status


def _run(main, argv, stdout) -> tuple:
    """(exit status, line for stderr or "")."""
    status, line = 1, ""
    try:
        status = main(argv) or 0
    except (UserError, RunError) as error:
        status, line = (2 if isinstance(error, UserError) else 1), " ".join(str(error).split())
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        status, line = 130, "interrupted"
    except BaseException as error:
        if error is stdout.error:
            return _stdout_status(stdout)
        if isinstance(error, ModuleNotFoundError) and error.name in PACKAGES:
            status, line = 2, missing_package_message(error.name)
        elif isinstance(error, OSError) and error.errno in _ENVIRONMENT:
            line = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        else:
            text = traceback.format_exc().rstrip()
            say(text)
            _LOGGER.debug("%s", text)
            line = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}" if _is_distributed() else ""
    with contextlib.suppress(OSError):
        stdout.flush()
    if (
        status == 0 and stdout.error is not None and not stdout.log_only
    ):  # argparse swallows errors of printing its help
        return _stdout_status(stdout)
    if status == 0 and _lost:
        return 1, "; ".join(_lost.values())
    return status, line


def _stdout_status(stdout) -> tuple:
    if stdout.is_gone:
        return PIPE_STATUS, ""
    return 1, f"cannot write standard output: {stdout.error.strerror}"


def _is_distributed() -> bool:
    return _ranks is not None and _ranks.size > 1
