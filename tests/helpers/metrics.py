"""Metrics computed by pycocotools."""

from __future__ import annotations

import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def pycocotools_stats(annotation_file, predictions, image_ids=None, categories=None):
    """The 12 COCO metrics of a file of detections."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotation_file)
        run = COCOeval(truth, truth.loadRes(predictions), "bbox")
        if image_ids is not None:
            run.params.imgIds = image_ids
        if categories is not None:
            run.params.catIds = categories
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats
