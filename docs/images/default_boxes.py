"""Draw docs/images/default_boxes.svg: python3 docs/images/default_boxes.py (from the root of the repository)."""

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(os.path.dirname(HERE)))

from src.boxes.default_boxes import default_boxes  # noqa: E402

SIZE, STEPS = 640, (8, 16, 32, 64, 128)
COLOURS = {"ratio 1": "#1f77b4", "ratio 2": "#d62728", "ratio 0.5": "#2ca02c"}
GREY, DARK = "#c8c8c8", "#333333"
STYLE = 'font-family="Helvetica, Arial, sans-serif" font-size="15"'


def rectangle(box_px, scale: float, left: float, top: float, colour: str, dashed: bool = False) -> str:
    """An SVG rectangle of a box y1, x1, y2, x2 in pixels of the network's input."""
    y1, x1, y2, x2 = (float(value) * scale for value in box_px)
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<rect x="{left + x1:.1f}" y="{top + y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="none" '
        f'stroke="{colour}" stroke-width="2"{dash}/>'
    )


def text(x: float, y: float, words: str, colour: str = DARK, anchor: str = "start") -> str:
    """An SVG text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" {STYLE}>{words}</text>'


def grid(cells: int, side: float, left: float, top: float) -> list:
    """Grid lines over a square."""
    lines = []
    for number in range(cells + 1):
        at = number * side / cells
        lines.append(f'<path d="M{left + at:.1f} {top:.1f}v{side:.1f}M{left:.1f} {top + at:.1f}h{side:.1f}" />')
    return [f'<g stroke="{GREY}" stroke-width="1">', *lines, "</g>"]


def drawing() -> str:
    """The SVG file as text."""
    boxes = default_boxes((SIZE, SIZE))[1] * SIZE
    scale, side, left, top = 0.5, 320.0, 40.0, 70.0
    parts = [text(left, 30, "one box of each level (ratio 1, scale 1)"), *grid(10, side, left, top)]
    first = 0
    for step, row, column in zip(STEPS, (70, 5, 13, 2, 3), (6, 6, 13, 7, 1)):
        cells = SIZE // step
        box = boxes[first + 6 * (row * cells + column)]
        parts.append(rectangle(box, scale, left, top, DARK))
        parts.append(text(left + box[3] * scale + 4, top + box[0] * scale + 12, f"{4 * step}"))
        first += 6 * cells * cells
    parts.append(f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#000" />')
    parts.append(text(left, top + side + 75, f"input {SIZE} x {SIZE}, grid of stride 64; sides in pixels"))

    # level P6, the cell in row 4 and column 4
    left, scale = 460.0, 0.72
    parts.append(text(left, 30, "the six boxes of one cell, level P6 (stride 64)"))
    centre = 4.5 * 64
    shift_left, shift_top = left + 190 - centre * scale, 230 - centre * scale
    start = 38400 + 9600 + 2400 + 6 * (4 * 10 + 4)
    cell = (centre - 32, centre - 32, centre + 32, centre + 32)
    parts.append(rectangle(cell, scale, shift_left, shift_top, GREY))
    parts.append(text(left + 190, 235, "cell", DARK, "middle"))
    sizes = []
    for k, box in enumerate(boxes[start : start + 6]):
        name = list(COLOURS)[k // 2]
        parts.append(rectangle(box, scale, shift_left, shift_top, COLOURS[name], dashed=k % 2 == 1))
        height, width = box[2] - box[0], box[3] - box[1]
        sizes.append((k, name, ("1", "sqrt 2")[k % 2], f"{height:.0f} x {width:.0f}"))
    left += 400
    parts.append(text(left, 130, "k: ratio, scale, height x width"))
    for row, (k, name, octave, size) in enumerate(sizes):
        parts.append(text(left, 158 + 24 * row, f"{k}: {name}, scale {octave}, {size}", COLOURS[name]))
    parts.append(text(left, 158 + 24 * 6 + 8, "dashed: scale sqrt 2"))
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="1130" height="480" viewBox="0 0 1130 480">'
    return "\n".join([head, '<rect width="1130" height="480" fill="#ffffff"/>', *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    with open(os.path.join(HERE, "default_boxes.svg"), "w", encoding="utf-8") as handle:
        handle.write(drawing())
