"""What is printed reaches the terminal, whatever characters are in it and whatever the locale is."""

from __future__ import annotations

import codecs
import sys


def use_utf8_streams() -> None:
    """stdout and stderr never fail on a character.

    Under LC_ALL=C they are ASCII, although the terminal shows UTF-8 almost everywhere: they become UTF-8, as Python
    itself does in its UTF-8 mode. In other encodings, what cannot be shown is written as \\N escapes.
    """
    codecs.register_error("ssd_escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if not hasattr(stream, "reconfigure"):  # replaced by a test or a notebook
            continue
        name = codecs.lookup(stream.encoding).name
        stream.reconfigure(encoding="utf-8" if name == "ascii" else name, errors="ssd_escape")


def _escape(error: UnicodeError) -> tuple:
    """Bytes that arrived as surrogates leave as they came; other characters become escapes."""
    result = b""
    for character in error.object[error.start : error.end]:
        code = ord(character)
        is_byte = 0xDC80 <= code <= 0xDCFF
        result += bytes([code - 0xDC00]) if is_byte else character.encode("ascii", "backslashreplace")
    return result, error.end
