"""Log lines and errors of the configuration."""

from __future__ import annotations

import pytest

from src.config import load_config, log_notes
from src.utils.errors import UserError


def notes(*argv, training=True):
    """The lines that a program logs about its configuration."""
    lines = []
    log_notes(load_config(argv), lambda form, text: lines.append(form % text), training)
    return lines


def refusal(*argv):
    """The one-line error of a configuration."""
    with pytest.raises(UserError) as error:
        load_config(argv)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)
