"""The one place that writes files: a file arrives complete or not at all, and one that did not is named.

Every program writes through here (text, JSON, pictures, videos), so a full disk, a read-only folder or a folder in the
file's place is always the same line and never a status of 0.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import socket
from typing import IO, Iterator, Optional, Tuple

import numpy as np

from src.errors import RunError

PART = ".part-"
_NUMBERS = itertools.count()
_CLEANED = set()


class OutputError(RunError):
    """A file could not be written. The text names the file and the reason."""


def output_error(path: str, error: BaseException) -> OutputError:
    """The line about a file that was not written, with the free bytes where the disk is full."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = f"cannot write {os.path.abspath(path)}: {' '.join(str(reason).split())}"
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
        if free < 1 << 20:
            line += f" ({free} bytes are free)"
    return OutputError(line)


@contextlib.contextmanager
def part_file(path: str) -> Iterator[str]:
    """The path of a new empty file in the folder of `path`, with the same extension; removed when the block ends.

    The file is locked while its process lives, so a later write into the folder can remove what a killed process left.

    Raises:
        OSError: it cannot be made.
    """
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    _remove_stale_parts(folder)
    name = f"{PART}{socket.gethostname()}-{os.getpid()}-{next(_NUMBERS)}{os.path.splitext(path)[1]}"
    part = os.path.join(folder, name)
    descriptor = _locked_file(part)
    try:
        yield part
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.remove(part)


def _locked_file(path: str) -> int:
    """A new file, locked. Another process may take it for stale between the two, so it is looked at again."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _remove_stale_parts(folder: str) -> None:
    """Remove what killed processes left in a folder; once per folder and process."""
    if folder in _CLEANED:
        return
    _CLEANED.add(folder)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if not name.startswith(f"{PART}{socket.gethostname()}-") or not os.path.isfile(path):
                continue
            with contextlib.suppress(OSError), open(path, "rb") as handle:
                fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.remove(path)


@contextlib.contextmanager
def atomic_write(path: str, mode: str = "w", durable: bool = True) -> Iterator[IO]:
    """A file to write to, which takes the place of `path` when the block ends.

    Args:
        mode: "w" (UTF-8, line ends as written) or "wb".
        durable: flush to the disk before the rename, so that a power failure leaves the old file or the new one.

    Raises:
        OutputError: it cannot be written. Then, and after any other error in the block, an older file at `path` is as
            it was and nothing is left beside it.

    A link is followed. A device or pipe (/dev/stdout) is written to as it is.
    """
    path = os.path.realpath(path)
    encoding = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            with open(path, mode, **encoding) as handle:
                yield handle
            return
        with part_file(path) as part:
            with open(part, mode, **encoding) as handle:
                yield handle
                handle.flush()
                if durable:
                    os.fsync(handle.fileno())
            os.replace(part, path)
    except OSError as error:
        raise output_error(path, error) from error


def write_text(path: str, text: str) -> None:
    """Write a text file (UTF-8); see `atomic_write` for what it raises."""
    with atomic_write(path) as handle:
        handle.write(text)


def write_json(path: str, content: object, indent: Optional[int] = None) -> None:
    """Write a JSON file; see `atomic_write` for what it raises."""
    with atomic_write(path) as handle:
        json.dump(content, handle, indent=indent)


def append_line(path: str, line: str) -> None:
    """Append a line (without its line end) to a text file; see `append_bytes` for what it raises."""
    append_bytes(path, (line + "\n").encode("utf-8", "backslashreplace"))


def append_bytes(path: str, data: bytes) -> None:
    """Append to a file, which is made where it is missing.

    Raises:
        OutputError: it cannot be written; what a failed write left of `data` is cut off again.
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


def write_picture(path: str, image: np.ndarray, quality: int = 92) -> None:
    """Write a picture in the format of its extension (.jpg, .png).

    Args:
        image: BGR uint8 [H, W, 3] or grey [H, W].
        quality: of a JPEG, 0 to 100.

    Raises:
        OutputError: it cannot be encoded or written.
    """
    import cv2

    try:
        encoded, data = cv2.imencode(os.path.splitext(path)[1], image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as error:
        raise output_error(path, error) from error
    if not encoded:
        raise OutputError(f"cannot write {os.path.abspath(path)}: the picture cannot be encoded")
    with atomic_write(path, "wb", durable=False) as handle:
        handle.write(data.tobytes())


class VideoFile:
    """An MPEG-4 video that grows by frames (BGR uint8 [H, W, 3], all of one size) and arrives with `close`.

    OpenCV reports no write error, so the finished file is opened again and its frames are counted.

    Args:
        path: where the video goes, ending in .mp4; rate: frames per second.
    """

    def __init__(self, path: str, rate: float):
        self.path, self.rate, self.frames = path, rate, 0
        self._writer, self._stack = None, contextlib.ExitStack()
        self._part = ""

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind, *_) -> None:
        self._release()
        self._stack.close()

    def write(self, frame: np.ndarray) -> None:
        """Add a frame.

        Raises:
            OutputError: the file cannot be made.
        """
        import cv2

        if self._writer is None:
            try:
                self._part = self._stack.enter_context(part_file(self.path))
            except OSError as error:
                raise output_error(self.path, error) from error
            size = (frame.shape[1], frame.shape[0])
            self._writer = cv2.VideoWriter(self._part, cv2.VideoWriter_fourcc(*"mp4v"), self.rate, size)
            if not self._writer.isOpened():
                raise OutputError(f"cannot write {os.path.abspath(self.path)}: OpenCV cannot open the video")
        self._writer.write(frame)
        self.frames += 1

    def close(self) -> None:
        """Finish the video and give it its name.

        Raises:
            OutputError: it did not arrive complete; nothing is left of it.
        """
        self._release()
        arrived, reason = self._arrived()
        if arrived != self.frames:
            raise OutputError(f"cannot write {os.path.abspath(self.path)}: {reason}")
        try:
            os.replace(self._part, self.path)
        except OSError as error:
            raise output_error(self.path, error) from error

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _arrived(self) -> Tuple[int, str]:
        """(frames that the written file holds, what is wrong where these are too few)."""
        import cv2

        video = cv2.VideoCapture(self._part)
        try:
            count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
        finally:
            video.release()
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(self.path))).free
        return count, f"{count} of {self.frames} frames arrived ({free} bytes are free)"
