"""Locks on folders in use, between processes. A lock ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from typing import Optional

from src.errors import UserError
from src.log import LOGGER


class Lock:
    """A lock file that this process holds until `release` (or its own end).

    descriptor: of the open lock file, None where the file system has no locks or the folder cannot be written.
    """

    def __init__(self, descriptor: Optional[int]):
        self._descriptor = descriptor
        self._passing = ""  # path of a lock file that is removed with the lock

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor is not None:
            if self._passing and _is_file(self._descriptor, self._passing):
                with contextlib.suppress(OSError):
                    os.remove(self._passing)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_) -> None:
        self.release()


def try_lock(path: str, shared: bool = False) -> Optional[Lock]:
    """The lock of the file `path`, which is made where it is missing; None where another process holds it.

    Args:
        shared: any number of processes may hold it together, while nobody holds it alone.

    Raises:
        OSError: the file cannot be made, and an exclusive lock was asked for.
    """
    return _take(path, shared, wait=False)


def wait_lock(path: str, waiting: str, shared: bool = False) -> Lock:
    """As `try_lock`, but waits until it is free. `waiting` is logged when that takes time."""
    lock = try_lock(path, shared)
    if lock is None:
        LOGGER.info("%s", waiting)
        lock = _take(path, shared, wait=True)
    return lock


def _take(path: str, shared: bool, wait: bool) -> Optional[Lock]:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        descriptor = _open(path, shared)
        if descriptor is None:
            return Lock(None)
        try:
            fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            LOGGER.info("%s: this file system has no locks; use its folder from one process at a time", path)
            return Lock(descriptor)
        if _is_file(descriptor, path):
            return Lock(descriptor)
        os.close(descriptor)  # its holder removed the file between our opening and locking it


def _is_file(descriptor: int, path: str) -> bool:
    """`path` still names the file that is open."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _open(path: str, shared: bool) -> Optional[int]:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except IsADirectoryError:
        return os.open(path, os.O_RDONLY)
    except OSError:
        # a file of another user, or a folder that is only read: reading is enough for a lock
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY)
        if shared:
            return None
        raise


def hold_folder(folder: str, what: str, key: str = "output_path") -> Lock:
    """Hold a folder that exists for one program: `.{what}.lock` in it says who holds it, until `release`.

    Args:
        what: the kind of program, "training" say; programs of different kinds may share a folder.
        key: the option that named the folder.

    Raises:
        UserError: a program of this kind holds it; the line names it.
    """
    path = os.path.join(os.path.abspath(folder), f".{what}.lock")
    try:
        lock = try_lock(path)
    except OSError as error:
        raise UserError(f"{key}: cannot write to {os.path.abspath(folder)}: {error.strerror}") from None
    if lock is None:
        raise UserError(
            f"{key}: {os.path.abspath(folder)} is in use by another {what} ({_holder(path)}); name another folder with "
            f"--{key}, or wait until it ends"
        )
    _sign(lock)
    lock._passing = path
    return lock


def _sign(lock: Lock) -> None:
    """Write who holds a lock into its file."""
    command = " ".join(map(shlex.quote, sys.argv))
    text = json.dumps(
        {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T"), "command": command}
    )
    with contextlib.suppress(OSError, TypeError):
        os.ftruncate(lock._descriptor, 0)
        os.pwrite(lock._descriptor, text.encode("utf-8", "backslashreplace"), 0)


def _holder(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as handle:
            content = json.load(handle)
        return f"process {content['pid']} on {content['host']}, since {content['since']}: {content['command'][:200]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown process"
