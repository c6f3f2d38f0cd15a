"""File locks between processes. A lock ends with its process, even a killed one."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import time
import weakref
from typing import Optional

from src.utils.errors import UserError
from src.utils.flock import lock_descriptor
from src.utils.log import LOGGER


class Lock:
    """A lock file that this process, not its children, holds until `release` or its end.

    Args:
        descriptor: of the open lock file, None if the file system has no locks or the folder cannot be written.
    """

    def __init__(self, descriptor: Optional[int]):
        self._descriptor = descriptor
        self._remove = ""
        _HELD.add(self)

    def release(self) -> None:
        """Unlock; remove the file if it was made by `hold_folder` or `hold_file`."""
        path, self._remove = self._remove, ""
        if path:
            with contextlib.suppress(OSError):
                os.remove(path)  # before unlocking: nobody else can have locked it
                path = ""
        self._close()
        if path:  # Windows removes a file only when nobody has it open
            with contextlib.suppress(OSError):
                os.remove(path)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._remove = ""

    def _is_at(self, path: str) -> bool:
        """Whether the file still exists: its former holder may have removed it between opening and locking."""
        try:
            return self._descriptor is None or os.path.samestat(os.fstat(self._descriptor), os.stat(path))
        except OSError:
            return False

    def __del__(self):
        if os is not None and os.close is not None:  # at interpreter exit modules may be gone; the system unlocks
            self.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_) -> None:
        self.release()


_HELD = weakref.WeakSet()


def _forget_in_child() -> None:
    """Close the locks in a forked child, which would otherwise keep them when its parent is killed."""
    for lock in list(_HELD):
        lock._close()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_forget_in_child)


def try_lock(path: str, shared: bool = False) -> Optional[Lock]:
    """The lock of the file `path`, created if missing; None if another process holds it.

    Args:
        shared: any number of processes may hold a shared lock, unless one holds an exclusive lock.

    Raises:
        OSError: the file cannot be created, and the lock is exclusive.
    """
    return _take(path, shared, wait=False)


def wait_lock(path: str, waiting: str, shared: bool = False) -> Lock:
    """As `try_lock`, but waits until the lock is free. `waiting` is logged if it is not free at once."""
    lock = try_lock(path, shared)
    if lock is None:
        LOGGER.info("%s", waiting)
        lock = _take(path, shared, wait=True)
    return lock


def _take(path: str, shared: bool, wait: bool) -> Optional[Lock]:
    descriptor = _open(path, shared)
    if descriptor is None:
        return Lock(None)
    try:
        lock_descriptor(descriptor, shared, wait)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        LOGGER.info("%s: this file system does not support locks; use its folder from one process at a time", path)
    return Lock(descriptor)


def _open(path: str, shared: bool) -> Optional[int]:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except IsADirectoryError:
        return os.open(path, os.O_RDONLY)
    except OSError:
        # another user's file, or a read-only folder: a descriptor for reading is enough for a lock
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY)
        if shared or os.path.isdir(path):  # Windows cannot open a folder
            return None
        raise


def hold_folder(folder: str, what: str, key: str = "output_path") -> Lock:
    """Lock an existing folder for one program: `.{what}.lock` in it names the holder until it is released.

    Args:
        what: the kind of program, such as "training"; programs of different kinds may share a folder.
        key: the option that named the folder.

    Raises:
        UserError: a program of this kind holds it; the line names it.
    """
    folder = os.path.abspath(folder)
    return _hold(os.path.join(folder, f".{what}.lock"), folder, what, key, "folder")


def hold_file(path: str, what: str, key: str) -> Lock:
    """As `hold_folder`, for one file to be written: `.{its name}.{what}.lock` next to it names the holder."""
    folder, name = os.path.split(os.path.realpath(path))
    return _hold(os.path.join(folder, f".{name}.{what}.lock"), os.path.join(folder, name), what, key, "file")


def _hold(path: str, target: str, what: str, key: str, kind: str) -> Lock:
    while True:
        try:
            lock = try_lock(path)
        except OSError as error:
            raise UserError(f"{key}: cannot write to {os.path.dirname(path)}: {error.strerror}") from None
        if lock is None:
            raise UserError(
                f"{key}: {target} is in use by another {what} ({_holder(path)}); name another {kind} with --{key}, or "
                f"wait until it ends"
            )
        if lock._is_at(path):
            break
        lock.release()
    _sign(lock)
    lock._remove = path
    return lock


def _sign(lock: Lock) -> None:
    """Write the holder of a lock into its file."""
    command = " ".join(map(shlex.quote, sys.argv))
    text = json.dumps(
        {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T"), "command": command}
    )
    with contextlib.suppress(OSError, TypeError):
        os.ftruncate(lock._descriptor, 0)
        os.lseek(lock._descriptor, 0, os.SEEK_SET)
        os.write(lock._descriptor, text.encode("utf-8", "backslashreplace"))


def _holder(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as handle:
            content = json.load(handle)
        return f"process {content['pid']} on {content['host']}, since {content['since']}: {content['command'][:200]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown process"
