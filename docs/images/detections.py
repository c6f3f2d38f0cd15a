"""Put drawings side by side: python3 docs/images/detections.py OUTPUT.jpg DRAWING.png ..."""

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(os.path.dirname(HERE)))

import cv2  # noqa: E402

from src.utils.drawing import sheet  # noqa: E402


def main(output: str, *drawings: str) -> None:
    """Write a picture of three columns, 960 pixels wide."""
    page = sheet([cv2.imread(path) for path in drawings], columns=3)
    scale = 960 / page.shape[1]
    small = cv2.resize(page, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cv2.imwrite(output, small, [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main(*sys.argv[1:])
