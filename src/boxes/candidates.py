"""Where on the grids of default boxes a ground truth can be matched.

Default boxes of one size stand on a regular grid. For an IoU above a threshold the two sizes must be alike, and the
centres may lie only so far apart as follows from them. Both depend on the ground truth's size alone, so they are
computed once for small ranges of sizes, and looked up.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import numpy as np

# The bounds are computed in float64, the IoU itself in float32: what lies this near to a bound is taken in.
_MARGIN = 5e-3
_CELL = 1e-3
# Sides that are looked up, as a share of the image's; a smaller one is left too little by float32 corners.
_SMALLEST, _LARGEST = 2.0**-12, 2.0
_BINS_A_DOUBLING = 12


class AnchorGrid(NamedTuple):
    """Default boxes of one size, row by row; lengths are shares of the image, (y, x)."""

    size: Tuple[float, float]
    first: Tuple[float, float]  # centre of the first cell
    step: Tuple[float, float]
    cells: Tuple[int, int]
    index: int  # of the first cell's box
    stride: Tuple[int, int]  # what a step adds to the index


def find_grids(cyxhw: np.ndarray) -> Optional[List[AnchorGrid]]:
    """The grids that default boxes [N, 4] stand on, None where those of some size stand on no regular one."""
    if len(cyxhw) == 0:
        return None
    _, group = np.unique(cyxhw[:, 2:], axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group.ravel()[order])) + 1)
    grids = [_grid(cyxhw, indices) for indices in parts]
    return None if None in grids else grids


def _grid(cyxhw: np.ndarray, indices: np.ndarray) -> Optional[AnchorGrid]:
    places = cyxhw[indices, :2].astype(np.float64)
    size = tuple(cyxhw[indices[0], 2:].tolist())
    columns = int((places[:, 0] == places[0, 0]).sum())
    rows = len(indices) // columns
    down, along = np.divmod(np.arange(len(indices)), columns)
    last = places[-1]
    step = np.array([(last[k] - places[0, k]) / (n - 1) if n > 1 else 1.0 for k, n in enumerate((rows, columns))])
    stride = (int(indices[columns] - indices[0]) if rows > 1 else 0, int(indices[1] - indices[0]) if columns > 1 else 0)
    regular = (
        rows * columns == len(indices)
        and min(*step, *size) > 0
        and (np.abs(places[0] + np.stack([down, along], 1) * step - places) < step * (_CELL / 10)).all()
        and (indices[0] + down * stride[0] + along * stride[1] == indices).all()
    )
    if not regular:
        return None
    return AnchorGrid(size, tuple(places[0].tolist()), tuple(step.tolist()), (rows, columns), int(indices[0]), stride)


class CandidateIndex:
    """Ground truth -> the default boxes that it can be matched to.

    Args:
        grids: all of a network.
        threshold: of the IoU.
    """

    def __init__(self, grids: List[AnchorGrid], threshold: float):
        size, first, step = (np.array([getattr(grid, key) for grid in grids]).T for key in ("size", "first", "step"))
        cells = np.array([grid.cells for grid in grids]).T
        edges = np.exp2(np.arange(np.log2(_SMALLEST), np.log2(_LARGEST) + 1e-9, 1 / _BINS_A_DOUBLING))
        low, high = edges[:-1] * (1 - 1e-6), edges[1:] * (1 + 1e-6)
        self._bins = len(low)
        # the furthest that a centre inside the image lies from the nearest cell
        off = np.maximum(np.maximum(step / 2, first), 1 - (first + (cells - 1) * step))
        can, reach = _max_center_distance(size, off, low, high, threshold)
        count = can.sum(axis=1)
        self._ends = np.cumsum(count)
        self._starts = self._ends - count
        of_bin, grid = np.nonzero(can)
        density = 1 / step
        reach = reach[:, of_bin, grid] * density[:, grid] + _CELL
        # a row for each bin and grid: reach in cells; then what makes a centre a place in cells; the last cell
        self._place = np.concatenate(
            [reach, density[:, grid], (first * density)[:, grid], cells[:, grid] - 1.0]
        ).T.copy()
        # first box of the grid, and what a step adds
        self._box = np.array([[one.index, *one.stride] for one in grids]).take(grid, axis=0)

    @staticmethod
    def supports(gt: np.ndarray) -> np.ndarray:
        """bool [M]: which ground truths yxyx [M, 4] can be looked up; others must be compared with every box."""
        size = gt[:, 2:] - gt[:, :2]
        centre = gt[:, 2:] + gt[:, :2]
        return ((size > _SMALLEST * 1.01) & (size < _LARGEST) & (centre >= 0) & (centre <= 2)).all(axis=1)

    def candidates(self, gt: np.ndarray, rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Candidate pairs of ground truths that `supports` accepts: every default box with an IoU above the threshold,
        and the best box of each ground truth.

        Returns:
            int64 [K] each: the row of `gt`, in the order of `rows`, each at least once; the default box.
        """
        corners = gt.take(rows, axis=0).astype(np.float64)
        size, centre = corners[:, 2:] - corners[:, :2], (corners[:, 2:] + corners[:, :2]) / 2
        bins = ((np.log2(size) - np.log2(_SMALLEST)) * _BINS_A_DOUBLING).astype(np.int64)
        bins = bins[:, 0] * self._bins + bins[:, 1]
        entries, of_row = _ranges(self._starts.take(bins), self._ends.take(bins))
        reach, density, origin, last = self._place.take(entries, axis=0).T.reshape(4, 2, -1)
        place = centre.take(of_row, axis=0).T * density - origin
        first = np.maximum(np.ceil(place - reach), 0).astype(np.int64)
        height, width = np.maximum(np.minimum(np.floor(place + reach), last).astype(np.int64) - first + 1, 0)
        index, down, along = self._box.take(entries, axis=0).T
        count = height * width
        # a window's boxes lie row by row: place in the window -> box
        start = index + first[0] * down + first[1] * along
        table = np.stack([rows.take(of_row), np.cumsum(count) - count, width, start, along, down - width * along])
        rows, before, width, start, along, jump = np.repeat(table, count, axis=1)
        within = np.arange(len(rows)) - before
        return rows, start + within * along + within // width * jump


