"""Training targets as they travel: only the default boxes that are matched; the device makes all of them again.

Of the 51150 default boxes of the FPN networks at 640 x 640, a few hundred are matched in an image: a fiftieth of the
bytes.

To remove: let `TrainLoader` call `src.data.transforms.encode_targets` for each image and stack what it returns.
"""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
from mindspore import Tensor, nn, ops

MIN_ROWS = 512


class ScatterTargets(nn.Cell):
    """place int32 [B, P, 2], loc float32 [B, P, 4], label int32 [B, P] -> gt_loc [B, N, 4], gt_label [B, N].

    P is any number. place: (image, default box) of each row. Rows of an image beyond its matches add zeros to its first
    box.
    """

    def __init__(self, count: int):
        super().__init__()
        self.count = count
        self.scatter = ops.ScatterNd()

    def construct(self, place, loc, label):
        batch = place.shape[0]
        return self.scatter(place, loc, (batch, self.count, 4)), self.scatter(place, label, (batch, self.count))


def pack_matches(matches: List[Tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Tuple[np.ndarray, ...]:
    """The matches (default boxes [K], loc [K, 4], label [K]) of a batch as `ScatterTargets` takes them.

    P is a power of two, so that few shapes have to be compiled, whatever an image holds.
    """
    rows = MIN_ROWS
    while rows < max(len(boxes) for boxes, _, _ in matches):
        rows *= 2
    place = np.zeros((len(matches), rows, 2), np.int32)
    place[:, :, 0] = np.arange(len(matches))[:, None]
    loc = np.zeros((len(matches), rows, 4), np.float32)
    label = np.zeros((len(matches), rows), np.int32)
    for row, (boxes, of_boxes, labels) in enumerate(matches):
        taken = slice(len(boxes))
        place[row, taken, 1], loc[row, taken], label[row, taken] = boxes, of_boxes, labels
    return place, loc, label


def batch_to_device(dense: ScatterTargets, images: np.ndarray, matches: list, ids: np.ndarray) -> Tuple[Tensor, ...]:
    """(images, gt_loc [B, N, 4], gt_label [B, N], num_match [B, 1], img_id [B, 1]) on the device."""
    gt_loc, gt_label = dense(*map(Tensor, pack_matches(matches)))
    num_match = np.array([[len(boxes)] for boxes, _, _ in matches], np.float32)
    return Tensor.from_numpy(images), gt_loc, gt_label, Tensor(num_match), Tensor(ids)
