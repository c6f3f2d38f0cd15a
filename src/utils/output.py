"""Atomic writing of files: a file is written completely or not at all, and a failure is reported.

Every program writes through here (text, JSON, pictures; videos through `src.utils.video`), so a full disk, a
read-only folder or a folder of the file's name always gives the same error line and never status 0.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import shutil
import socket
import struct
import tempfile
import time
import zlib
from typing import IO, Iterator, List, Optional

import numpy as np

from src.utils.errors import RunError, UserError
from src.utils.flock import MAY_BE_RENAMED, lock_descriptor
from src.utils.text import one_line

PART = ".part-"
STALE_SECONDS = 24 * 3600  # where parts cannot be locked (Windows)
_NUMBERS = itertools.count()
_CLEANED = set()
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MARK = b"drawn by ssd_resnet50_fpn"
MARK_BOX = struct.pack(">I4s", 8 + len(_MARK), b"free") + _MARK  # the end of a marked MP4 file


class OutputError(RunError):
    """A file could not be written. The message names the file and the reason.

    full: the disk is full, or the user's quota is used up.
    """

    def __init__(self, text: str, full: bool = False):
        super().__init__(text)
        self.full = full


def output_error(path: str, error: BaseException) -> OutputError:
    """The error for a file that was not written, with the free bytes if the disk is full."""
    full = isinstance(error, OSError) and error.errno in _FULL
    return failure(path, getattr(error, "strerror", None) or str(error) or type(error).__name__, full)


def failure(path: str, reason: str, full: bool = False) -> OutputError:
    """As `output_error`, for a reason given in words."""
    path = os.path.abspath(path)
    line = f"cannot write {one_line(path)}: {' '.join(str(reason).split())}"
    free = free_bytes(path)
    if full or (free is not None and free < 1 << 20):
        line += f" ({free} bytes are free; make room or choose another folder)"
    return OutputError(line, full)


def free_bytes(path: str) -> Optional[int]:
    """Free bytes on the disk of a file; None if unknown."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(os.path.dirname(path)).free
    return None


@contextlib.contextmanager
def part_file(path: str) -> Iterator[str]:
    """The path of a new empty file in the folder of `path`, with the same extension; removed when the block ends.

    The file is locked while its process lives, so a later write into the folder can remove files of killed processes
    (on Windows, where an open file cannot be renamed: those that are older than a day).

    Raises:
        OSError: it cannot be created, or `path` is a folder.
    """
    path = os.path.abspath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    _remove_stale_parts(folder)
    name = f"{PART}{socket.gethostname()}-{os.getpid()}-{next(_NUMBERS)}{os.path.splitext(path)[1][:32]}"
    part = os.path.join(folder, name)
    descriptor = _locked_file(part)
    if not MAY_BE_RENAMED:
        os.close(descriptor)
    try:
        yield part
    finally:
        if MAY_BE_RENAMED:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            os.remove(part)


def _locked_file(path: str) -> int:
    """Descriptor of a new, locked file. Another process may remove it as stale before it is locked: then try again."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            lock_descriptor(descriptor, shared=False, wait=True)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _remove_stale_parts(folder: str) -> None:
    """Remove files that killed processes left in a folder; once per folder and process."""
    if folder in _CLEANED:
        return
    _CLEANED.add(folder)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if not name.startswith(f"{PART}{socket.gethostname()}-") or not os.path.isfile(path):
                continue
            with contextlib.suppress(OSError):
                if MAY_BE_RENAMED:
                    with open(path, "rb") as handle:
                        lock_descriptor(handle.fileno(), shared=False, wait=False)
                        os.remove(path)
                elif time.time() - os.path.getmtime(path) > STALE_SECONDS:
                    os.remove(path)


@contextlib.contextmanager
def atomic_write(path: str, mode: str = "w", durable: bool = True) -> Iterator[IO]:
    """A temporary file to write to, which is renamed to `path` when the block ends.

    Args:
        mode: "w" (UTF-8, line ends as written; what UTF-8 cannot hold is escaped) or "wb".
        durable: flush to the disk before the rename, so that a power failure leaves the old file or the new one.

    Raises:
        OutputError: it cannot be written. Then, and after any other error in the block, an older file at `path` is
            unchanged and no temporary file is left.

    A link is followed. A device or pipe (/dev/stdout) is written to directly.
    """
    encoding = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    if _is_stream(path):
        with _as_output_error(path), open(path, mode, **encoding) as handle:
            yield handle
        return
    path = os.path.realpath(path)
    with _as_output_error(path), part_file(path) as part:
        with open(part, mode, **encoding) as handle:
            yield handle
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        os.replace(part, path)
        if durable:
            _sync(os.path.dirname(path))


@contextlib.contextmanager
def _as_output_error(path: str) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError for `path`, unless it names another file (one that was read)."""
    try:
        yield
    except OSError as error:
        name = os.path.abspath(error.filename) if isinstance(error.filename, str) else path
        if not path.startswith(name) and not os.path.basename(name).startswith(PART):
            raise
        raise output_error(path, error) from error


