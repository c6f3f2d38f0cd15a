"""Training samples decoded from the network's input arrays, so that a wrong encoding becomes visible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List

import numpy as np

from src.boxes.coder import BoxCoder
from src.data.images import decode_rgb
from src.data.issues import Issues
from src.data.sample import Sample, clip_to_image
from src.data.transforms import TrainTransform
from src.utils.errors import UserError


@dataclass
class Preview:
    """A training sample as the network sees it; boxes are y1, x1, y2, x2 in pixels of the network's input.

    image: uint8 RGB [H, W, 3]; truth: float64 [M, 5] boxes and labels after augmentation;
    targets: float64 [K, 5], the decoded targets, one row per matched default box; defaults: float64 [K, 4], those
    default boxes; levels: int [K], their level; window: the part that is shown, in the file's pixels; flipped;
    distance: largest distance in pixels of a target from the nearest ground truth of its class (0 without a match).
    """

    image: np.ndarray
    truth: np.ndarray
    targets: np.ndarray
    defaults: np.ndarray
    levels: np.ndarray
    window: tuple
    flipped: bool
    distance: float


def preview(transform: TrainTransform, sample: Sample, img_id: int, level_sizes: List[int]) -> Preview:
    """Augment and encode a sample, and decode the result.

    Args:
        img_id: of the sample's row in the records (`record_ids`): it determines the random numbers.
        level_sizes: number of default boxes of each level.

    Raises:
        UserError: the image is missing or broken.
    """
    try:
        with open(sample.path, "rb") as handle:
            pixels = decode_rgb(handle.read())
    except (OSError, ValueError) as error:
        raise UserError(f"image {sample.path}: {getattr(error, 'strerror', None) or error}") from None
    boxes = clip_to_image(sample, pixels.shape[:2], 1, Issues())
    network_input, rows, loc, labels = transform(pixels, boxes, img_id)
    _, truth = transform.augment(pixels, boxes, img_id)
    window, flipped = transform.window(*pixels.shape[:2], boxes, img_id)
    height, width = network_input.shape[:2]
    scale = np.array([height, width, height, width], np.float64)
    cyxhw, yxyx = transform.matcher.default_cyxhw, transform.matcher.default_yxyx
    decoded = BoxCoder(transform.prior_scaling).decode(loc, cyxhw[rows]).astype(np.float64)
    targets = np.column_stack([decoded * scale, labels])
    truth = np.column_stack([truth[:, :4].astype(np.float64) * scale, truth[:, 4]])
    return Preview(
        network_input,
        truth,
        targets,
        yxyx[rows].astype(np.float64) * scale,
        np.searchsorted(np.cumsum(level_sizes), rows, side="right"),
        window,
        flipped,
        _largest_distance(targets, truth),
    )


def corner_differences(targets: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[K, M]: largest corner difference of each target [K, 5] from each ground truth [M, 5]; inf between classes."""
    distances = np.abs(targets[:, None, :4] - truth[None, :, :4]).max(-1)
    distances[targets[:, None, 4] != truth[None, :, 4]] = np.inf
    return distances


def _largest_distance(targets: np.ndarray, truth: np.ndarray) -> float:
    """The largest corner difference of any target from the nearest ground truth of its class."""
    if len(targets) == 0:
        return 0.0
    return float(corner_differences(targets, truth).min(1).max()) if len(truth) else float("inf")
