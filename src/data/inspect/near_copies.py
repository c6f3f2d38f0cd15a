"""Images of two sets that look the same: saved again, resized, cropped a little, brightened or mirrored.

Two images are compared as thumbnails of 32 x 32 grey values. A coarse comparison (8 x 8 means, all pairs by a matrix
product) gives a few candidates for each image; these must agree in their details too (the thumbnail minus its blurred
form), where the thumbnails may be shifted by a pixel.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Iterator, List, Sequence, Tuple

import cv2
import numpy as np

from src.data.inspect.copies import same_content
from src.data.issues import Issues
from src.data.sample import Sample
from src.utils.log import LOGGER, progress

SIDE, COARSE = 32, 8
LEAST_COARSE, LEAST_DETAIL = 0.9, 0.8
"""Correlations of images that look the same. Of 250 drawn pictures no two have details that agree by more than 0.35. A
picture agrees by 0.98 with itself saved with quality 10, and by 0.7 to 0.95 with itself cropped by 2 % on each side."""
CANDIDATES = 8
MIN_CONTRAST = 2.0
"""Standard deviation of grey values below which an image has nothing to compare."""
MOST_IMAGES = 20_000
"""More are compared only where all images are decoded anyway."""
_AT_ONCE = 256
_REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)


def note_near_copies(
    train: Sequence[Sample], val: Sequence[Sample], issues: Issues, workers: int, always: bool
) -> None:
    """Note images of val that look like one of train. Equal files are left to `src.data.inspect.copies`.

    always: also for more than `MOST_IMAGES`.
    """
    if len(train) + len(val) > MOST_IMAGES and not always:
        LOGGER.info(
            "%d images: --decode also looks for images of val that look like one of train", len(train) + len(val)
        )
        return
    known = {sample.path for sample in train}
    others = [sample for sample in val if sample.path not in known]
    with progress(len(train) + len(others), "comparing") as bar:
        first, second = (thumbnails(part, workers, bar) for part in (train, others))
    for position, match in near_pairs(second, first):
        if not same_content([others[position].path, train[match].path], workers):
            issues.warn(
                "images of val look like one in train (saved again, resized, cropped, brightened or mirrored)",
                f"{others[position].path} (as {train[match].path})",
            )


def thumbnails(samples: Sequence[Sample], workers: int, bar=None) -> np.ndarray:
    """float32 [N, 32, 32] grey values of images; zeros for one that cannot be decoded.

    A large JPEG is decoded at an eighth, a quarter or half of its size.
    """
    result = np.zeros((len(samples), SIDE, SIDE), np.float32)
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for row, image in enumerate(pool.map(_thumbnail, samples)):
            if image is not None:
                result[row] = image
            if bar is not None:
                bar.update()
    return result


def _thumbnail(sample: Sample):
    shorter = min(sample.height, sample.width)
    flag = next((flag for factor, flag in _REDUCED if shorter >= 2 * SIDE * factor), cv2.IMREAD_GRAYSCALE)
    try:
        with open(sample.path, "rb") as handle:
            data = np.frombuffer(handle.read(), np.uint8)
        image = cv2.imdecode(data, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error):
        return None
    return None if image is None else cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def near_pairs(images: np.ndarray, others: np.ndarray) -> List[Tuple[int, int]]:
    """(index in `images`, index in `others`) of each image that looks like another one, and the most similar of these.

    Args:
        images: [N, 32, 32], others: [M, 32, 32], see `thumbnails`.
    """
    best = {}
    for one, other, value in _matches(images, others, CANDIDATES):
        if value > best.get(one, (0, -1.0))[1]:
            best[one] = other, value
    return [(one, best[one][0]) for one in sorted(best)]


def near_pairs_within(images: np.ndarray) -> List[Tuple[int, int]]:
    """All pairs (i, j), i < j, of images [N, 32, 32] that look the same, each with at most `CANDIDATES` others."""
    found = {(min(one, other), max(one, other)) for one, other, _ in _matches(images, images, CANDIDATES + 1)}
    return sorted(pair for pair in found if pair[0] < pair[1])


def _matches(images: np.ndarray, others: np.ndarray, candidates: int) -> Iterator[Tuple[int, int, float]]:
    """(index in `images`, index in `others`, agreement of their details) of images that look the same."""
    if not len(images) or not len(others):
        return
    coarse_others, details = _coarse(others), _details(others)
    for start in range(0, len(images), _AT_ONCE):
        block = images[start : start + _AT_ONCE]
        for turned in (block, block[:, :, ::-1]):
            likeness = _coarse(turned) @ coarse_others.T
            number = min(candidates, len(others))
            nearest = np.argpartition(-likeness, number - 1, axis=1)[:, :number]
            row, column = np.nonzero(np.take_along_axis(likeness, nearest, 1) >= LEAST_COARSE)
            match = nearest[row, column]
            agreement = _agreement(_details(turned)[row], details[match])
            for one, other, value in zip((start + row).tolist(), match.tolist(), agreement.tolist()):
                if value >= LEAST_DETAIL:
                    yield one, other, value


def _coarse(images: np.ndarray) -> np.ndarray:
    """Means of 4 x 4 pixels as unit vectors [N, 64]; zeros for an image without contrast."""
    step = SIDE // COARSE
    means = images.reshape(len(images), COARSE, step, COARSE, step).mean((2, 4)).reshape(len(images), -1)
    return _unit(means)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows [N, K] minus their mean, with length 1; zeros where the values hardly differ."""
    rows = rows - rows.mean(1, keepdims=True)
    contrast = rows.std(1, keepdims=True)
    return np.where(contrast < MIN_CONTRAST, 0, rows / np.maximum(contrast, 1e-6)) / np.sqrt(rows.shape[1])


def _details(images: np.ndarray) -> np.ndarray:
    """The images minus their blurred form: float32 [N, 32, 32]."""
    return np.stack([image - cv2.GaussianBlur(image, (0, 0), 3) for image in np.ascontiguousarray(images)])


def _agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The highest correlation [P] of details [P, 32, 32] over shifts by up to a pixel in each direction."""
    inner = _vectors(first[:, 1:-1, 1:-1])
    best = np.zeros(len(first))
    for y in range(3):
        for x in range(3):
            moved = _vectors(second[:, y : y + SIDE - 2, x : x + SIDE - 2])
            best = np.maximum(best, (inner * moved).sum(1))
    return best


def _vectors(images: np.ndarray) -> np.ndarray:
    rows = images.reshape(len(images), images.shape[1] * images.shape[2])
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
