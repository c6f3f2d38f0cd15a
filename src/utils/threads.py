"""Work done in threads ahead of the one who asks for it, in order and within a limit of memory."""

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
    """Yield `function(item)` of each (item, bytes) in the order of `items`; the threads of `pool` compute them.

    An error of `function` is raised when its result is due. Closing the generator cancels what has not begun.

    Args:
        items: bytes: the memory that the item takes from now until its result is yielded.
        ahead: items taken from `items` before the first of them is yielded.
        max_bytes: as long as more than this is taken, no further item is, so the most are `max_bytes` and one item.
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
