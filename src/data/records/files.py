"""The files of a record set, and whether files that another program wrote are complete.

MindSpore names no file when one is truncated, and version 1.10 hangs; so headers and sizes are read first.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from typing import List

import numpy as np

FILES = 8
COLUMNS = {"img_id", "image", "annotation"}
_MOST_HEADER = 1 << 28


def record_files(prefix: str) -> List[str]:
    """Paths of the 8 MindRecord files `prefix0..7`."""
    return [f"{prefix}{number}" for number in range(FILES)]


def all_files(prefix: str) -> List[str]:
    """The records and their index files."""
    return [name for path in record_files(prefix) for name in (path, path + ".db")]


def foreign_files(prefix: str) -> List[str]:
    """MindRecord files in the same folder with other names, as after renaming a set."""
    folder = os.path.dirname(prefix)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    # `mv ssd.mindrecord0 x0` keeps the number at the end, and its index file has the same name with .db
    return [
        name
        for name in names
        if re.search(r"\d$", name) and name + ".db" in names and not re.match(r"ssd(_eval)?\.mindrecord\d$", name)
    ]


def boxes_of_row(annotation: np.ndarray) -> np.ndarray:
    """The annotation column of a row as [M, 5]: MindSpore gives a scalar where there is no box."""
    return annotation.reshape(-1, 5) if annotation.ndim else np.zeros((0, 5), np.int32)


class IncompleteRecords(Exception):
    """Why files cannot be read as records, in a few words."""


class RenamedRecords(IncompleteRecords):
    """Files that would be complete under the names that they had when they were written."""


def count_rows(prefix: str) -> int:
    """Number of rows of complete records: every file exists, with the name and the length stated in its header.

    Raises:
        IncompleteRecords, RenamedRecords: with the reason.
    """
    missing = [path for path in all_files(prefix) if not os.path.isfile(path)]
    if missing:
        raise IncompleteRecords(f"{len(missing)} of their files are missing, first {os.path.basename(missing[0])}")
    return sum(_rows(path) for path in record_files(prefix))


def _rows(path: str) -> int:
    name = os.path.basename(path)
    try:
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(min(length, _MOST_HEADER)).decode("utf-8"))
        shards = [os.path.basename(address) for address in header["shard_addresses"]]
        fields = set(header["schema"][0]["schema"])
        pages = header["page"] or []
        first, step = int(header["header_size"]), int(header["page_size"])
        end = max([first + step * int(page["page_id"]) + int(page["page_size"]) for page in pages], default=0)
        rows = sum(
            int(page["end_row_id"]) - int(page["start_row_id"]) for page in pages if page["page_type"] == "BLOB_DATA"
        )
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise IncompleteRecords(f"{name} is not a MindRecord file ({type(error).__name__} in its header)") from None
    if name not in shards:
        raise RenamedRecords(f"{name} was written as {shards[int(header.get('shard_id', 0)) % len(shards)]}")
    if not COLUMNS <= fields:
        raise IncompleteRecords(f"{name} has the columns {', '.join(sorted(fields))}, not {', '.join(sorted(COLUMNS))}")
    if os.path.getsize(path) < end:
        raise IncompleteRecords(f"{name} has {os.path.getsize(path)} bytes, its header states {end}")
    indexed = _indexed_rows(path + ".db")
    if indexed != rows:
        raise IncompleteRecords(f"{name} holds {rows} rows, its index {indexed}")
    return rows


def _indexed_rows(path: str) -> int:
    try:
        # read only: a damaged file must not be repaired silently, and no journal may be left in the folder
        connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        try:
            return int(connection.execute("SELECT COUNT(*) FROM INDEXES").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise IncompleteRecords(f"{os.path.basename(path)} is damaged ({error})") from None
