"""JSON files of annotations: any Unicode encoding, duplicate keys."""

from __future__ import annotations

import contextlib
import gc
import json
from typing import Iterator

from src.data.issues import Issues
from src.utils.errors import UserError

_KEYS = ("images", "annotations", "categories", "image_id", "category_id", "bbox", "file_name")


def read_json(path: str, issues: Issues) -> object:
    """The content of a JSON file.

    JSON keeps the last of two values of one key; duplicate keys with different values are noted as errors.

    Raises:
        UserError: the file is missing or no JSON.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read()
    except FileNotFoundError:
        raise UserError(f"annotation file not found: {path}") from None
    except OSError as error:
        raise UserError(f"cannot read annotation file {path}: {error.strerror}") from None
    try:
        return parse_json(data, issues)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None


def parse_json(data: bytes, issues: Issues) -> object:
    """As `read_json`, for a file's bytes.

    Raises:
        ValueError: no JSON; the message gives the reason and, where there is one, the line.
    """
    if not data.strip():
        raise ValueError("the file is empty")
    try:
        text = data.decode(json.detect_encoding(data))
        del data
        content = json.loads(text, object_hook=_without_outline)
        if _may_repeat(text, content):
            json.loads(text, object_pairs_hook=lambda pairs: _note_repeated(pairs, issues))
        return content
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not {error.encoding.upper()} text: save the file as UTF-8") from None
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _without_outline(row: dict) -> dict:
    """An object of the file without `segmentation`: nothing here reads it, and COCO's outlines take 2 GB as numbers."""
    row.pop("segmentation", None)
    return row


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Disable garbage collection in the block: millions of new objects would trigger it, and none is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _may_repeat(text: str, content: object) -> bool:
    """Whether some of `_KEYS` occur in the text more often than in the content (quick; may be a false alarm)."""
    if not isinstance(content, dict):
        return False
    numbers = dict.fromkeys(_KEYS, 0)
    for part in ("images", "annotations", "categories"):
        numbers[part] += part in content
        for row in content[part] if isinstance(content.get(part), list) else ():
            if isinstance(row, dict):
                for key in _KEYS[3:]:
                    if key in row:
                        numbers[key] += 1
    return any(text.count(f'"{key}"') > number for key, number in numbers.items())


def _note_repeated(pairs: list, issues: Issues) -> dict:
    row = {}
    for key, value in pairs:
        if key in row and row[key] != value:
            issues.error("keys are given twice in one object, with different values", f"'{key[:60]}'")
        row[key] = value
    return row
