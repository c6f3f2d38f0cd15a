"""The log: `logging.getLogger("ssd")`; rank 0 speaks at INFO, other ranks at WARNING."""

from __future__ import annotations

import json
import logging
import os
import sys

LOGGER = logging.getLogger("ssd")


def setup_logging(output_path: str | None = None, rank: int = 0, size: int = 1) -> logging.Logger:
    """Log to stdout, and to `output_path/log_{rank}.txt` when a folder is given.

    Calling it again replaces the handlers, so that nothing is written twice.
    """
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    prefix = "%(asctime)s " + (f"[{rank}] " if size > 1 else "")
    formatter = logging.Formatter(prefix + "%(levelname)s %(message)s", "%H:%M:%S")
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers = [console]
    if output_path:
        os.makedirs(output_path, exist_ok=True)
        handlers.append(logging.FileHandler(os.path.join(output_path, f"log_{rank}.txt"), encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(formatter)
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    return LOGGER


def append_json_line(path: str, record: dict) -> None:
    """Append one JSON object as one line (the history of a run)."""
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(record) + "\n")
