"""Documents and their command lines."""

from __future__ import annotations

import os
import re

from tests.helpers.paths import ROOT


def text(page):
    """The content of a document, named by its path in the repository."""
    with open(os.path.join(ROOT, page), encoding="utf-8") as handle:
        return handle.read()


def blocks(page):
    """The fenced blocks of a page, with their comments."""
    return re.findall(r"^```\w*\n(.*?)^```", text(page), re.M | re.S)


def commands(page):
    """Command lines of fenced blocks: continued lines are joined, comments and placeholders removed."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.split(" #")[0].strip()
            if re.match(r"(\w+=\S+ )*(bash|python3|mpirun|msrun) ", line):
                yield line
