"""MindRecord -> batches; docs/reference.md, "Training pipeline" and "Evaluation pipeline".

MindSpore reads the rows; a pool of threads decodes, augments and writes each image into its slot of the batch, some
batches ahead of the training. OpenCV and NumPy release the GIL while they work.

To remove: `training_batches` of `benchmarks/baselines.py` does the same with MindSpore's operations, at a quarter of
the speed; a run could then not be resumed bit for bit, as random numbers depend on the worker.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Callable, Iterable, Iterator, List

import numpy as np

from src.boxes.default_boxes import build_default_boxes
from src.boxes.matcher import Matcher
from src.data.images import decode_rgb
from src.data.records import RecordSet
from src.data.records.files import boxes_of_row
from src.data.tiles import network_tiles, of_config
from src.data.transforms import TrainTransform, augmentation_options, resize
from src.utils.errors import UserError
from src.utils.threads import ordered_map

COLUMNS = ["img_id", "image", "annotation"]
PREFETCH_BATCHES = 2  # batches prepared while one is used


def _read_rows(records: RecordSet, columns: List[str], order: List[int]) -> Iterator[list]:
    """Rows of the files by index, in this order, as arrays."""
    import mindspore.dataset as ds

    # one reader: it is far faster than the next stage, and several would only wait for each other
    rows = ds.MindDataset(records.files[0], columns, sampler=ds.SubsetSampler(order), num_parallel_workers=1)
    # a generator: MindSpore's iterator must not be advanced again after its end
    yield from rows.create_tuple_iterator(num_epochs=1, output_numpy=True)


def image_reader(records: RecordSet) -> Callable[[object], np.ndarray]:
    """A function: the data set's image id -> image, uint8 RGB [H, W, 3]."""
    row_of = {records.dataset_id(img_id): row for row, img_id in enumerate(records.rows.tolist())}

    def read(image_id) -> np.ndarray:
        ((img_id, image),) = _read_rows(records, ["img_id", "image"], [row_of[image_id]])
        return _decode(image, img_id)

    return read


def _decode(image, img_id) -> np.ndarray:
    # MindSpore 1.10 gives the bytes as uint8 [n], 2.10 as a byte string
    try:
        return decode_rgb(image.tobytes())
    except ValueError as error:
        raise UserError(
            f"mindrecord_dir: image {int(np.ravel(img_id)[0])} in the records: {error}; remove the records to have "
            f"them written again"
        ) from None


def _batches(rows: Iterable[list], prepare: Callable, shape: List[int], size: int, workers: int) -> Iterator[tuple]:
    """(images uint8 [n, *shape, 3], [`prepare(slot, *row)` of each image]), n = `size` except in the last batch.

    prepare: fills `slot`, the image's part of the batch; runs in one of `workers` threads.
    """
    rows, waiting = iter(rows), deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    try:
        while True:
            while len(waiting) <= PREFETCH_BATCHES:
                group = list(islice(rows, size))
                if not group:
                    break
                images = np.empty((len(group), *shape, 3), np.uint8)
                waiting.append((images, [pool.submit(prepare, *pair) for pair in _pairs(images, group)]))
            if not waiting:
                return
            images, results = waiting.popleft()
            yield images, [result.result() for result in results]
    finally:
        for _, results in waiting:
            for result in results:
                result.cancel()
        pool.shutdown()


def _pairs(images: np.ndarray, group: list) -> Iterator[tuple]:
    for slot, row in zip(images, group):
        yield (slot, *row)


