"""One rule for every image, in conversion, training, evaluation and prediction.

RGB, 8 bit, as the file stores it: an EXIF orientation is not applied (the published pipeline did not, and
boxes are in pixels of the stored picture); grey, palette, CMYK, 16-bit and alpha images become RGB. JPEG,
PNG, BMP and TIFF are read, other formats refused. A JPEG that lacks only its end marker is read.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

_FORMATS = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_JPEG_END = b"\xff\xd9"
# Without 0xff, which would begin a marker
_FILLING = bytes((37 * k + 11) % 251 for k in range(4096))


def check_image(data: bytes) -> tuple:
    """(height, width) of an image that `decode_rgb` can decode.

    A JPEG is read whole but painted in grey at an eighth of its size, which takes two thirds of the time.

    Raises:
        ValueError: as `decode_rgb`, for the same images.
    """
    if not data.startswith(b"\xff\xd8") or _JPEG_END not in data[-64:]:
        return decode_rgb(data).shape[:2]
    if _imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION) is None:
        raise ValueError("the JPEG data is damaged or incomplete")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size[::-1]
    except OSError:  # Pillow is stricter about damaged headers than what decodes
        return decode_rgb(data).shape[:2]


def decode_rgb(data: bytes) -> np.ndarray:
    """uint8 [H, W, 3] RGB of an image file's bytes.

    Raises:
        ValueError: with the reason, in a few words; the caller knows the file's name.
    """
    if len(data) == 0:
        raise ValueError("the file is empty")
    kind = next((name for magic, name in _FORMATS if data.startswith(magic)), None)
    if kind is None:
        raise ValueError("not a JPEG, PNG, BMP or TIFF image")
    if kind == "JPEG" and _JPEG_END not in data[-64:]:
        # Most decoders invent the rest of a half file in grey; only a missing end marker is harmless
        data = _completed_jpeg(data)
    image = _imdecode(data)
    if image is None:
        raise ValueError(f"the {kind} data is damaged or incomplete")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _completed_jpeg(data: bytes) -> bytes:
    """The JPEG with an end marker, where its picture is whole without one.

    A decoder paints what is missing; so the same file is decoded with some more bytes before the end. In a whole
    picture nothing reads them, in a cut one they change what is painted.
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
    """BGR uint8 [H, W, 3], None where OpenCV cannot."""
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
        if not start:
            raise ValueError("the file is empty")
        if not any(start.startswith(magic) for magic, _ in _FORMATS):
            raise ValueError("not a JPEG, PNG, BMP or TIFF image")
        handle.seek(0)
        try:
            with Image.open(handle) as image:
                width, height = image.size
        except Exception as error:  # Pillow raises many kinds for damaged headers
            raise ValueError(f"its header is damaged ({type(error).__name__})") from None
    return (height, width), exif_orientation(start)


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG (1..8), 1 where it has none."""
    if not data.startswith(b"\xff\xd8"):
        return 1
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] not in (0xDA, 0xD9):
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            return _orientation_tag(data[place + 10 : place + 2 + length])
        place += 2 + length
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
