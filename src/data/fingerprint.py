"""What records were made from: decides whether they are used again (SPEC sections 7 and 10a)."""

from __future__ import annotations

import hashlib
import json
import os
from typing import List, Optional

from src.data.record_files import all_files
from src.output import write_json

VERSION = 2
"""Of the converter: a change of the rules makes new records."""


def _content(paths: List[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as handle:
            for block in iter(lambda: handle.read(1 << 20), b""):
                digest.update(block)
        digest.update(b"\0")
    return digest.hexdigest()


def fingerprint(sources: List[str], images: List[str], classes: List[str], max_bad_images: int) -> dict:
    """A dict of short texts, one for each thing whose change makes new records.

    Args:
        sources, images: paths of the annotation files and of the images.

    Raises:
        OSError: one of them is not there.
    """
    digest = hashlib.sha256()
    for path in images:
        stat = os.stat(path)
        digest.update(f"{path}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return {
        "converter version": str(VERSION),
        "annotation files": _content(sources),
        "annotation paths": hashlib.sha256("\n".join(sources).encode()).hexdigest(),
        "class list": hashlib.sha256("\n".join(classes).encode()).hexdigest(),
        "image files": digest.hexdigest(),
        "max_bad_images": str(max_bad_images),
    }


def write_origin(prefix: str, settings: dict, sources: List[str], images: List[str]) -> None:
    """Note which files the records come from, so that `are_unchanged` need not read the annotations."""
    write_json(prefix + ".origin.json", {"settings": settings, "sources": sources, "images": images})


def are_unchanged(prefix: str, settings: dict, classes: List[str], max_bad_images: int) -> bool:
    """The records lie whole at `prefix` and nothing that they come from has changed; reading the annotations, which
    takes half a minute for COCO, can be left out. False says nothing."""
    try:
        with open(prefix + ".origin.json", encoding="utf-8") as handle:
            origin = json.load(handle)
        same = origin["settings"] == settings
        return same and not stale_reason(
            prefix, fingerprint(origin["sources"], origin["images"], classes, max_bad_images)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def stale_reason(prefix: str, wanted: dict) -> str:
    """Why the records at `prefix` cannot be used, "" when they can."""
    missing = [path for path in all_files(prefix) if not os.path.exists(path)]
    if len(missing) == len(all_files(prefix)):
        return "there are none yet"
    if missing:
        return f"{len(missing)} of their files are missing"
    note = read_note(prefix)
    if note is None:
        return "an earlier conversion did not end"
    if [os.path.getsize(path) for path in all_files(prefix)] != note["sizes"]:
        return "a file of theirs has another size"
    changed = [key for key, value in wanted.items() if note["fingerprint"].get(key) != value]
    return f"changed since: {', '.join(changed)}" if changed else ""


def note_path(prefix: str) -> str:
    """The file beside the records that tells what they are; written last."""
    return prefix + ".json"


def write_note(prefix: str, note: dict) -> None:
    """Write what the records are, when they lie whole in their place."""
    write_json(note_path(prefix), dict(note, sizes=[os.path.getsize(path) for path in all_files(prefix)]))


def write_unfinished(prefix: str) -> None:
    """Say that the files are being replaced: without it a killed move looks like records of other scripts."""
    write_json(note_path(prefix), {"unfinished": True})


def read_note(prefix: str) -> Optional[dict]:
    """The note beside the records, None where it is missing, damaged, or says that they are not whole."""
    try:
        with open(note_path(prefix), encoding="utf-8") as handle:
            note = json.load(handle)
        return note if {"sizes", "fingerprint", "count", "ids"} <= set(note) else None
    except (OSError, ValueError, TypeError):
        return None
