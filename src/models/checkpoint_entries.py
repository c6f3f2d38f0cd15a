"""The entries of a MindSpore checkpoint, read from its bytes and written as such.

MindSpore's `load_checkpoint` refuses a file that is larger than the free memory, and 2.10 counts the page cache as
used: after an epoch over COCO every checkpoint would be refused. It also aborts the process on some damaged shapes.
`save_checkpoint` builds a message of the complete file in memory, in addition to a copy of every tensor.

A checkpoint is a protobuf message, and the format is public (checkpoint.proto): field 1, repeated, is an entry of
tag (1) and tensor (2); a tensor has dims (1, repeated), type (2) and content (3). A large tensor is several entries
in a row with the same tag and dims. 2.10 can add `crc_num` and ten bytes of CRC-32 at the end.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import BinaryIO, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np

from src.utils.errors import RunError, UserError

_DTYPES = {
    "Bool": np.bool_,
    "Int8": np.int8,
    "Int16": np.int16,
    "Int32": np.int32,
    "Int64": np.int64,
    "UInt8": np.uint8,
    "UInt16": np.uint16,
    "UInt32": np.uint32,
    "UInt64": np.uint64,
    "Float16": np.float16,
    "Float32": np.float32,
    "Float64": np.float64,
}
_ENTRY, _VARINT, _FIXED64, _BYTES, _FIXED32 = 0x0A, 0, 1, 2, 5
_CRC, _CRC_BYTES = b"crc_num", 17
# bytes that hold the head and the tag of an entry
_START = 1024

# bytes of content; a larger tensor is several entries, as MindSpore's own are
_PIECE = 512 << 20

Value = Union[np.ndarray, str]


class BrokenFile(ValueError):
    """The bytes are not those of a checkpoint."""


class UnknownType(ValueError):
    """An entry of a type that is not read here."""


@contextlib.contextmanager
def reading(path: str, key: str) -> Iterator[None]:
    """Errors of reading a checkpoint become a line for the user. Only bytes that are damaged are called so.

    Args:
        key: the option that named the file.

    Raises:
        UserError: it is damaged or cannot be read.
        RunError: the memory does not suffice.
    """
    try:
        yield
    except BrokenFile as error:
        raise UserError(f"{key}: {path} is damaged or no checkpoint: {error}") from None
    except UnknownType as error:
        raise UserError(f"{key}: {path}: {error}, which cannot be read here") from None
    except OSError as error:
        raise UserError(f"{key}: cannot read {path}: {error.strerror}") from None
    except MemoryError:
        raise RunError(f"{key}: not enough memory to read {path} ({os.path.getsize(path)} bytes)") from None


def check_name(path: str, key: str) -> None:
    """The file is there and is called a checkpoint.

    Raises:
        UserError: naming `key`, the option that named it.
    """
    if not os.path.isfile(path):
        raise UserError(f"{key}: no such checkpoint: {path}")
    if not path.lower().endswith(".ckpt"):
        raise UserError(f"{key}: a checkpoint's name ends in .ckpt, got {path}")


def check_entries(path: str, key: str) -> None:
    """Look for what is wrong with a checkpoint (a cut download, a web page) without reading its tensors.

    Raises:
        UserError: naming `key`, the option that named the file.
    """
    check_name(path, key)
    with reading(path, key), open(path, "rb") as handle:
        if not list(_spans(handle)):
            raise BrokenFile("it holds no entry")


def read_entries(path: str) -> Dict[str, Value]:
    """Name -> array (bfloat16 as float32) or text, in the order of the file.

    Raises:
        BrokenFile: it is cut, changed or no checkpoint.
        UnknownType: an entry is of a type that NumPy lacks.
        OSError: it cannot be read.
    """
    entries: Dict[str, Value] = {}
    name, dims, kind, pieces = None, [], "", []
    with open(path, "rb") as handle:
        for start, size in _spans(handle):
            handle.seek(start)
            next_name, tensor = _entry(memoryview(handle.read(size)))
            if next_name != name and pieces:
                entries[name] = _value(name, dims, kind, pieces)
                pieces = []
            name = next_name
            if tensor is not None:
                dims, kind, content = tensor
                pieces.append(content)
    if pieces:
        entries[name] = _value(name, dims, kind, pieces)
    if not entries:
        raise BrokenFile("it holds no entry")
    return entries


def entry_parts(name: str, array: np.ndarray) -> Iterator[Union[bytes, memoryview]]:
    """The bytes of an entry, part by part; the content is not copied where the array is contiguous.

    Raises:
        UnknownType: no entry has the array's type.
    """
    kind = next((kind for kind, dtype in _DTYPES.items() if dtype == array.dtype), None)
    if kind is None:
        raise UnknownType(f"{name} is of the type {array.dtype}")
    content = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    fields = b"".join(b"\x08" + _as_varint(size) for size in array.shape) + _as_bytes(2, kind.encode())
    for start in range(0, max(len(content), 1), _PIECE):
        piece = content[start : start + _PIECE]
        tensor = fields + b"\x1a" + _as_varint(len(piece))
        head = _as_bytes(1, name.encode()) + b"\x12" + _as_varint(len(tensor) + len(piece)) + tensor
        yield b"\x0a" + _as_varint(len(head) + len(piece)) + head
        yield piece


def _as_varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _as_bytes(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _as_varint(len(value)) + value


def read_entry(path: str, name: str) -> Optional[Value]:
    """One entry, without reading the others; None where the file has none of that name.

    Raises:
        As `read_entries`.
    """
    pieces: list = []
    with open(path, "rb") as handle:
        for start, size in _spans(handle):
            handle.seek(start)
            if not _begins_with(handle.read(min(size, _START)), name):
                continue
            handle.seek(start)
            _, tensor = _entry(memoryview(handle.read(size)))
            if tensor is not None:
                dims, kind, content = tensor
                pieces.append(content)
    return _value(name, dims, kind, pieces) if pieces else None


def _spans(handle: BinaryIO) -> Iterator[Tuple[int, int]]:
    """Start and size in bytes of each entry."""
    position, end = 0, os.fstat(handle.fileno()).st_size
    while position < end:
        handle.seek(position)
        head = handle.read(_CRC_BYTES)
        if head[: len(_CRC)] == _CRC and position + _CRC_BYTES == end:
            _check_crc(handle, position, int.from_bytes(head[len(_CRC) :], "big"))
            return
        if head[0] != _ENTRY:
            raise BrokenFile(f"no entry begins at byte {position}")
        size, used = _varint(head, 1)
        start = position + used
        if start + size > end:
            raise BrokenFile(f"it ends in the middle of the entry at byte {position}")
        yield start, size
        position = start + size


def _check_crc(handle: BinaryIO, size: int, expected: int) -> None:
    handle.seek(0)
    crc, left = 0, size
    while left:
        block = handle.read(min(left, 1 << 20))
        crc, left = zlib.crc32(block, crc), left - len(block)
    if crc != expected:
        raise BrokenFile("its content and its CRC differ")


def _varint(data, position: int) -> Tuple[int, int]:
    """(value, position after it)."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise BrokenFile("a number is cut")


