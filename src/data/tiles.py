"""Large pictures as square tiles of full size; docs/reference.md, "Tiles"."""

from __future__ import annotations

from typing import Iterable, Iterator, List, NamedTuple

import cv2
import numpy as np

from src.data.transforms import resize


class Tiling(NamedTuple):
    """How pictures are cut.

    side: of a tile in pixels of the picture, 0 where pictures are not cut; overlap: share of the side that
    neighbouring tiles have in common at least; keeps_empty: tiles without a box are training images too.
    """

    side: int = 0
    overlap: float = 0.2
    keeps_empty: bool = False

    def windows(self, height: int, width: int) -> np.ndarray:
        """int32 [T, 4] top, left, bottom, right of the tiles, row by row; together they cover the picture.

        Every tile has its full size: the last one of a row or column is moved inwards. Along a side that is no longer
        than a tile there is one, of that length. A side of 0 gives the one window of the picture.
        """
        if not self.side:
            return np.array([[0, 0, height, width]], np.int32)
        tops, lefts = (self._starts(length) for length in (height, width))
        bottoms, rights = (np.minimum(self.side, length) for length in (height, width))
        corners = np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)
        return np.concatenate([corners, corners + np.array([bottoms, rights])], axis=1).astype(np.int32)

    def _starts(self, length: int) -> np.ndarray:
        last = max(length - self.side, 0)
        step = max(self.side - int(round(self.side * self.overlap)), 1)
        return np.append(np.arange(0, last, step), last)


def of_config(cfg) -> Tiling:
    """The `Tiling` of a configuration."""
    return Tiling(cfg.tile, cfg.overlap, cfg.negative_images)


def cut_boxes(boxes: np.ndarray, window: Iterable[int]) -> np.ndarray:
    """Boxes of a picture -> those of a tile, clipped to it and in its pixels, in the order that they had.

    A box stays where at least half of its area lies in the tile, or its centre does; so each box is in some tile.

    Args:
        boxes: int32 [M, 5] y1, x1, y2, x2, label in pixels, with an area.
        window: top, left, bottom, right of the tile.
    """
    top, left, bottom, right = (int(value) for value in window)
    corners = boxes[:, :4].astype(np.int64)
    clipped = np.stack(
        [np.clip(corners[:, side], *limits) for side, limits in enumerate(((top, bottom), (left, right)) * 2)], 1
    )
    double_y, double_x = corners[:, 0] + corners[:, 2], corners[:, 1] + corners[:, 3]  # twice the centre
    has_centre = (double_y >= 2 * top) & (double_y < 2 * bottom) & (double_x >= 2 * left) & (double_x < 2 * right)
    stays = has_centre | (2 * _areas(clipped) >= _areas(corners))
    found = boxes[stays].copy()
    found[:, :4] = clipped[stays] - np.array([top, left, top, left])
    return found


def _areas(corners: np.ndarray) -> np.ndarray:
    return (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])


def cut(image: np.ndarray, windows: np.ndarray) -> Iterator[np.ndarray]:
    """Views of the tiles of an image [H, W, 3]."""
    for top, left, bottom, right in windows.tolist():
        yield image[top:bottom, left:right]


def encode_tile(image: np.ndarray, window: Iterable[int]) -> bytes:
    """A tile of an image uint8 RGB [H, W, 3] as the bytes of a PNG: without loss, so that a network is trained on the
    pixels that it sees in evaluation."""
    (tile,) = cut(image, np.asarray(window)[None])
    return cv2.imencode(".png", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR))[1].tobytes()


def network_tiles(image: np.ndarray, tiling: Tiling, shape: List[int]) -> np.ndarray:
    """uint8 [T, h, w, 3]: the tiles of an image uint8 [H, W, 3], each resized to the network's (h, w) = `shape`."""
    windows = tiling.windows(*image.shape[:2])
    tiles = np.empty((len(windows), *shape, 3), np.uint8)
    for slot, tile in zip(tiles, cut(image, windows)):
        slot[:] = resize(tile, shape)
    return tiles