class TrainLoader:
    """Batches of an epoch: order and random numbers depend on (seed, epoch, image id) only.

    The order of the rows in the files differs from conversion to conversion, so rows are sorted by id first.
    """

    def __init__(self, records: RecordSet, cfg, rank: int = 0, size: int = 1):
        from src.data.targets import ScatterTargets

        self.records, self.cfg, self.rank, self.size = records, cfg, rank, size
        defaults = build_default_boxes(cfg)
        self.matcher = Matcher(*defaults, cfg.match_threshold)
        self.dense = ScatterTargets(len(defaults[0]))
        self.order = np.argsort(records.rows, kind="stable")
        self.steps = len(self.order) // (cfg.batch_size * size)

    def indices(self, epoch: int) -> List[int]:
        """Row indices of this rank in an epoch; every rank has the same number of rows."""
        shuffled = self.order[np.random.default_rng([self.cfg.seed, epoch]).permutation(len(self.order))]
        used = self.steps * self.cfg.batch_size * self.size
        return shuffled[:used][self.rank :: self.size].tolist()

    def numpy_batches(self, epoch: int, first_step: int = 0) -> Iterator[tuple]:
        """(images uint8 RGB [B, H, W, 3], matches of each image as `encode_matches` gives them, img_id [B, 1])."""
        cfg = self.cfg
        rows_left = self.indices(epoch)[first_step * cfg.batch_size :]
        if not rows_left:
            return
        transform = TrainTransform(
            cfg.img_shape, self.matcher, cfg.prior_scaling, cfg.seed, epoch, *augmentation_options(cfg)
        )

        def prepare(slot, img_id, image, annotation):
            image_id = int(img_id.ravel()[0])
            _, boxes_norm = transform.augment(_decode(image, img_id), boxes_of_row(annotation), image_id, slot)
            return boxes_norm, image_id

        rows = _read_rows(self.records, COLUMNS, rows_left)
        for images, results in _batches(rows, prepare, cfg.img_shape, cfg.batch_size, cfg.num_parallel_workers):
            boxes_norm, ids = zip(*results)
            yield images, transform.match(boxes_norm), np.array(ids, np.int32)[:, None]

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple]:
        """Tensors (images uint8 RGB [B, H, W, 3], gt_loc [B, N, 4], gt_label [B, N], num_match [B, 1], img_id [B, 1]).

        Args:
            first_step: steps of the epoch that were done before (in a resumed run); they are not read again.

        Raises:
            UserError: an image in the records that cannot be decoded.
        """
        from src.data.targets import batch_to_device

        for batch in self.numpy_batches(epoch, first_step):
            yield batch_to_device(self.dense, *batch)


def evaluation_batches(records: RecordSet, cfg, rank: int = 0, size: int = 1) -> Iterator[tuple]:
    """(img_id int [n], images uint8 RGB [n, H, W, 3], shapes int [n, 2]) as arrays; the last batch may be short.

    Every image occurs once, on one rank.

    Raises:
        UserError: an image in the records that cannot be decoded.
    """
    order = np.argsort(records.rows, kind="stable")[rank::size].tolist()
    if not order:
        return

    def prepare(slot, img_id, image):
        pixels = _decode(image, img_id)
        slot[:] = resize(pixels, cfg.img_shape)
        return pixels.shape[:2], int(img_id.ravel()[0])

    rows = _read_rows(records, ["img_id", "image"], order)
    for images, results in _batches(rows, prepare, cfg.img_shape, cfg.batch_size, cfg.num_parallel_workers):
        shapes, ids = zip(*results)
        yield np.array(ids), images, np.array(shapes, np.int32)


def evaluation_tiles(records: RecordSet, cfg, rank: int = 0, size: int = 1) -> Iterator[tuple]:
    """(img_id int, tiles uint8 RGB [T, h, w, 3] of the network's size, (height, width)) of each image: the images of
    `evaluation_batches` in the same order, cut.

    Raises:
        UserError: an image in the records that cannot be decoded.
    """
    order = np.argsort(records.rows, kind="stable")[rank::size].tolist()
    if not order:
        return

    def prepare(row):
        img_id, image = row
        pixels = _decode(image, img_id)
        return int(img_id.ravel()[0]), network_tiles(pixels, of_config(cfg), cfg.img_shape), pixels.shape[:2]

    rows, threads = _read_rows(records, ["img_id", "image"], order), cfg.num_parallel_workers
    with ThreadPoolExecutor(threads, thread_name_prefix="tiles") as pool:
        # a picture of many pixels takes long, so a few ahead keep the threads busy
        yield from ordered_map(pool, prepare, ((row, 0) for row in rows), threads + 1, 0)
