"""Images that a data set holds more than once, byte for byte, and overlap of training and evaluation set."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, Sequence

from src.data.issues import Issues
from src.data.sample import Sample

_BLOCK = 4096
_SHORT_NUMBER = 6


def note_copies(samples: Sequence[Sample], issues: Issues, workers: int) -> None:
    """Note the images of a split that are copies of another one."""
    for first, *others in same_content(list(dict.fromkeys(sample.path for sample in samples)), workers):
        for path in others:
            issues.warn("images are the same file as another image, byte for byte", f"{path} (as {first})")


def note_shared(
    train: Sequence[Sample], val: Sequence[Sample], classes: Sequence[str], issues: Issues, workers: int
) -> None:
    """Note images that training and evaluation set share, and classes that only one of them has."""
    trained = {sample.path for sample in train}
    groups = same_content(list(dict.fromkeys(sample.path for sample in (*train, *val))), workers)
    twins = {path: first for first, path in _twins(groups, trained)}
    twins.update({sample.path: sample.path for sample in val if sample.path in trained})
    for sample in val:
        if sample.path in twins:
            twin = twins[sample.path]
            same = "" if twin == sample.path else f" (as {twin})"
            issues.warn("images of val are in train too, byte for byte", sample.path + same)
    if val and len(twins) >= len({sample.path for sample in val}):
        issues.warn("set: every image of val is in train, so evaluation says nothing about other images", "val")
    _note_names(train, [sample for sample in val if sample.path not in twins], issues)
    has = [{label for sample in part for label in sample.boxes[:, 4].tolist()} for part in (train, val)]
    for label, name in enumerate(classes):
        if label in has[0] - has[1]:
            issues.warn("classes of train have no box in val (they are not evaluated)", name)
        if label in has[1] - has[0]:
            issues.warn("classes of val have no box in train (they cannot be learned)", name)


def _twins(groups: List[List[str]], trained: set):
    for group in groups:
        first = next((path for path in group if path in trained), None)
        for path in group if first is not None else ():
            if path not in trained:
                yield first, path


def _note_names(train: Sequence[Sample], val: Sequence[Sample], issues: Issues) -> None:
    """Note equal names and sizes with other content: images saved again. Short numbers are reused in every set."""
    known = {(os.path.basename(sample.path), sample.height, sample.width) for sample in train}
    for sample in val:
        name = os.path.basename(sample.path)
        stem = os.path.splitext(name)[0]
        if (name, sample.height, sample.width) in known and not (stem.isdigit() and len(stem) <= _SHORT_NUMBER):
            issues.warn("images of val have name and size of one in train, with other bytes", sample.path)


def same_content(paths: Sequence[str], workers: int) -> List[List[str]]:
    """Groups of at least two files with the same bytes, in the order of `paths`.

    Compared by size, then by a block in the middle; only files that agree in both are read completely.
    """
    groups = [list(paths)]
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for look in (_file_size, _middle, _digest):
            groups = [part for group in groups for part in _split(group, list(pool.map(look, group)))]
    return groups


def _split(group: List[str], keys: list) -> List[List[str]]:
    parts: Dict[object, List[str]] = {}
    for path, key in zip(group, keys):
        if key is not None:
            parts.setdefault(key, []).append(path)
    return [part for part in parts.values() if len(part) > 1]


def _file_size(path: str):
    try:
        return os.path.getsize(path) or None
    except OSError:
        return None


def _middle(path: str):
    try:
        with open(path, "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size // 2 - _BLOCK // 2))
            return hashlib.blake2b(handle.read(_BLOCK), digest_size=16).digest()
    except OSError:
        return None


def _digest(path: str):
    digest = hashlib.blake2b()
    try:
        with open(path, "rb") as handle:
            for block in iter(lambda: handle.read(1 << 20), b""):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
