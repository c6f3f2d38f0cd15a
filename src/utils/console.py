"""Standard output and standard error that survive write errors: the reader ends, the terminal closes, a full disk."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from typing import Iterator, Optional

# the reader went away: not an error of the device
_GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
PIPE_STATUS = 141  # what a shell reports for a program ended by SIGPIPE


class Stream:
    """A text stream that stays usable after its first write error: later output is discarded.

    Args:
        stream: the stream to write to.
        raises: raise the error at once and again at later writes; otherwise ignore it.

    error: the first write error, or None; log_only: it hit a line of the log, which may be lost.
    """

    def __init__(self, stream, raises: bool):
        self._stream, self._raises = stream, raises
        self.error: Optional[OSError] = None
        self.log_only = False

    def write(self, text: str) -> int:
        return self._guarded(self._stream.write, text)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._guarded(self._stream.flush)

    def _guarded(self, function, *arguments) -> int:
        if self.error is None:
            try:
                return function(*arguments)
            except OSError as error:
                self.error = error
                self._discard()
        if self._raises:
            raise self.error
        return 0

    def _discard(self) -> None:
        """Point the descriptor to /dev/null: Python flushes the buffer once more at exit."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    @property
    def is_gone(self) -> bool:
        """Whether the error means that the reader went away."""
        return self.error is not None and self.error.errno in _GONE

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def guarded_streams() -> Iterator[Stream]:
    """Replace `sys.stdout` and `sys.stderr` by `Stream`s; yields the one of `sys.stdout`, whose errors are raised."""
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = Stream(before[0] or nowhere, raises=True)
        sys.stderr = Stream(before[1] or nowhere, raises=False)
        try:
            yield sys.stdout
        finally:
            sys.stdout, sys.stderr = before


def say(text: str) -> None:
    """Print to stderr; ignore write errors. MindSpore 2.10 replaces `sys.stderr` when it compiles."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _open_closed_descriptors() -> None:
    """Open standard descriptors closed by `>&-`: otherwise a file opened later would get that number and all output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number


def use_utf8_streams() -> None:
    """Make stdout and stderr accept every character.

    Under LC_ALL=C they are ASCII, although the terminal shows UTF-8 almost everywhere: they become UTF-8, as Python
    itself does in its UTF-8 mode. In other encodings, unsupported characters are written as \\N escapes.
    """
    codecs.register_error("ssd_escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if not hasattr(stream, "reconfigure"):  # replaced by a test or a notebook
            continue
        name = codecs.lookup(stream.encoding).name
        is_default = name == "ascii" and not os.environ.get("PYTHONIOENCODING")
        stream.reconfigure(encoding="utf-8" if is_default else name, errors="ssd_escape")


def _escape(error: UnicodeError) -> tuple:
    """Surrogates of undecoded bytes become these bytes again; other characters become escapes."""
    result = b""
    for character in error.object[error.start : error.end]:
        code = ord(character)
        is_byte = 0xDC80 <= code <= 0xDCFF
        result += bytes([code - 0xDC00]) if is_byte else character.encode("ascii", "backslashreplace")
    return result, error.end
