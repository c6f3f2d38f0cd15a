"""A checkpoint file that is complete or absent; docs/reference.md, "Failure handling".

MindSpore's own format, so that every MindSpore program reads it, with one more entry, the first: the SHA-256 of the
file (its own 32 bytes counted as zeros). MindSpore itself does not notice a changed byte in a tensor nor a file that
was cut between two entries, and some changed bytes (in a shape) abort the process: so they are checked first.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from typing import Dict, Iterable, Optional, Tuple

import numpy as np
from mindspore import Tensor

from src.models.checkpoint_entries import check_name, entry_parts, read_entries, reading
from src.models.trained_classes import RUN_STATE
from src.utils.errors import RunError, UserError
from src.utils.output import OutputError, atomic_write, free_bytes

CHECKSUM = "checksum"
DIGEST_BYTES = 32
HEADER_BYTES = 200  # bytes that hold the first entry


def _checksum_offset(head: bytes) -> Optional[int]:
    """Where the 32 bytes lie in a file that begins so; None for a file without a checksum.

    The first entry is one byte of kind, one of length, name, shape, type, and the value last.
    """
    return max(2 + head[1] - DIGEST_BYTES, 0) if CHECKSUM.encode() in head else None


def _file_checksum(path: str, place: int) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        digest.update(handle.read(place))
        digest.update(bytes(len(handle.read(DIGEST_BYTES))))
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.digest()


def _is_broken(path: str) -> bool:
    """It has a checksum that is not its content's."""
    with open(path, "rb") as handle:
        head = handle.read(HEADER_BYTES)
    place = _checksum_offset(head)
    return place is not None and head[place : place + DIGEST_BYTES] != _file_checksum(path, place)


def write_checkpoint(path: str, entries: Iterable[Tuple[str, np.ndarray]]) -> None:
    """Write the entries in their order, each as it comes: no more than one of them need be in memory.

    Raises:
        RunError: it could not be written (no room, say); an older file at `path` is as it was.
    """
    rest = itertools.chain([(CHECKSUM, np.zeros(DIGEST_BYTES, np.uint8))], entries)
    needed = 0
    try:
        with atomic_write(path, "wb") as handle:
            digest, place = hashlib.sha256(), 0
            for name, value in rest:
                needed += value.nbytes
                for part in entry_parts(name, value):
                    handle.write(part)
                    digest.update(part)
                if name == CHECKSUM:
                    place = handle.tell() - DIGEST_BYTES
            handle.seek(place)
            handle.write(digest.digest())
    except OutputError as error:
        reason = getattr(error.__cause__, "strerror", None) or str(error)
        folder = os.path.dirname(os.path.abspath(path))
        saved = glob.glob(os.path.join(glob.escape(folder), "*.ckpt"))
        room, remedy = "", "correct that"
        if error.full:
            needed += sum(value.nbytes for _, value in rest)
            room = f": {needed} bytes are needed, {free_bytes(os.path.abspath(path))} are free"
            remedy = "make room"
        advice = (
            f"earlier checkpoints are complete: {remedy} and resume with --resume" if saved else "none is saved yet"
        )
        raise RunError(f"cannot save {path} ({reason}){room}; {advice}") from None


def read_checkpoint(path: str, key: str) -> Dict[str, object]:
    """All entries of a checkpoint file but its checksum, which is verified (published files have none): Tensors, and
    `str` for a text.

    Raises:
        UserError: no such file, or one that is damaged; `key` is the option that named it.
    """
    check_name(path, key)
    damaged = UserError(f"{key}: {path} is damaged: its content and its checksum differ")
    with reading(path, key):
        entries = {} if _is_broken(path) else read_entries(path)
    if not entries:
        raise damaged
    if entries.pop(CHECKSUM, None) is None and RUN_STATE in entries:  # stands in no file without a checksum
        raise damaged
    # one at a time, so that only one tensor is held twice
    for name in list(entries):
        if not isinstance(entries[name], str):
            entries[name] = Tensor(np.array(entries[name]))
    return entries
