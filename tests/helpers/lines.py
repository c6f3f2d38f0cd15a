"""Errors that are one line."""

from __future__ import annotations

import pytest

from src.utils.errors import UserError


def line_of(call, *words):
    """A call ends in an error of one line with these words."""
    with pytest.raises(UserError) as error:
        call()
    assert len(str(error.value).splitlines()) == 1
    assert all(word in str(error.value) for word in words), str(error.value)
