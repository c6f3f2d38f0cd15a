"""Images of rare classes several times in an epoch (Gupta et al. 2019, LVIS, arXiv:1908.03195); docs/reference.md,
"Training options"."""

from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np

# fractions are multiples of this, so that their sum does not depend on the order
_UNIT = 2.0**-20


def repeat_factors(labels: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """How often each image occurs in an epoch on average, float64 [n], at least 1.

    A class that occurs in a share f of the images has the factor max(1, sqrt(threshold / f)), and an image the largest
    factor of its classes.

    Args:
        labels: the labels of each image's boxes; label 0 is no class.
    """
    classes = [np.unique(of_image[of_image > 0]) for of_image in labels]
    images_with = np.bincount(np.concatenate(classes).astype(np.int64)) if classes else np.zeros(0)
    with np.errstate(divide="ignore"):  # a class without images is not looked up
        of_class = np.maximum(1, np.sqrt(threshold * len(labels) / images_with))
    factors = np.array([of_class[of_image].max(initial=1) for of_image in classes])
    return np.round(factors / _UNIT) * _UNIT


def epoch_length(factors: np.ndarray) -> int:
    """The number of images that every epoch has at least; `draw_epoch` gives this number or one more."""
    return int(np.floor(factors.sum()))


def draw_epoch(factors: np.ndarray, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """(image, number of its copy) of each sample of an epoch in random order; copies are numbered from 0.

    An image occurs its factor rounded down or up, on average its factor: systematic sampling, with one random offset
    along the images in random order. So all epochs have the same length, which independent draws would not give.
    """
    copies = np.floor(factors).astype(np.int64)
    order = rng.permutation(len(factors))
    ends = np.floor(np.cumsum((factors - copies)[order]) + rng.random())
    copies[order] += np.diff(ends, prepend=0).astype(np.int64)
    images = np.repeat(np.arange(len(factors)), copies)
    numbers = np.arange(len(images)) - np.repeat(np.cumsum(copies) - copies, copies)
    shuffled = rng.permutation(len(images))
    return images[shuffled], numbers[shuffled]
