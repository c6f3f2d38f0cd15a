"""Draw docs/architecture.svg: python3 docs/images/architecture.py (needs nothing but Python)."""

from __future__ import annotations

import os
from typing import Tuple

OUTPUT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "architecture.svg")
BLUE, GREEN, ORANGE, GREY = "#e3eefc", "#e7f5e9", "#fdf0e2", "#f4f4f4"
HEIGHT = 74
# name -> left, top, width, colour, title, lines
BOXES = {
    "annotations": (20, 44, 170, GREY, "annotations", ("COCO, VOC, list, YOLO,", "LabelMe, CVAT, Label Studio")),
    "readers": (250, 44, 180, BLUE, "readers", ("data/readers/: one file", "for each format")),
    "writer": (510, 44, 180, BLUE, "conversion", ("data/records/writer.py:", "decode, check, write")),
    "records": (770, 44, 180, GREY, "MindRecord", ("8 files, manifest", "data/records/prepare.py")),
    "pipeline": (
        740,
        196,
        240,
        BLUE,
        "pipeline",
        ("data/pipeline.py, windows.py,", "transforms.py; boxes/matcher.py"),
    ),
    "step": (480, 196, 170, GREEN, "training step", ("models/ (five networks),", "loss.py, training/step.py")),
    "loop": (250, 196, 160, GREEN, "trainer", ("training/trainer.py: log,", "history, curves")),
    "checkpoints": (20, 196, 160, GREY, "checkpoints", ("atomic, checksum,", "exact resume")),
    "export": (20, 356, 170, ORANGE, "export", ("inference/exporter.py:", "loaded again, compared")),
    "detector": (
        290,
        356,
        240,
        ORANGE,
        "Detector",
        ("inference/detector.py, tiled.py,", "open_model.py; boxes/postprocess.py"),
    ),
    "evaluator": (
        640,
        356,
        220,
        ORANGE,
        "evaluator",
        ("evaluation/evaluate.py, scoring.py,", "coco_evaluator.py: both protocols"),
    ),
    "report": (970, 356, 190, GREY, "report", ("report.html, json, csv,", "predictions.json")),
    "predictor": (300, 494, 220, ORANGE, "Predictor", ("inference/predictor.py,", "scripts/predict.py")),
    "pictures": (640, 494, 220, GREY, "pictures, videos", ("with boxes drawn; detections.json,", "label files")),
}
# points of a line, label, place of the label, its anchor
ARROWS = (
    ("190,81 250,81", (), None, ""),
    ("430,81 510,81", ("Sample:", "yxyx pixels"), (470, 58), "middle"),
    ("690,81 770,81", ("bytes,", "int32 boxes"), (730, 58), "middle"),
    ("860,118 860,196", ("rows by id",), (852, 161), "end"),
    ("740,233 650,233", ("uint8 images,", "matches"), (695, 210), "middle"),
    ("480,233 410,233", ("loss",), (445, 225), "middle"),
    ("250,233 180,233", ("state",), (215, 225), "middle"),
    ("80,270 80,356", ("weights",), (88, 316), "start"),
    ("150,270 150,310 340,310 340,356", ("weights",), (245, 304), "middle"),
    ("190,393 290,393", (".mindir, .onnx",), (240, 385), "middle"),
    ("860,270 860,310 450,310 450,356", ("evaluation images, without augmentation",), (655, 304), "middle"),
    ("530,393 640,393", ("boxes px,", "labels, scores"), (585, 370), "middle"),
    ("860,393 970,393", ("12 metrics,", "per class"), (915, 370), "middle"),
    ("950,95 1090,95 1090,334 750,334 750,356", ("annotation file:", "ground truth"), (1082, 160), "end"),
    ("950,67 1135,67 1135,356", ("images",), (1127, 61), "end"),
    ("410,430 410,494", ("detections",), (418, 467), "start"),
    ("520,531 640,531", (), None, ""),
)


def text(x: float, y: float, words: str, anchor: str = "middle", style: str = 'font-size="12" fill="#333"') -> str:
    """An SVG text."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" {style}>{words}</text>'


def box(left: int, top: int, width: int, colour: str, title: str, lines: Tuple[str, ...]) -> str:
    """A box with a title and two lines."""
    parts = [
        f'<rect x="{left}" y="{top}" width="{width}" height="{HEIGHT}" rx="8" fill="{colour}" stroke="#888"/>',
        text(left + width / 2, top + 22, title, style='font-weight="bold"'),
    ]
    return "\n".join(parts + [text(left + width / 2, top + 42 + 17 * n, line) for n, line in enumerate(lines)])


def arrow(points: str, label: Tuple[str, ...], place, anchor: str) -> str:
    """A line with a head at its end, and its label."""
    line = f'<polyline points="{points}" fill="none" stroke="#555" stroke-width="1.6" marker-end="url(#a)"/>'
    style = 'font-size="11.5" fill="#666"'
    return "\n".join(
        [line] + [text(place[0], place[1] + 15 * n, words, anchor, style) for n, words in enumerate(label)]
    )


def drawing() -> str:
    """The SVG file as text."""
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1180 610" font-family="Helvetica,Arial,sans-serif" '
        'font-size="14">\n<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L10 5L0 10z" fill="#555"/></marker></defs>\n'
        '<rect width="1180" height="610" fill="#fff"/>'
    )
    legend = (
        "blue: src/data; green: src/models, src/loss.py, src/training; orange: src/inference, src/evaluation; "
        "grey: files"
    )
    below = (
        "Matching and NMS are in src/boxes. src/utils/output.py writes files atomically; src/utils/locks.py locks "
        "folders and records in use. scripts/start.py (src/start) runs all of it on a folder."
    )
    parts = [head, text(20, 24, legend, "start", 'font-size="13" fill="#666"')]
    parts += [box(*values) for values in BOXES.values()] + [arrow(*values) for values in ARROWS]
    return "\n".join([*parts, text(20, 595, below, "start", 'font-size="13" fill="#666"'), "</svg>\n"])


if __name__ == "__main__":
    with open(OUTPUT, "w", encoding="utf-8") as handle:
        handle.write(drawing())