def _is_stream(path: str) -> bool:
    """Whether a path is a device, a pipe, or an open file of this process (/dev/stdout, /dev/fd/3)."""
    if os.path.abspath(path).startswith(("/dev/", "/proc/")) and not os.path.isdir(path):
        return os.path.exists(path)
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _sync(folder: str) -> None:
    """Flush a folder, and with it the new name of a file, if the file system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: str, text: str) -> None:
    """Write a text file (UTF-8); see `atomic_write` for what it raises."""
    with atomic_write(path) as handle:
        handle.write(text)


def write_json(path: str, content: object, indent: Optional[int] = None) -> None:
    """Write a JSON file; see `atomic_write` for what it raises."""
    with atomic_write(path) as handle:
        handle.write(json.dumps(content, indent=indent))  # much faster than `json.dump`, which writes piece by piece


def append_line(path: str, line: str) -> None:
    """Append a line (without its line end) to a text file; see `append_bytes` for what it raises."""
    append_bytes(path, (line + "\n").encode("utf-8", "backslashreplace"))


def append_bytes(path: str, data: bytes) -> None:
    """Append to a file, which is created if missing.

    Raises:
        OutputError: it cannot be written; a part of `data` that was written is removed.
    """
    try:
        with open(path, "ab", buffering=0) as handle:
            start = handle.seek(0, os.SEEK_END)
            try:
                while data:
                    data = data[handle.write(data) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(path, start)
                raise
    except OSError as error:
        raise output_error(path, error) from error


def write_picture(path: str, image: np.ndarray, quality: int = 92, drawing: bool = False) -> None:
    """Write a picture in the format of its extension (.jpg, .png).

    Args:
        image: BGR uint8 [H, W, 3] or grey [H, W].
        quality: of a JPEG, 0 to 100.
        drawing: mark the file as a drawing of this program (in a comment), for `is_drawing`.

    Raises:
        OutputError: it cannot be encoded or written.
    """
    import cv2

    extension = os.path.splitext(path)[1].lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if extension in (".jpg", ".jpeg") else []
    try:
        encoded, data = cv2.imencode(extension, image, options)
    except cv2.error as error:
        raise failure(path, f"the picture cannot be encoded ({error.err})") from error
    if not encoded:
        raise failure(path, f"a picture of {image.shape[1]} x {image.shape[0]} pixels cannot be encoded")
    with atomic_write(path, "wb", durable=False) as handle:
        handle.write(_marked(data.tobytes()) if drawing else data.tobytes())


def _marked(data: bytes) -> bytes:
    """A JPEG or PNG with the mark of a drawing in a comment near its start."""
    if data.startswith(b"\xff\xd8\xff\xe0"):
        offset = 4 + int.from_bytes(data[4:6], "big")  # after the first segment (JFIF)
        comment = b"\xff\xfe" + struct.pack(">H", 2 + len(_MARK)) + _MARK
    elif data.startswith(b"\x89PNG"):
        offset = 33  # after the header
        content = b"tEXtComment\0" + _MARK
        comment = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    else:
        raise ValueError("only a JPEG or a PNG can be marked")
    return data[:offset] + comment + data[offset:]


def is_drawing(path: str) -> bool:
    """Whether a file is a picture or video that this program drew on (False where it cannot be read)."""
    with contextlib.suppress(OSError):
        with open(path, "rb") as handle:
            head = handle.read(96)
            if head[4:8] != b"ftyp":
                return _MARK in head
            handle.seek(-len(MARK_BOX), os.SEEK_END)
            return handle.read() == MARK_BOX
    return False


class Arrivals:
    """Counts the files that a program has written. A failure is logged, and `finish` raises one error for all.

    Args:
        what: the files, in the plural ("drawings").
    """

    def __init__(self, what: str):
        self.what, self.count = what, 0
        self.failed: List[OutputError] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Context of writing one file: an OutputError in the block is noted and suppressed."""
        try:
            yield
            self.count += 1
        except OutputError as error:
            self.add_failure(error)

    def add_failure(self, error: OutputError) -> None:
        """Note a file that could not be written."""
        self.failed.append(error)
        logging.getLogger("ssd").warning("%s", error)

    def error(self) -> Optional[OutputError]:
        """The error for all files that could not be written, None if there are none."""
        if not self.failed:
            return None
        total = self.count + len(self.failed)
        first = self.failed[0]
        return OutputError(
            f"{len(self.failed)} of {total} {self.what} could not be written, first: {first}", first.full
        )

    def finish(self) -> None:
        """End of the program's outputs.

        Raises:
            OutputError: some files could not be written.
        """
        error = self.error()
        if error is not None:
            raise error


def ensure_writable(path: str, key: str, room: int = 0) -> None:
    """Create the folder `path`, and check that it is writable and has `room` bytes free.

    Raises:
        UserError: it is not; names `key`, the option that gave the path.
    """
    path = os.path.abspath(path)
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{key}: cannot write to {path}: {error.strerror}; name another folder with --{key}") from None
    free = shutil.disk_usage(path).free
    if free < room:
        raise UserError(f"{key}: {path} has {free} bytes free, {room} are needed")
