"""Computing results in threads ahead of their consumer, in order and within a memory limit."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, Tuple, TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Tuple[Item, int]],
    ahead: int,
    max_bytes: int,
) -> Iterator[Result]:
    """Yield `function(item)` for each (item, bytes), in the order of `items`; the threads of `pool` compute them.

    An exception of `function` is raised when its result is due. Closing the generator cancels pending calls.

    Args:
        items: each with the memory in bytes that it takes until its result is yielded.
        ahead: maximum number of items in work.
        max_bytes: no further item is taken while those in work exceed this; the last one may exceed it.
    """
    pending, taken = deque(), 0
    try:
        for item, size in items:
            pending.append((pool.submit(function, item), size))
            taken += size
            while pending and (len(pending) >= ahead or taken > max_bytes):
                future, size = pending.popleft()
                yield future.result()
                taken -= size
        while pending:
            yield pending.popleft()[0].result()
    finally:
        for future, _ in pending:
            future.cancel()
