"""Decoding of images: one rule for conversion, training, evaluation and prediction.

RGB, 8 bit, as the file stores it: an EXIF orientation is not applied (the published pipeline did not, and
boxes are in pixels of the stored image); grey, palette, CMYK, 16-bit and alpha images become RGB. JPEG,
PNG, BMP and TIFF are read, other formats are rejected. A JPEG that lacks only its end marker is read. An image of more
than `MAX_PIXELS` is rejected by its header, before any memory is allocated for it.
"""

from __future__ import annotations

import io
from typing import IO, Tuple

import cv2
import numpy as np
from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

MAX_PIXELS = 1 << 28
"""16,384 x 16,384: 0.8 GB as decoded. A small file can claim any size."""
_FORMATS = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)
# Pillow's classes instead of Image.open: that has a lower limit, which is global, and warns from half of it on
_HEADERS = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_OTHERS = (
    (b"GIF8", "a GIF image"),
    (b"\0\x05\x16\x07", "a file of macOS about another file (._*)"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"<", "a text file (a web page?)"),
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
)
DARK = 32
"""Of 255: the highest value of a 16-bit image that looks black in 8 bits."""
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_JPEG_END = b"\xff\xd9"
# Without 0xff, which would begin a marker
_FILLING = bytes((37 * k + 11) % 251 for k in range(4096))


def check_image(data: bytes) -> tuple:
    """(height, width) of an image that `decode_rgb` can decode.

    A JPEG is decoded completely, but in grey at an eighth of its size: that saves a third of the time.

    Raises:
        ValueError: as `decode_rgb`, for the same images.
    """
    if not data.startswith(b"\xff\xd8") or _JPEG_END not in data[-64:]:
        return decode_rgb(data).shape[:2]
    size = _size(data, "JPEG")
    if _imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION) is None:
        raise ValueError("the JPEG data is damaged or incomplete")
    return size or decode_rgb(data).shape[:2]  # Pillow is stricter about damaged headers than what decodes


def decode_rgb(data: bytes) -> np.ndarray:
    """uint8 [H, W, 3] RGB of an image file's bytes.

    Raises:
        ValueError: with the reason, in a few words; the caller knows the file's name.
    """
    kind = _kind(data)
    _size(data, kind)
    if kind == "JPEG" and _JPEG_END not in data[-64:]:
        # most decoders fill the rest of a truncated file with grey; only a missing end marker is harmless
        data = _completed_jpeg(data)
    image = _imdecode(data)
    if image is None:
        raise ValueError(f"the {kind} data is damaged or incomplete")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _kind(start: bytes) -> str:
    """The format of a file by its first bytes.

    Raises:
        ValueError: it is not a supported image.
    """
    if not start:
        raise ValueError("the file is empty")
    for magic, kind in _FORMATS:
        if start.startswith(magic):
            return kind
    other = next((what for magic, what in _OTHERS if start.lstrip().startswith(magic)), "")
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        other = "a WebP image"
    if start[4:8] == b"ftyp":
        other = "a HEIC or AVIF image, or a video"
    raise ValueError("not a JPEG, PNG, BMP or TIFF image" + (f" but {other}" if other else ""))


def _size(data: bytes, kind: str):
    """(height, width) by the header, None where Pillow cannot read it (OpenCV may).

    Raises:
        ValueError: no pixels, or too many.
    """
    try:
        if kind == "PNG":
            width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        else:
            width, height = _HEADERS[kind](io.BytesIO(data)).size
    except Exception:  # Pillow raises many kinds for damaged headers
        return None
    return _checked(height, width)


def _checked(height: int, width: int) -> Tuple[int, int]:
    if min(height, width) < 1:
        raise ValueError(f"its header says {width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels exceed the limit of {MAX_PIXELS:,}; cut it into tiles")
    return height, width


def _completed_jpeg(data: bytes) -> bytes:
    """The JPEG with an end marker added, if only that is missing.

    A decoder fills in missing data; so the file is decoded again with some more bytes before the end. In a complete
    image nothing reads them, in a truncated one they change the result.
    """
    data = data.rstrip(b"\xff")
    completed = data + _JPEG_END
    image, other = (_imdecode(content) for content in (completed, data + _FILLING + _JPEG_END))
    if image is None or other is None:
        raise ValueError("the JPEG data is damaged or incomplete")
    if not np.array_equal(image, other):
        raise ValueError("the JPEG ends in the middle of the picture")
    return completed


def _imdecode(data: bytes, flags: int = _FLAGS):
    """BGR uint8 [H, W, 3], None if OpenCV cannot decode it."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # more pixels than OpenCV allows
        return None


def read_header(path: str) -> tuple:
    """((height, width), EXIF orientation) of an image file from its first bytes, without decoding it.

    Raises:
        ValueError: with the reason in a few words; OSError: it cannot be opened.
    """
    with open(path, "rb") as handle:
        start = handle.read(1 << 16)
        width, height = _header(handle, _kind(start)).size
    return _checked(height, width), exif_orientation(start)


def read_size(path: str) -> tuple:
    """As `read_header`; an image whose header cannot be read is decoded, as Pillow is stricter about headers.

    Raises:
        ValueError: it cannot be decoded either, with the reason in a few words; OSError: it cannot be opened.
    """
    try:
        return read_header(path)
    except ValueError:
        with open(path, "rb") as handle:
            data = handle.read()
        return decode_rgb(data).shape[:2], exif_orientation(data)


def _header(handle: IO[bytes], kind: str):
    """Pillow's image of a file, not decoded.

    Raises:
        ValueError: its header is damaged.
    """
    handle.seek(0)
    try:
        return _HEADERS[kind](handle)
    except Exception as error:  # Pillow raises many kinds
        raise ValueError(f"its header is damaged ({type(error).__name__})") from None


def has_16_bits(path: str) -> bool:
    """Whether the image has more than 8 bits per channel, of which the upper 8 are used.

    Raises:
        ValueError, OSError: as `read_header`.
    """
    with open(path, "rb") as handle:
        start = handle.read(32)
        kind = _kind(start)
        if kind == "PNG":
            return start[24:25] == b"\x10"
        if kind != "TIFF":
            return False
        bits = _header(handle, kind).tag_v2.get(258, (1,))
        return max(bits if isinstance(bits, tuple) else (bits,)) > 8


def flaw(image: np.ndarray, deep: bool) -> str:
    """What is wrong with a decoded image (one colour only, or black), "" if nothing is.

    Args:
        image: uint8 [H, W, 3]; deep: its file has more than 8 bits per channel.
    """
    if deep and image.max() < DARK:
        return "16-bit images become black (the upper 8 bits are used: scale their values to 0..65535)"
    if (image[0] == image[0, 0]).all() and (image == image[0, 0]).all():
        return "images have one colour only"
    return ""


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG (1..8), 1 if it has none."""
    if not data.startswith(b"\xff\xd8"):
        return 1
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF and data[offset + 1] not in (0xDA, 0xD9):
        length = int.from_bytes(data[offset + 2 : offset + 4], "big")
        if data[offset + 1] == 0xE1 and data[offset + 4 : offset + 10] == b"Exif\0\0":
            return _orientation_tag(data[offset + 10 : offset + 2 + length])
        offset += 2 + length
    return 1


def _orientation_tag(tiff: bytes) -> int:
    order = "little" if tiff[:2] == b"II" else "big"
    start = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[start : start + 2], order)
    for entry in range(count):
        at = start + 2 + 12 * entry
        if int.from_bytes(tiff[at : at + 2], order) == 0x0112:
            value = int.from_bytes(tiff[at + 8 : at + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1
