"""Text files of annotations: encodings and line ends."""

from __future__ import annotations

import re
from typing import List

from src.utils.errors import UserError


def read_bytes(path: str, key: str) -> bytes:
    """The content of a file.

    Raises:
        UserError: it is missing or cannot be read; the message begins with `key`.
    """
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        raise UserError(f"{key}: no such file: {path}") from None
    except OSError as error:
        raise UserError(f"{key}: cannot read {path}: {error.strerror}") from None


def read_lines(path: str, key: str) -> List[str]:
    """The lines of a text file without their line ends (LF, CRLF or CR): UTF-8 or UTF-16, with or without a byte order
    mark.

    Raises:
        UserError: the file is missing or no text; the message begins with `key`.
    """
    data = read_bytes(path, key)
    try:
        # Windows' "Unicode" is UTF-16 with a byte order mark
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{key}: {path} is not a UTF-8 text file (byte {error.start}): save it as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{key}: {path} is not a text file")
    # str.splitlines would also split at characters that a file name may hold
    return re.split(r"\r\n|\r|\n", text)
