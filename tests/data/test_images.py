import io

import cv2
import numpy as np
import pytest
from PIL import Image

import src.data.images
from src.data.images import check_image, decode_rgb, exif_orientation, read_header


@pytest.fixture
def picture():
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8), (0, 0), 3)


def encoded(image, ending, *options):
    return cv2.imencode(ending, image, list(options))[1].tobytes()


def test_formats_that_are_read(picture):
    for ending in (".png", ".bmp", ".tiff"):
        np.testing.assert_array_equal(decode_rgb(encoded(picture, ending)), picture[..., ::-1])
    assert np.abs(decode_rgb(encoded(picture, ".jpg")).astype(int) - picture[..., ::-1]).mean() < 4


def test_grey_alpha_and_16_bit_become_rgb(picture):
    grey = picture[..., 0]
    np.testing.assert_array_equal(decode_rgb(encoded(grey, ".png")), np.repeat(grey[..., None], 3, -1))
    alpha = np.dstack([picture, np.zeros((60, 80), np.uint8)])
    np.testing.assert_array_equal(decode_rgb(encoded(alpha, ".png")), picture[..., ::-1])
    np.testing.assert_array_equal(decode_rgb(encoded(grey.astype(np.uint16) * 256, ".png"))[..., 0], grey)


@pytest.mark.parametrize(
    "content", [b"", b"<html>not a picture</html>", b"GIF89a" + b"\0" * 40, b"RIFF\0\0\0\0WEBP" + b"\0" * 40]
)
def test_what_is_refused(content):
    with pytest.raises(ValueError):
        decode_rgb(content)


def test_half_files_are_refused_and_a_missing_end_is_not(picture):
    big = cv2.resize(picture, (640, 480), interpolation=cv2.INTER_CUBIC)
    jpeg = encoded(big, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        with pytest.raises(ValueError):
            decode_rgb(jpeg[: int(len(jpeg) * share)])
    np.testing.assert_array_equal(decode_rgb(jpeg[:-2]), decode_rgb(jpeg))
    with pytest.raises(ValueError):
        decode_rgb(encoded(picture, ".png")[:800])


def test_exif_orientation_is_read_but_not_applied(picture):
    jpeg = encoded(picture, ".jpg")
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert exif_orientation(turned) == 6 and exif_orientation(jpeg) == 1
    np.testing.assert_array_equal(decode_rgb(turned), decode_rgb(jpeg))


def verdict(function, data):
    """(height, width), or None if the image is an error."""
    try:
        found = function(data)
    except ValueError:
        return None
    return found.shape[:2] if isinstance(found, np.ndarray) else found


def damaged(data, rng):
    """A file with some bytes changed, removed or doubled; its end marker stays."""
    content = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        start, length = rng.integers(2, len(content) - 4), int(rng.integers(1, 40))
        kind = rng.integers(3)
        if kind == 0:
            content[start] ^= 1 << rng.integers(8)
        elif kind == 1 and len(content) > 200:
            del content[start : min(start + length, len(content) - 2)]
        else:
            content[start:start] = content[start : start + length]
    return bytes(content)


@pytest.mark.parametrize(
    "mode, options",
    [
        ("RGB", {}),
        ("RGB", {"subsampling": 0, "quality": 95}),
        ("RGB", {"progressive": True}),
        ("L", {}),
        ("L", {"progressive": True}),
        ("CMYK", {}),
        ("RGB", {"restart_marker_rows": 1}),
    ],
)
def test_the_quick_look_of_a_conversion_refuses_what_decoding_refuses(picture, mode, options):
    buffer, rng = io.BytesIO(), np.random.default_rng(7)
    Image.fromarray(picture).convert(mode).save(buffer, "JPEG", **options)
    data = buffer.getvalue()
    assert check_image(data) == (60, 80)
    refused = 0
    for _ in range(300):
        content = damaged(data, rng)
        want = verdict(decode_rgb, content)
        assert verdict(check_image, content) == want
        refused += want is None
    assert 10 < refused < 290


@pytest.mark.parametrize(
    "content, words",
    [
        (b"GIF89a" + b"\0" * 40, "a GIF image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP image"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "a HEIC"),
        (b"\0\5\x16\7\0\2", "a file of macOS"),
        (b"\n<!DOCTYPE html>", "a text"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer: run git lfs pull"),
    ],
)
def test_other_formats_are_named(content, words):
    with pytest.raises(ValueError, match=f"not a JPEG, PNG, BMP or TIFF image but {words}"):
        decode_rgb(content)


def test_an_image_above_pillows_limit(tmp_path, recwarn):
    data = encoded(np.full((13500, 13500), 77, np.uint8), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 10)
    path = tmp_path / "huge.jpg"
    path.write_bytes(data)
    assert 13500 * 13500 > 178_956_970
    assert check_image(data) == (13500, 13500) and read_header(str(path)) == ((13500, 13500), 1)
    assert not [warning for warning in recwarn.list if "Bomb" in type(warning.message).__name__]


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".tiff"])
def test_one_limit_for_every_format_and_way(picture, tmp_path, monkeypatch, ending):
    data, path = encoded(picture, ending), tmp_path / "a"
    path.write_bytes(data)
    monkeypatch.setattr(src.data.images, "MAX_PIXELS", 60 * 80)
    assert decode_rgb(data).shape == (60, 80, 3) and check_image(data) == read_header(str(path))[0] == (60, 80)
    monkeypatch.setattr(src.data.images, "MAX_PIXELS", 60 * 80 - 1)
    for look in (lambda: decode_rgb(data), lambda: check_image(data), lambda: read_header(str(path))):
        with pytest.raises(ValueError, match="80 x 60 pixels exceed the limit of 4,799"):
            look()


def claiming(width, height):
    """PNG and BMP files of a few bytes whose header claims a size."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, 8, 0, 0, 0, 0)
    yield (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    yield (
        b"BM"
        + struct.pack("<IHHIIIIHHIIIIII", 154, 0, 0, 54, 40, width, height, 1, 24, 0, 100, 0, 0, 0, 0)
        + bytes(100)
    )


@pytest.mark.parametrize("width, height", [(60000, 60000), (2**31 - 1, 2**31 - 1), (0, 0), (0, 50), (2**31 - 1, 1)])
def test_sizes_that_a_header_only_claims(tmp_path, width, height):
    import tracemalloc

    for number, data in enumerate(claiming(width, height)):
        path = tmp_path / str(number)
        path.write_bytes(data)
        tracemalloc.start()
        for look in (lambda: decode_rgb(data), lambda: check_image(data), lambda: read_header(str(path))):
            with pytest.raises(ValueError, match=f"{width} x {height} pixels|damaged"):
                look()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
