"""Paired comparison of two evaluations of the same images: differences of the metrics with 95 % intervals, and the
images that changed most."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from src.evaluation.bootstrap import LEVEL, RESAMPLES, SEED, Samples, draw_weights, interval, resampled_metrics
from src.evaluation.ground_truth import GroundTruth
from src.evaluation.score_thresholds import judged, score_thresholds
from src.evaluation.scoring import Detections, Matching, match

MANY_CLASSES = 10  # from here on some of the classes are expected outside their interval by chance


class ImageCounts(NamedTuple):
    """What an evaluation shows at its score threshold: matched ground truth [I] and false positives [I] of each image
    at IoU 0.5. The threshold is None, and nothing is shown, if no detection is right."""

    threshold: Optional[float]
    matched: np.ndarray
    false: np.ndarray

    @property
    def value(self) -> np.ndarray:
        """int [I]: matched ground truth minus false positives."""
        return self.matched - self.false


def compare(truth: GroundTruth, first: Detections, second: Detections, weights: Optional[np.ndarray] = None) -> dict:
    """Differences second - first, all areas and 100 detections.

    Args:
        weights: [N, I], how often each image is drawn in each resample; None for those of `eval.py`.

    Returns:
        Plain Python values: {"images", "level", "resamples", "seed", "mAP": row, "AP50": row, "classes": {name: {"AP":
        row, "AP50": row}}, "score_thresholds": [first, second], "changed": rows of `changed_images`}, where a row is
        {"first", "second", "difference", "interval": [low, high], "beyond_chance"}. Classes without ground truth are
        left out. Without two images there are no intervals (None).
    """
    count = len(truth.image_ids)
    if weights is None:
        weights = draw_weights(count) if count > 1 else np.ones((0, count), np.uint8)
    # the first row is the set itself
    rows = np.concatenate([np.ones((1, count), np.uint8), weights])
    matchings = [match(truth.truth, found, len(truth.category_ids)) for found in (first, second)]
    samples = [resampled_metrics(matching, rows) for matching in matchings]
    classes = {}
    for name, category_id in truth.category_of.items():
        index = truth.category(category_id)
        if truth.boxes[index]:
            pairs = {"AP": _column(samples, "category", index), "AP50": _column(samples, "category50", index)}
            classes[name] = {key: _row(*pair) for key, pair in pairs.items()}
    counts = [image_counts(matching, count) for matching in matchings]
    return {
        "images": count,
        "level": LEVEL,
        "resamples": len(weights),
        "seed": SEED if len(weights) == RESAMPLES else None,
        "mAP": _row(samples[0].map, samples[1].map),
        "AP50": _row(samples[0].map50, samples[1].map50),
        "classes": classes,
        "score_thresholds": [side.threshold for side in counts],
        "changed": changed_images(truth.image_ids, *counts),
    }


def _column(samples: Sequence[Samples], name: str, index: int) -> list:
    return [getattr(side, name)[:, index] for side in samples]


def _row(first: np.ndarray, second: np.ndarray) -> dict:
    difference = second - first
    limits = interval(difference[1:])
    return {
        "first": float(first[0]),
        "second": float(second[0]),
        "difference": float(difference[0]),
        "interval": None if limits is None else list(limits),
        "beyond_chance": limits is not None and (limits[0] > 0 or limits[1] < 0),
    }


def image_counts(matching: Matching, images: int) -> ImageCounts:
    """Matched ground truth and false positives of each image at the score with the best F1 over all classes.

    Detections that match a crowd count as neither.
    """
    scores = matching.scores
    best = score_thresholds(matching, [""] * matching.categories, float(scores.min(initial=1)))
    if not best:
        return ImageCounts(None, np.zeros(images, np.int64), np.zeros(images, np.int64))
    threshold = best["overall"]["threshold"]
    right, counted = judged(matching)
    shown = scores >= threshold
    sums = (np.bincount(matching.image[shown & kind], minlength=images) for kind in (right, counted & ~right))
    return ImageCounts(threshold, *sums)


def changed_images(image_ids: list, first: ImageCounts, second: ImageCounts) -> List[Dict[str, object]]:
    """The images whose value (matched ground truth minus false positives) differs, the largest change first.

    Returns:
        Rows {"image_id", "change", "matched": [first, second], "false": [first, second]}.
    """
    change = second.value - first.value
    order = np.argsort(-np.abs(change), kind="stable")
    columns = np.stack([change, first.matched, second.matched, first.false, second.false], 1)
    return [
        {"image_id": image_ids[place], "change": row[0], "matched": row[1:3], "false": row[3:]}
        for place, row in zip(order.tolist(), columns[order].tolist())
        if row[0]
    ]


def comparison_table(result: dict) -> str:
    """The differences as lines of text: mAP, AP50 and AP of each class."""
    rows = [("mAP", result["mAP"]), ("AP50", result["AP50"])]
    rows += [(name, values["AP"]) for name, values in result["classes"].items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}{'A':>10}{'B':>10}{'B - A':>11}   95 % interval of B - A"]
    for number, (name, row) in enumerate(rows):
        if number == 2:
            lines.append("AP of classes:")
        limits = "-" if row["interval"] is None else "[{:+.4f}, {:+.4f}]".format(*row["interval"])
        mark = "   beyond chance" if row["beyond_chance"] else ""
        values = f"{row['first']:>10.4f}{row['second']:>10.4f}{row['difference']:>+11.4f}"
        lines.append(f"{name:{width}}{values}   {limits}{mark}")
    return "\n".join(lines)


def verdict(result: dict) -> str:
    """One sentence: which differences are beyond chance."""
    if result["mAP"]["interval"] is None:
        return "no intervals: they need at least two images and some ground truth"
    rows = {"mAP": result["mAP"], "AP50": result["AP50"]}
    rows.update({f"AP of {name}": values["AP"] for name, values in result["classes"].items()})
    beyond = {name: row for name, row in rows.items() if row["beyond_chance"]}
    if not beyond:
        return "no difference is beyond chance: every 95 % interval contains 0"
    parts = []
    for word, is_higher in (("higher", True), ("lower", False)):
        named = [name for name, row in beyond.items() if (row["interval"][0] > 0) == is_higher]
        if named:
            parts.append(f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} {word} in B")
    sentence = "beyond chance: " + "; ".join(parts)
    if len(result["classes"]) >= MANY_CLASSES:
        by_chance = len(result["classes"]) * (1 - LEVEL)
        sentence += f" (of {len(result['classes'])} classes, {by_chance:.0f} would be listed by chance alone)"
    return sentence
