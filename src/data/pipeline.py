"""MindRecord -> batches, by MindSpore's data pipeline (SPEC section 7)."""

from __future__ import annotations

from typing import Iterator, List

import numpy as np

from src.boxes.default_boxes import build_default_boxes
from src.compat import map_columns
from src.data.images import decode_rgb
from src.data.mindrecord import Records
from src.data.record_files import stored_boxes
from src.data.transforms import TrainTransform, resize

COLUMNS = ["img_id", "image", "annotation"]


def _decode(image, img_id) -> np.ndarray:
    # MindSpore 1.10 hands the bytes over as uint8 [n], 2.10 as a byte string
    try:
        return decode_rgb(image.tobytes())
    except ValueError as error:
        raise ValueError(f"image {int(np.ravel(img_id)[0])} in the records: {error}") from None


def row_ids(records: Records) -> np.ndarray:
    """img_id of every row, in the order of the files."""
    import mindspore.dataset as ds

    rows = ds.MindDataset(records.files[0], ["img_id"], shuffle=False).batch(1000)
    return np.concatenate([batch[0].ravel() for batch in rows.create_tuple_iterator(num_epochs=1, output_numpy=True)])


class TrainingData:
    """Batches of an epoch: the order and every random number come from (seed, epoch, image id) alone.

    Rows lie in the files in an order that differs from conversion to conversion, so they are taken by id.
    """

    def __init__(self, records: Records, cfg, rank: int = 0, size: int = 1):
        self.records, self.cfg, self.rank, self.size = records, cfg, rank, size
        self.defaults = build_default_boxes(cfg)
        self.order = np.argsort(row_ids(records), kind="stable")
        self.steps = len(self.order) // (cfg.batch_size * size)

    def indices(self, epoch: int) -> List[int]:
        """Row numbers of this rank in an epoch; all ranks have the same number."""
        shuffled = self.order[np.random.default_rng([self.cfg.seed, epoch]).permutation(len(self.order))]
        used = self.steps * self.cfg.batch_size * self.size
        return shuffled[:used][self.rank :: self.size].tolist()

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple]:
        """Tensors (images uint8 RGB [B, H, W, 3], gt_loc [B, N, 4], gt_label [B, N], num_match [B, 1], img_id [B, 1]).

        Args:
            first_step: steps of the epoch that were done before (a resumed run); they are not read again.
        """
        import mindspore.dataset as ds

        cfg = self.cfg
        rows_left = self.indices(epoch)[first_step * cfg.batch_size :]
        if not rows_left:
            return iter(())
        transform = TrainTransform(
            cfg.img_shape, self.defaults, cfg.match_threshold, cfg.prior_scaling, cfg.seed, epoch
        )

        def prepare(img_id, image, annotation):
            sample = transform(_decode(image, img_id), stored_boxes(annotation), int(img_id.ravel()[0]))
            return (*sample, img_id)

        rows = ds.MindDataset(self.records.files[0], COLUMNS, sampler=ds.SubsetSampler(rows_left))
        rows = map_columns(
            rows, prepare, COLUMNS, ["image", "loc", "label", "num_match", "id"], cfg.num_parallel_workers
        )
        return rows.batch(cfg.batch_size, drop_remainder=True).create_tuple_iterator(num_epochs=1)


def evaluation_batches(records: Records, cfg, rank: int = 0, size: int = 1) -> Iterator[tuple]:
    """(img_id int [n], images uint8 RGB [n, H, W, 3], shapes int [n, 2]) as arrays; the last batch may be short.

    Every image comes once, on one rank.
    """
    import mindspore.dataset as ds

    order = np.argsort(row_ids(records), kind="stable")[rank::size].tolist()
    if not order:
        return

    def prepare(img_id, image):
        pixels = _decode(image, img_id)
        return resize(pixels, cfg.img_shape), np.array(pixels.shape[:2], np.int32), img_id

    rows = ds.MindDataset(records.files[0], ["img_id", "image"], sampler=ds.SubsetSampler(order))
    rows = map_columns(rows, prepare, ["img_id", "image"], ["image", "shape", "id"], cfg.num_parallel_workers)
    for images, shapes, ids in rows.batch(cfg.batch_size).create_tuple_iterator(num_epochs=1, output_numpy=True):
        yield ids.ravel(), images, shapes