def _ranges(starts: np.ndarray, ends: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """All numbers of ranges one after the other, and the range that each is from."""
    counts = ends - starts
    of_range = np.repeat(np.arange(len(starts)), counts)
    return np.arange(len(of_range)) + (starts - (np.cumsum(counts) - counts)).take(of_range), of_range


def _max_center_distance(
    size: np.ndarray, off: np.ndarray, low: np.ndarray, high: np.ndarray, threshold: float
) -> tuple:
    """For each pair of ranges of height and width (row-major), and each grid: whether a ground truth of such a size can
    be matched there, bool [B, G]; and how far apart the centres may lie then, [2, B, G].

    Args:
        size, off: [2, G]: of the boxes; how far the nearest cell may lie.
        low, high: the ranges.
    """
    pairs = np.stack(np.meshgrid(np.arange(len(low)), np.arange(len(low)), indexing="ij")).reshape(2, -1)
    small, large = low[pairs][:, :, None], high[pairs][:, :, None]
    size, off = size[:, None], off[:, None]
    box = size[0] * size[1]
    # the IoU that the best grid's nearest cell reaches at least
    sides = np.maximum(np.minimum(np.minimum(size, small), (size + small) / 2 - off), 0)
    inter = sides[0] * sides[1]
    reached = (inter / (box + large[0] * large[1] - inter)).max(axis=1, keepdims=True)
    wanted = np.minimum(reached, threshold) * (1 - _MARGIN)
    # intersection that an IoU above `wanted` needs, and what the sizes allow
    needed = wanted / (1 + wanted) * (box + small[0] * small[1])
    least = np.minimum(size, large)
    return needed <= least[0] * least[1], (size + large) / 2 - needed / least[::-1]