def _fields(data: memoryview) -> Iterator[tuple]:
    """(field number, int or bytes) of a message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
        elif wire in (_BYTES, _FIXED32, _FIXED64):
            size = {_FIXED32: 4, _FIXED64: 8}.get(wire)
            if size is None:
                size, position = _varint(data, position)
            if position + size > len(data):
                raise BrokenFile("a field is cut")
            value, position = data[position : position + size], position + size
        else:
            raise BrokenFile(f"a field of kind {wire}")
        yield number, value


def _entry(data: memoryview) -> tuple:
    """(tag, (dims, type, content)); None in place of the tensor for an entry of another kind (a map)."""
    name, tensor = None, None
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            tensor = _tensor(value)
    if name is None:
        raise BrokenFile("an entry has no name")
    return name, tensor


def _tensor(data) -> tuple:
    if not isinstance(data, memoryview):
        raise BrokenFile("a tensor is a number")
    dims: List[int] = []
    kind, content = None, None
    for number, value in _fields(data):
        if number == 1:
            if isinstance(value, int):
                dims.append(value)
            else:  # packed
                position = 0
                while position < len(value):
                    dim, position = _varint(value, position)
                    dims.append(dim)
        elif number == 2:
            kind = _text(value)
        elif number == 3:
            content = value
    if kind is None or not isinstance(content, memoryview):
        raise BrokenFile("a tensor has no type or no content")
    return dims, kind, content


def _text(value) -> str:
    try:
        return bytes(value).decode() if isinstance(value, memoryview) else ""
    except UnicodeDecodeError:
        raise BrokenFile("a name is not UTF-8") from None


def _begins_with(data: bytes, name: str) -> bool:
    """Whether an entry that begins so has this tag (MindSpore writes the tag first)."""
    text = name.encode()
    return len(data) > 2 and data[0] == _ENTRY and data[1] == len(text) and data[2 : 2 + len(text)] == text


def _value(name: str, dims: List[int], kind: str, pieces: list) -> Value:
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    try:
        if kind == "str":
            return bytes(data).decode("utf-32-le").rstrip("\0")
        if kind == "BFloat16":
            array = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif kind in _DTYPES:
            array = np.frombuffer(data, _DTYPES[kind])
        else:
            raise UnknownType(f"{name} is of the type {kind}")
        # a scalar has the dims [0]
        return array.reshape(() if dims in ([], [0]) and array.size == 1 else dims)
    except UnknownType:
        raise
    except (ValueError, OverflowError):
        raise BrokenFile(f"{name}: {len(data)} bytes are no {kind} of shape {dims}") from None
