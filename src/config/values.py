"""Values of the configuration: types, parsing from a command line, and display in messages."""

from __future__ import annotations

import ast
import math
import os
from typing import Union

import yaml

from src.utils.errors import UserError

Value = Union[None, bool, int, float, str, list]
# Keys for which an empty string, YAML's null and the word None all mean "none"
NONE_IS_EMPTY = (
    "resume",
    "pre_trained",
    "feature_extractor_base_param",
    "image_dir",
    "anno_path",
    "anno_path_val",
    "export_images",
)
# Keys whose list may be empty
_MAY_BE_EMPTY_LIST = ("all_reduce_fusion_config", "extras_in_channels", "extras_strides", "extras_ratio")
# Keys whose default is an integer, but which accept any number
ANY_NUMBER = ("loss_scale", "warmup_epochs")
_NONE = (None, "", "None", "none", "null")


def type_name(value) -> str:
    """The type of a value in words, for "must be ..."."""
    names = {bool: "True or False", int: "an integer", float: "a number", str: "a string", list: "a list"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def shown(value, depth: int = 2) -> str:
    """A string for a value of any type and size, short enough for a one-line message."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int) and value.bit_length() > 100:
        return f"a number of about {int(value.bit_length() * 0.30103) + 1} digits"
    if isinstance(value, (list, tuple)):
        if depth == 0:
            return "[...]"
        few = value if len(value) <= 10 else value[:3]
        more = "" if len(value) <= 10 else f", ... {len(value)} entries"
        return "[" + ", ".join(shown(item, depth - 1) for item in few) + more + "]"
    if isinstance(value, dict):
        return f"a mapping of {len(value)} keys"
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= 100 else f"{value[:80]!r}... of {len(value)} characters"
    if isinstance(value, (int, float)):
        return repr(value)
    return f"{' '.join(str(value).split())[:60]} ({type(value).__name__})"


def convert(key: str, value, example, where: str) -> Value:
    """`value` converted to the type of `example`.

    Raises:
        UserError: it has another type, or a number is not finite; names `where` and `key`.
    """
    if key == "freeze_layer":
        if isinstance(value, (type(None), str)) and value in _NONE:
            return None
        example = [""] if isinstance(value, (list, tuple)) else ""
    if key in NONE_IS_EMPTY and isinstance(value, (type(None), str)) and value in _NONE:
        return ""
    if isinstance(example, bool):
        return _boolean(key, value, where)
    if isinstance(example, (int, float)):
        return _number(key, value, example, where)
    if isinstance(example, str):
        return _string(key, value, where)
    if not isinstance(value, (list, tuple)):
        raise _wrong(key, value, example, where)
    # a level of aspect_ratios may be an empty list, the list of levels may not
    if not value and "[" not in key and key not in _MAY_BE_EMPTY_LIST:
        raise UserError(f"{where}: {key} must not be an empty list")
    return [convert(f"{key}[{i}]", item, example[0], where) for i, item in enumerate(value)]


def _wrong(key: str, value, example, where: str) -> UserError:
    hint = "; YAML reads it as another type without quotes: write it 'in quotes'"
    is_unquoted = key.startswith("classes[") and isinstance(value, (bool, int, float)) or value is None and "[" in key
    return UserError(f"{where}: {key} must be {type_name(example)}, got {shown(value)}{hint if is_unquoted else ''}")


def _boolean(key: str, value, where: str) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise _wrong(key, value, True, where)
    return value


def _number(key: str, value, example, where: str):
    given = value
    if isinstance(value, str):  # YAML reads 1e-3 as a string
        value = _number_or_text(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(key, given, example, where)
    if isinstance(value, int) and value.bit_length() > 63:
        raise UserError(f"{where}: {key} is out of range, got {shown(value)}")
    if not math.isfinite(value):
        raise UserError(f"{where}: {key} must be a finite number, got {shown(given)}")
    if isinstance(example, int) and key not in ANY_NUMBER:
        if value != int(value):
            raise _wrong(key, given, example, where)
        return int(value)
    return value if isinstance(value, int) and isinstance(example, int) else float(value)


def _string(key: str, value, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(key, value, "", where)
    if "\0" in value:
        raise UserError(f"{where}: {key} holds a NUL character: {shown(value)}")
    try:
        data = value.encode("utf-8", "surrogateescape")
        # list entries are names, compared with names in files; other strings are paths, in the form that Python opens
        return data.decode("utf-8") if "[" in key else os.fsdecode(data)
    except UnicodeError:
        raise UserError(f"{where}: {key} is not UTF-8 text: {shown(value)}") from None


def _number_or_text(text: str):
    """The number in a string, else the string."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:  # also an integer of more than 4300 digits
            continue
    return text


def parse_text(key: str, text: str, example) -> Value:
    """Parse a value of the command line, before `convert`: lists are Python or YAML literals."""
    if isinstance(example, (bool, int, float, str)):
        return text
    if key == "freeze_layer" and not text.strip().startswith("["):
        return text
    # under LC_ALL=C bytes above 127 arrive as surrogates; names in a list are UTF-8
    try:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text
    for read in (ast.literal_eval, yaml.safe_load):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError, yaml.YAMLError):
            continue
        except (OverflowError, KeyError, IndexError):
            continue
    return text
