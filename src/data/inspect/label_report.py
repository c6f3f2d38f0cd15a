"""Label statistics as JSON and as an offline HTML page: boxes as annotated, and as training sees them."""

from __future__ import annotations

import base64
import html
import io
from typing import List, Sequence

import numpy as np

from src.boxes.default_boxes import build_default_boxes
from src.data.inspect.sample_preview import Preview, corner_differences
from src.data.inspect.statistics import QUANTILES, best_iou, class_rows, normalized_boxes, shape_figures
from src.data.sample import Sample

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2em .9em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}.bar{background:#3b7dd8;height:.7em;display:block}"
)

_EDGES = np.geomspace(2, 1448, 39)
_COUNT_QUANTILES = (0, 25, 50, 75, 95, 100)


def label_figures(samples: Sequence[Sample], seen: Sequence[Preview], cfg) -> dict:
    """Statistics of all samples as annotated, and of those `seen` after augmentation, as plain JSON.

    Sizes are square roots of areas in pixels of the network's input. An image whose annotation gives no size (list
    files) is only counted after augmentation.
    """
    sized = [sample for sample in samples if sample.width and sample.height]
    boxes = normalized_boxes(sized)
    counts = [len(sample.boxes) for sample in sized]
    images = np.repeat(np.arange(len(sized)), counts)
    shape = np.array([*cfg.img_shape, *cfg.img_shape, 1], np.float64)
    augmented = np.concatenate([sample.truth for sample in seen]) if seen else np.zeros((0, 5))
    matches = _matches_per_box(seen)
    levels = np.concatenate([sample.levels for sample in seen]) if seen else np.zeros(0, int)
    return {
        "images": len(samples),
        "images_with_a_size": len(sized),
        "boxes": int(sum(len(sample.boxes) for sample in samples)),
        "boxes_an_image": _quantiles([len(sample.boxes) for sample in samples]),
        "classes": class_rows(boxes, images, best_iou(boxes[:, :4], cfg) <= cfg.match_threshold, cfg.classes),
        "annotated": shape_figures(boxes, cfg.img_shape),
        "augmented": dict(
            shape_figures(augmented / shape, cfg.img_shape),
            samples=len(seen),
            boxes=len(augmented),
            matched_default_boxes=int(len(levels)),
            default_boxes_a_box=_quantiles(matches),
            by_stride={str(s): int(n) for s, n in zip(cfg.steps, np.bincount(levels, minlength=len(cfg.steps)))},
        ),
        "histograms": {
            "annotated_size": _sizes(boxes, cfg.img_shape),
            "augmented_size": _sizes(augmented / shape, cfg.img_shape),
        },
    }


def _matches_per_box(seen: Sequence[Preview]) -> List[int]:
    """Number of default boxes matched to each ground truth: each counts for the nearest one of its class."""
    numbers = []
    for sample in seen:
        if len(sample.truth):
            nearest = (
                corner_differences(sample.targets, sample.truth).argmin(1) if len(sample.targets) else np.zeros(0, int)
            )
            numbers += np.bincount(nearest, minlength=len(sample.truth)).tolist()
    return numbers


def _quantiles(values) -> dict:
    return {f"{q}%": float(np.percentile(values, q)) for q in _COUNT_QUANTILES} if len(values) else {}


def _sizes(boxes: np.ndarray, img_shape) -> List[int]:
    high, wide = (boxes[:, 2] - boxes[:, 0]) * img_shape[0], (boxes[:, 3] - boxes[:, 1]) * img_shape[1]
    return np.histogram(np.sqrt(high * wide), _EDGES)[0].tolist()


def _chart(statistics: dict, cfg) -> str:
    """Sizes of boxes before and after augmentation, and of the default boxes, as an embedded PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=110)
    axes = figure.add_subplot()
    middles = np.sqrt(_EDGES[1:] * _EDGES[:-1])
    for key, name, colour in (
        ("annotated_size", "as annotated", "#888888"),
        ("augmented_size", "after augmentation", "#3b7dd8"),
    ):
        values = np.array(statistics["histograms"][key], float)
        if values.sum():
            axes.plot(middles, values / values.sum(), label=name, color=colour, drawstyle="steps-mid")
    sizes = build_default_boxes(cfg)[0][:, 2:] * np.array(cfg.img_shape)
    for number, size in enumerate(np.unique(np.round(np.sqrt(sizes.prod(1)), 1))):
        axes.axvline(size, color="#d8743b", lw=0.8, alpha=0.7, label="default boxes" if number == 0 else None)
    axes.set_xscale("log")
    ticks = [2**power for power in range(2, 11)]
    axes.set_xticks(ticks)
    axes.set_xticklabels([str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("size of a box, pixels of the network's input (square root of the area)")
    axes.set_ylabel("share of boxes")
    axes.legend(frameon=False)
    figure.tight_layout()
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return base64.b64encode(data.getvalue()).decode()


def label_report(statistics: dict, cfg) -> str:
    """The statistics as one HTML page."""
    augmented = statistics["augmented"]
    most = max([row["boxes"] for row in statistics["classes"]] + [1])
    rows = "".join(
        f"<tr><td>{html.escape(row['name'])}</td><td>{row['boxes']}</td><td>{row['images']}</td>"
        f"<td>{'-' if row['uncovered'] is None else format(100 * row['uncovered'], '.1f')}</td>"
        f"<td style='min-width:14em'><span class='bar' style='width:{100 * row['boxes'] / most:.1f}%'></span></td></tr>"
        for row in statistics["classes"]
    )
    strides = "".join(f"<tr><td>{s}</td><td>{n}</td></tr>" for s, n in augmented["by_stride"].items())
    quantiles = [
        ("boxes per image", statistics["boxes_an_image"]),
        ("matched default boxes per box", augmented["default_boxes_a_box"]),
    ]
    spread = "".join(
        f"<tr><td>{name}</td>" + "".join(f"<td>{value:g}</td>" for value in values.values()) + "</tr>"
        for name, values in quantiles
    )
    shapes = "".join(
        f"<tr><td>{title} {name}</td>" + "".join(f"<td>{value:.2f}</td>" for value in part[key].values()) + "</tr>"
        for name, part in (("as annotated", statistics["annotated"]), ("after augmentation", augmented))
        for title, key in (("size", "size"), ("width / height", "aspect"))
        if part[key]
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>Label statistics</title><style>{_STYLE}</style>
<h1>Label statistics</h1>
<p>{statistics["images"]} images with {statistics["boxes"]} boxes, input {cfg.img_shape[0]} x {cfg.img_shape[1]}.
Figures after augmentation come from {augmented["samples"]} samples with {augmented["boxes"]} boxes and
{augmented["matched_default_boxes"]} matched default boxes.</p>
<h2>Classes</h2><table>{_head("class", "boxes", "images", "uncovered %", "")}{rows}</table>
<p>Uncovered: no default box overlaps with an IoU above {cfg.match_threshold}; such a box is trained
through its single best default box only.</p>
<h2>Sizes</h2><img alt="sizes of boxes and default boxes" src="data:image/png;base64,{_chart(statistics, cfg)}">
<table>{_head("", *(f"{q} %" for q in QUANTILES))}{shapes}</table>
<h2>Matching</h2><table>{_head("", *(f"{q} %" for q in _COUNT_QUANTILES))}{spread}</table>
<table>{_head("stride", "matched default boxes")}{strides}</table></html>
"""


def _head(*titles: str) -> str:
    return "<tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>"
