"""What the C library does with memory that was freed: it keeps it, scattered, and a process would only ever grow."""

from __future__ import annotations

import contextlib
import ctypes
import os

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # mallopt's, in malloc.h
LARGE = 1 << 20  # bytes


def keep_heap_small() -> None:
    """Large blocks go back to the system when they are freed, and threads share two heaps; glibc only.

    By itself glibc raises the size from which that is so to 32 MB. A user's own MALLOC_MMAP_THRESHOLD_ and
    MALLOC_ARENA_MAX win.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
            library.mallopt(_MMAP_THRESHOLD, LARGE)
        if "MALLOC_ARENA_MAX" not in os.environ:
            library.mallopt(_ARENA_MAX, 2)


def release_free_memory() -> None:
    """Give what was freed so far back to the system; glibc only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
