"""From the record to the network: image and boxes; docs/reference.md, "Training pipeline" and "Matching".

Boxes are [M, 5] rows y1, x1, y2, x2, label; the random stream is always an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import List, Optional, Sequence, Tuple

import cv2
import numpy as np

from src.boxes.coder import BoxCoder
from src.boxes.matcher import Matcher
from src.boxes.ops import yxyx_to_cyxhw
from src.data.windows import MEAN, draw_crop, draw_window, view

STD = np.array([0.229, 0.224, 0.225], np.float32) * 255
JITTER = 0.4
_GREY = np.array([0.299, 0.587, 0.114])  # of RGB, ITU-R BT.601


def encode_targets(
    gt: np.ndarray,
    default_cyxhw: np.ndarray,
    default_yxyx: np.ndarray,
    match_threshold: float,
    prior_scaling: Sequence[float],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Training targets of one image; docs/reference.md, "Matching" and "Encoding".

    Args:
        gt: [M, 5] normalised y1, x1, y2, x2, label; M may be 0.
        default_cyxhw, default_yxyx: the default boxes [N, 4] in both forms.
        match_threshold: IoU above which a default box takes a ground truth; prior_scaling: (centre, size).

    Returns:
        loc float32 [N, 4] (zero where label is 0), label int32 [N] (0 = background), num_match (labels > 0).
    """
    as_bytes = (np.asarray(boxes, np.float32).tobytes() for boxes in (default_cyxhw, default_yxyx))
    ((boxes, of_boxes, labels),) = encode_matches([gt], _matcher(*as_bytes, float(match_threshold)), prior_scaling)
    loc, label = np.zeros((len(default_cyxhw), 4), np.float32), np.zeros(len(default_cyxhw), np.int32)
    loc[boxes], label[boxes] = of_boxes, labels
    return loc, label, len(boxes)


@lru_cache(maxsize=4)
def _matcher(cyxhw: bytes, yxyx: bytes, threshold: float) -> Matcher:
    """The `Matcher` of default boxes given as the bytes of their float32 arrays: by their contents, because a caller of
    `encode_targets` may change the arrays. Building one takes half a second, hashing the bytes less than 1 ms."""
    return Matcher(*(np.frombuffer(part, np.float32).reshape(-1, 4) for part in (cyxhw, yxyx)), threshold)


def encode_matches(gts: Sequence[np.ndarray], matcher: Matcher, prior_scaling: Sequence[float]) -> List[tuple]:
    """`encode_targets` of the images of a batch, only the default boxes whose label is above 0: for each image (their
    numbers [K], ascending; loc [K, 4]; label int32 [K]). All images at once: most of the time goes into NumPy's calls.
    """
    of_images = [np.asarray(of_image, np.float32).reshape(-1, 5) for of_image in gts]
    gt, image = np.concatenate(of_images), np.repeat(np.arange(len(gts)), [len(of_image) for of_image in of_images])
    boxes, rows = matcher(gt[:, :4], image)
    labels = gt[:, 4].take(rows).astype(np.int32)
    # a ground truth of label 0 holds its default boxes against others but is trained as background
    positive = np.flatnonzero(labels > 0)
    boxes, rows = boxes.take(positive), rows.take(positive)
    gt_cyxhw = yxyx_to_cyxhw(gt[:, :4]).take(rows, axis=0)
    loc = BoxCoder(prior_scaling).encode(gt_cyxhw, matcher.default_cyxhw.take(boxes, axis=0))
    parts = boxes, loc.astype(np.float32, copy=False), labels.take(positive)
    ends = np.searchsorted(image.take(rows), np.arange(1, len(gts) + 1)).tolist()
    return [tuple(part[start:end] for part in parts) for start, end in zip([0, *ends], ends)]


