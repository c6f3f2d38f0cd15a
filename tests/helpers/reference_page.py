"""The page of definitions (reference.md) by heading: its tables and the numbers in them."""

from __future__ import annotations

import os
import re

import numpy as np

from tests.helpers.paths import ROOT


def read(path):
    with open(path, encoding="utf-8") as handle:
        return handle.read()


def sections(text):
    """Heading -> the text below it, up to the next heading; headings inside fences do not count."""
    found, heading, fenced = {}, "", False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        match = None if fenced else re.match(r"#+ (.*)", line)
        if match:
            heading = match.group(1)
            assert heading not in found, f"two sections are called {heading}"
        found[heading] = found.get(heading, "") + line + "\n"
    return found


PAGE = read(os.path.join(ROOT, "docs", "reference.md"))
SECTIONS = sections(PAGE)
SENTENCES = " ".join(PAGE.split())  # wherever lines end


def rows(heading, header):
    """Cells of the rows of a section's table whose header row begins with `header`, backquotes taken off."""
    lines = SECTIONS[heading].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {header}"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return table


def numbers(text):
    return [float(word) for word in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def assert_shown(shown, value):
    """Check that a number on the page equals that of the code, to the digits shown (at most six)."""
    np.testing.assert_allclose(shown, value, rtol=5e-6, atol=1e-7)
