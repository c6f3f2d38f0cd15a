"""Detection on pictures that are cut into tiles; docs/reference.md, "Tiles".

What the network finds in the tiles of a picture is moved to the picture's pixels and put together before NMS, so one
NMS per class sees the complete picture, and an object that several tiles show is one detection.
"""

from __future__ import annotations

from typing import Iterator, List, Sequence, Tuple

import numpy as np

from src.inference.detector import Detections, Detector


class TileQueue:
    """Pictures -> their detections in order; tiles of several pictures share a call of the network.

    Args:
        detector: without NMS inside; its description says how pictures are cut.
    """

    def __init__(self, detector: Detector):
        self._detector, self._tiling = detector, detector.description.tiling
        self._tiles: List[np.ndarray] = []  # that wait for a full batch
        self._pictures: List[_Picture] = []  # without all of their candidates, the oldest first

    def add(self, key: object, tiles: np.ndarray, shape: Sequence[int]) -> Iterator[Tuple[object, Detections]]:
        """Add a picture, and yield (key, detections) of each that is complete.

        Args:
            key: returned with the detections.
            tiles: `src.data.tiles.network_tiles` of it.
            shape: its (height, width).
        """
        self._pictures.append(_Picture(key, self._tiling.windows(*(int(side) for side in shape))))
        self._tiles += list(tiles)
        size = self._detector.description.batch_size
        yield from self._run(len(self._tiles) // size * size)

    def finish(self) -> Iterator[Tuple[object, Detections]]:
        """The pictures that are left."""
        yield from self._run(len(self._tiles))

    def _run(self, count: int) -> Iterator[Tuple[object, Detections]]:
        """Run the first tiles that wait."""
        if not count:
            return
        tiles, self._tiles = np.stack(self._tiles[:count]), self._tiles[count:]
        for candidates in self._detector.candidates(tiles):
            picture = self._pictures[0]
            picture.add(*candidates)
            if picture.is_complete():
                yield self._pictures.pop(0).key, picture.detections(self._detector)


class _Picture:
    """What was found in the tiles of a picture so far."""

    def __init__(self, key: object, windows: np.ndarray):
        self.key, self._windows = key, windows.astype(np.float64)
        self._found: List[tuple] = []

    def add(self, boxes: np.ndarray, scores: np.ndarray) -> None:
        """The candidates of the next tile: boxes [K, 4] in [0, 1] of it, scores [K, C]."""
        top, left, bottom, right = self._windows[len(self._found)].tolist()
        # scaled as for a picture of the tile's size, so that moving them is all that differs
        sides, corner = np.array([bottom - top, right - left] * 2), np.array([top, left] * 2)
        self._found.append((boxes * sides + corner, scores))

    def is_complete(self) -> bool:
        """Whether all tiles were added."""
        return len(self._found) == len(self._windows)

    def detections(self, detector: Detector) -> Detections:
        """What NMS over the picture leaves."""
        boxes, scores = (np.concatenate(parts) for parts in zip(*self._found))
        return detector.postprocess(boxes, scores, (1, 1))  # the boxes are in pixels already