def random_crop(image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random crop that keeps some box's centre (SSD, section 2.2); docs/reference.md, "Training pipeline".

    Args:
        image: [H, W, 3].
        boxes: [M, 5] in pixels as MindRecord holds them.
        rng: the sample's own random stream.

    Returns:
        The crop, and the boxes whose centre lies in it: clipped, relative to the crop, same dtype. The
        image as it was when "no minimum" is drawn, after 50 rejected trials, or without boxes.
    """
    (top, left, bottom, right), kept = draw_crop(*image.shape[:2], boxes, rng)
    return image[top:bottom, left:right], kept


def resize(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Bilinear resize of [H, W, 3] to `shape` = (height, width)."""
    return cv2.resize(image, (int(shape[1]), int(shape[0])), interpolation=cv2.INTER_LINEAR)


def normalize_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """[M, 5] in pixels of an image -> float32 [M, 5] normalised."""
    return (boxes / np.array([height, width, height, width, 1], np.float64)).astype(np.float32).reshape(-1, 5)


def horizontal_flip(image: np.ndarray, boxes_norm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror [H, W, 3] and normalised boxes [M, 5] left to right; twice is the identity."""
    mirrored = boxes_norm.copy()
    mirrored[:, 1], mirrored[:, 3] = 1 - boxes_norm[:, 3], 1 - boxes_norm[:, 1]
    return cv2.flip(image, 1), mirrored


def color_jitter(image: np.ndarray, rng: np.random.Generator, out: Optional[np.ndarray] = None) -> np.ndarray:
    """Brightness, contrast and saturation in this order, each by a factor in [0.6, 1.4]; uint8 RGB in and out (or into
    `out`).

    In 8-bit steps by OpenCV, 25 times as fast as in floats: a value may lie 2 from the exact one, 0.4 on average.
    """
    brightness, contrast, saturation = rng.uniform(1 - JITTER, 1 + JITTER, 3).tolist()
    bright = cv2.convertScaleAbs(image, dst=out, alpha=brightness) if brightness > 1 else image
    mean = cv2.mean(cv2.cvtColor(bright, cv2.COLOR_RGB2GRAY))[0] * min(brightness, 1.0)
    # contrast around the grey mean; brightness goes along where it cannot saturate
    out = cv2.addWeighted(bright, contrast * min(brightness, 1.0), bright, 0, mean * (1 - contrast), dst=out)
    return cv2.transform(out, saturation * np.eye(3) + (1 - saturation) * _GREY, dst=out)


def normalize_image(image: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> normalised float32 [3, H, W]; in a run the
    network does it (`models.layers.NormalizePixels`)."""
    return np.ascontiguousarray(((image.astype(np.float32) - MEAN) / STD).transpose(2, 0, 1))


@dataclass(frozen=True)
class Augmentation:
    """The random changes of an image that have a key, with the published values as defaults; docs/reference.md,
    "Training options"."""

    crop_probability: float = 1.0
    grey_probability: float = 0.0
    zoom_out: float = 1.0
    scale_jitter: Tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, cfg) -> Augmentation:
        """That of a configuration."""
        return cls(cfg.crop_probability, cfg.grey_probability, cfg.zoom_out, tuple(cfg.scale_jitter))


class TrainTransform:
    """The training pipeline of one sample. The stream comes from (seed, epoch, image id) and, for an image that occurs
    again in an epoch, the number of its copy, never from the worker.

    Call: RGB image [H, W, 3], boxes [M, 5] in pixels, image id -> image uint8 RGB [h, w, 3], and `encode_matches` of
    its boxes. Images are augmented one by one, and a batch is matched at once.
    """

    def __init__(
        self,
        shape: Sequence[int],
        matcher: Matcher,
        prior_scaling: Sequence[float],
        seed: int,
        epoch: int,
        augmentation: Augmentation = Augmentation(),
    ):
        self.shape, self.matcher, self.prior_scaling = tuple(shape), matcher, prior_scaling
        self.seed, self.epoch, self.augmentation = seed, epoch, augmentation

    def _stream(self, image_id: int, copy: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, image_id & 0xFFFFFFFF, *([copy] if copy else [])])

    def augment(
        self, image: np.ndarray, boxes: np.ndarray, image_id: int, out: Optional[np.ndarray] = None, copy: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 image [h, w, 3] of the network's size (in `out` where it is given), its normalised boxes [M, 5]."""
        rng = self._stream(image_id, copy)
        (top, left, bottom, right), boxes = draw_window(*image.shape[:2], boxes, self.augmentation, rng)
        boxes_norm = normalize_boxes(boxes, bottom - top, right - left)
        image = view(image, (top, left, bottom, right), self.shape)
        if rng.random() < 0.5:  # the crop has fewer pixels than what it is resized to; the result is the same
            image, boxes_norm = horizontal_flip(image, boxes_norm)
        image = resize(image, self.shape)
        image = color_jitter(image, rng, out)
        if self.augmentation.grey_probability > 0 and rng.random() < self.augmentation.grey_probability:
            image = cv2.transform(image, np.tile(_GREY, (3, 1)), dst=image)
        return image, boxes_norm

    def window(self, height: int, width: int, boxes: np.ndarray, image_id: int) -> tuple:
        """What `augment` shows of an image of this size: ((top, left, bottom, right), flipped or not)."""
        rng = self._stream(image_id)
        window, _ = draw_window(height, width, boxes, self.augmentation, rng)
        return window, bool(rng.random() < 0.5)

    def match(self, boxes_norm: Sequence[np.ndarray]) -> List[tuple]:
        """`encode_matches` of the images' normalised boxes."""
        return encode_matches(boxes_norm, self.matcher, self.prior_scaling)

    def __call__(self, image: np.ndarray, boxes: np.ndarray, image_id: int) -> tuple[np.ndarray, ...]:
        image, boxes_norm = self.augment(image, boxes, image_id)
        return (image, *self.match([boxes_norm])[0])
