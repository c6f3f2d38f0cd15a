"""What the limits of detections in an image leave out."""

from __future__ import annotations

import numpy as np

from src.evaluation.scoring import MAX_DETECTIONS, Detections


def limits_line(found: Detections, images: int, max_boxes: int) -> str:
    """One line about the images in which a limit was reached, "" if there are none.

    Args:
        found: all detections.
        images: number of images.
        max_boxes: detections of a class that post-processing keeps in an image.
    """
    pairs, counts = np.unique(np.stack([found.image, found.category]), axis=1, return_counts=True)
    counted = MAX_DETECTIONS[-1]  # pycocotools' limit holds for each class
    reached, beyond = (len(np.unique(pairs[0, counts >= least])) for least in (max_boxes, counted + 1))
    parts = []
    if reached:
        parts.append(f"max_boxes keeps {max_boxes} detections of a class, which {reached} of {images} images have")
    if beyond:
        parts.append(f"COCO's metrics count {counted} of a class in an image: {beyond} of {images} images have more")
    return "; ".join(parts)
