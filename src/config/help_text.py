"""`--help`: every key with its meaning, type and default."""

from __future__ import annotations

import os
import textwrap

from src.config.networks import NETWORKS
from src.config.published import PUBLISHED_KEYS
from src.config.values import ANY_NUMBER

_WIDTH = 110


def _kind(key: str, value, choices: dict) -> str:
    if key in choices:
        more = " or LIST" if key == "freeze_layer" else ""
        return "{" + ", ".join(str(choice) for choice in choices[key]) + "}" + more
    if key in ANY_NUMBER:
        return "NUMBER"
    names = {bool: "True|False", int: "INTEGER", float: "NUMBER", str: "STRING", list: "LIST"}
    return names[type(value)]


def _default(value) -> str:
    if value == "":
        return '""'
    if isinstance(value, list) and len(str(value)) > 60:
        return f"[{value[0]}, ... {len(value)} entries]"
    return str(value)


def help_text(program: str, path: str, values: dict, groups: dict, texts: dict, choices: dict) -> str:
    """The text that `--help` prints.

    Args:
        program: file name of the program.
        path: the YAML file that the defaults come from.
        values, texts, choices: by key.
        groups: key -> heading of the group that it opens.
    """
    texts = dict(texts, model_name=f"{texts['model_name']}: {', '.join(NETWORKS)}")
    lines = [
        f"usage: python3 {program} [--config_path FILE] [--key VALUE | --key=VALUE ...]",
        "",
        "Every key of the YAML file is an option, and the command line overrides the file.",
        "Lists are written as in Python or YAML: --img_shape=[640,640] --classes=\"['background', 'cat']\".",
        "",
        "  --config_path FILE",
        "      YAML file, complete, or a line `_BASE_: FILE` and the keys that differ from that file",
        f"      (the defaults below are those of {os.path.relpath(path)})",
    ]
    for key, value in values.items():
        if key in groups:
            lines += ["", f"{groups[key]}:"]
        lines.append(f"  --{key} {_kind(key, value, choices)}  (default {_default(value)})")
        lines += textwrap.wrap(str(texts[key]), _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["", "accepted for compatibility with the published files, without effect here:"]
    lines += textwrap.wrap(
        ", ".join(f"--{key}" for key in PUBLISHED_KEYS),
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
    )
    return "\n".join(lines)
