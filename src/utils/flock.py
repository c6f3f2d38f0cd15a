"""Locks on open files: `fcntl` on Linux and macOS, `msvcrt` on Windows. The system ends them with their process."""

from __future__ import annotations

import errno
import os
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    try:
        import msvcrt
    except ImportError:
        msvcrt = None

MAY_BE_RENAMED = fcntl is not None  # Windows refuses to rename or remove an open file
# Windows locks ranges of bytes, for one process each, and nobody else can read them: they lie beyond every content.
# A reader takes any one of them, a writer all.
_START, _READERS = 1 << 30, 64
_PAUSE = 0.1  # seconds


def lock_descriptor(descriptor: int, shared: bool, wait: bool) -> None:
    """Lock an open file until it is closed.

    Args:
        shared: other shared locks are allowed (on Windows up to 64).
        wait: until it is free.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
        OSError: the file system has no locks.
    """
    if fcntl is not None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        return
    if msvcrt is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while not _lock_range(descriptor, shared):
        if not wait:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        time.sleep(_PAUSE)


def _lock_range(descriptor: int, shared: bool) -> bool:
    for first, length in ((k, 1) for k in range(_READERS)) if shared else ((0, _READERS),):
        os.lseek(descriptor, _START + first, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, length)
            return True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
    return False
