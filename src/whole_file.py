"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from typing import IO, Iterator


@contextlib.contextmanager
def whole_file(path: str, mode: str = "w") -> Iterator[IO]:
    """A file to write to, which takes the place of `path` when the block ends: beside, flushed, renamed.

    Args:
        mode: "w" (UTF-8, line ends as written) or "wb".

    Raises:
        OSError: it cannot be written. Then, and after any error in the block, an older file at `path` is as it was
            and nothing is left beside it.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    beside = f"{path}.{os.getpid()}.tmp"  # several ranks may write the same
    try:
        with open(beside, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""})) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(beside)
        raise
