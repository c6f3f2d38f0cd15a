"""Return of freed memory to the system: glibc keeps it in fragmented heaps, so that a process would only grow."""

from __future__ import annotations

import contextlib
import ctypes
import os

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # mallopt's, in malloc.h
LARGE = 1 << 20  # bytes


def keep_heap_small() -> None:
    """Make glibc return large blocks to the system when they are freed, and let threads share two heaps.

    By default glibc raises the threshold for large blocks up to 32 MB. MALLOC_MMAP_THRESHOLD_ and MALLOC_ARENA_MAX set
    by the user are kept.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, Windows
        library = ctypes.CDLL(None)
        if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
            library.mallopt(_MMAP_THRESHOLD, LARGE)
        if "MALLOC_ARENA_MAX" not in os.environ:
            library.mallopt(_ARENA_MAX, 2)


def release_free_memory() -> None:
    """Return memory that was freed so far to the system; glibc only."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
