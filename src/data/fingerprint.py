"""What records were made from: decides whether they are used again (SPEC sections 7 and 10a)."""

from __future__ import annotations

import hashlib
import json
import os
from typing import List, Optional

from src.data.sample import DataSet

VERSION = 1
FILES = 8


def record_files(prefix: str) -> List[str]:
    """Paths of the 8 MindRecord files `prefix0..7`."""
    return [f"{prefix}{number}" for number in range(FILES)]


def all_files(prefix: str) -> List[str]:
    """The records and their index files."""
    return [name for path in record_files(prefix) for name in (path, path + ".db")]


def _content(paths: List[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as handle:
            for block in iter(lambda: handle.read(1 << 20), b""):
                digest.update(block)
        digest.update(b"\0")
    return digest.hexdigest()


def fingerprint(data: DataSet, classes: List[str], max_bad_images: int) -> dict:
    """A dict of short texts, one for each thing whose change makes new records."""
    images = hashlib.sha256()
    for sample in data.samples:
        stat = os.stat(sample.path)
        images.update(f"{sample.path}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return {
        "converter version": str(VERSION),
        "annotation files": _content(data.sources),
        "annotation paths": hashlib.sha256("\n".join(data.sources).encode()).hexdigest(),
        "class list": hashlib.sha256("\n".join(classes).encode()).hexdigest(),
        "image files": images.hexdigest(),
        "max_bad_images": str(max_bad_images),
    }


def stale_reason(prefix: str, wanted: dict) -> str:
    """Why the records at `prefix` cannot be used, "" when they can."""
    missing = [path for path in all_files(prefix) if not os.path.exists(path)]
    if len(missing) == len(all_files(prefix)):
        return "there are none yet"
    if missing:
        return f"{len(missing)} of their files are missing"
    note = read_note(prefix)
    if note is None:
        return "their fingerprint is missing"
    if [os.path.getsize(path) for path in all_files(prefix)] != note["sizes"]:
        return "a file of theirs has another size"
    changed = [key for key, value in wanted.items() if note["fingerprint"].get(key) != value]
    return f"changed since: {', '.join(changed)}" if changed else ""


def note_path(prefix: str) -> str:
    """The file beside the records that tells what they are; written last."""
    return prefix + ".json"


def read_note(prefix: str) -> Optional[dict]:
    """The note beside the records, None where it is missing or damaged."""
    try:
        with open(note_path(prefix), encoding="utf-8") as handle:
            note = json.load(handle)
        return note if {"sizes", "fingerprint", "count", "ids"} <= set(note) else None
    except (OSError, ValueError, TypeError):
        return None
