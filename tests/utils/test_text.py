"""Names and messages as shown by terminals, logs and files."""

import os

import pytest

from src.utils.text import escape_surrogates, one_line


@pytest.mark.parametrize(
    "value, expected",
    [
        ("ü 你", "ü 你"),
        (os.fsdecode(b"lat\xe4in"), "lat\\xe4in"),  # a file name in Latin-1
        ("".join(chr(0xDC00 + byte) for byte in "ü".encode()), "ü"),  # how LC_ALL=C reads a name in UTF-8
        ("half \ud83d", "half \\ud83d"),  # as JSON may hold it
        ("a\nb", "a\nb"),
        (7, "7"),
    ],
)
def test_surrogates_are_decoded_or_escaped(value, expected):
    assert escape_surrogates(value) == expected
    expected.encode("utf-8")


def test_one_line_escapes_what_cannot_be_seen():
    assert one_line("ü 你\n\x1b\u2028\xa0") == "ü 你\\n\\x1b\\u2028\\xa0"
