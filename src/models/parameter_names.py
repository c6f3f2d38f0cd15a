"""Parameter names, with and without the prefix of the inference network. Needs no MindSpore."""

from __future__ import annotations

from typing import Sequence

NETWORK = "network."


def without_network_prefix(name: str) -> str:
    """A parameter's name without the prefix of the inference network."""
    return name[len(NETWORK) :] if name.startswith(NETWORK) else name


def is_left_out(name: str, entries: Sequence[str]) -> bool:
    """Whether `checkpoint_filter_list` leaves out a parameter: its published name, with `network.`, contains one of
    the entries."""
    return any(entry in NETWORK + without_network_prefix(name) for entry in entries)
