"""Reading pictures for a detector, and the pictures that an export is compared on."""

from __future__ import annotations

from itertools import islice
from typing import Iterator, Sequence, Tuple

import cv2
import numpy as np

from src.data.images import decode_rgb
from src.data.transforms import resize
from src.inference.search import find_files, is_video
from src.utils.errors import UserError
from src.utils.log import LOGGER
from src.utils.text import one_line


def read_picture(path: str) -> np.ndarray:
    """Read a picture file: uint8 RGB [H, W, 3].

    Raises:
        UserError: it cannot be opened or decoded; the message gives the reason.
    """
    try:
        with open(path, "rb") as handle:
            return decode_rgb(handle.read())
    except OSError as error:
        raise UserError(f"cannot read {one_line(path)}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"cannot read {one_line(path)}: {error}") from None


def comparison_pictures(folder: str, img_shape: Sequence[int], count: int) -> Tuple[np.ndarray, np.ndarray, str]:
    """Pictures to compare a network and its export on: the first `count` readable ones of a folder, or drawn ones if
    `folder` is "".

    Returns:
        uint8 RGB [n, H, W, 3] of the network's size, (height, width) int [n, 2] of the originals, and a description of
        their source.

    Raises:
        UserError: the folder holds no readable picture.
    """
    if folder:
        pictures, source = list(islice(_readable(find_files([folder])), count)), f"pictures of {folder}"
    else:
        pictures, source = [_drawn(seed) for seed in range(count)], "drawn pictures"
    if not pictures:
        raise UserError(f"export_images: no picture that can be read in {folder}")
    images = np.stack([resize(picture, img_shape) for picture in pictures])
    return images, np.array([picture.shape[:2] for picture in pictures]), f"{len(pictures)} {source}"


def _readable(files: Sequence[str]) -> Iterator[np.ndarray]:
    for path in files:
        if not is_video(path):
            try:
                yield read_picture(path)
            except UserError as error:
                LOGGER.warning("left out of the comparison: %s", error)


def _drawn(seed: int, height: int = 480, width: int = 640) -> np.ndarray:
    """uint8 RGB [height, width, 3]: coloured shapes on a smooth background, with a photo's brightness and edges."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(
        rng.uniform(40, 200, (4, 5, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    for _ in range(12):
        colour = rng.uniform(0, 255, 3).tolist()
        x, y, size = int(rng.integers(width)), int(rng.integers(height)), int(rng.integers(10, 150))
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), size, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (x, y), (x + size, y + size // 2), colour, -1)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1) + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
