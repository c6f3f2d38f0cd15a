"""Escaping of names and messages for terminals, logs and files."""

from __future__ import annotations


def escape_surrogates(value) -> str:
    """A string that every terminal and file accepts: undecodable bytes and lone surrogates are escaped.

    JSON may hold lone surrogates, and under LC_ALL=C the bytes of a command line or path arrive as surrogates; those
    that form UTF-8 are decoded.
    """
    try:
        return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return str(value).encode("utf-8", "backslashreplace").decode()


def one_line(value) -> str:
    """`escape_surrogates` on one line: line breaks, control characters and unusual spaces are escaped too."""
    string = escape_surrogates(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in string)
