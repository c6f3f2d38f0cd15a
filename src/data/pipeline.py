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
from typing import Callable, Iterable, Iterator, List, Tuple

import numpy as np

from src.boxes.default_boxes import build_default_boxes
from src.boxes.matcher import Matcher
from src.data.images import decode_rgb
from src.data.records import RecordSet
from src.data.records.files import boxes_of_row
from src.data.repeats import draw_epoch, epoch_length, repeat_factors
from src.data.tiles import network_tiles, of_config
from src.data.transforms import Augmentation, TrainTransform, encode_matches, normalize_boxes, resize
from src.utils.errors import UserError
from src.utils.threads import ordered_map

COLUMNS = ["img_id", "image", "annotation"]
PREFETCH_BATCHES = 2  # batches prepared while one is used


def _read_rows(records: RecordSet, columns: List[str], order: List[int]) -> Iterator[list]:
    """Rows of the files by index, in this order, as arrays. An index may occur several times."""
    import mindspore.dataset as ds

    # MindSpore takes no more indices than there are rows
    for start in range(0, len(order), records.count):
        sampler = ds.SubsetSampler(order[start : start + records.count])
        # one reader: it is far faster than the next stage, and several would only wait for each other
        rows = ds.MindDataset(records.files[0], columns, sampler=sampler, num_parallel_workers=1)
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

    Attributes:
        steps: number of steps of every epoch; factors: how often each image occurs in an epoch on average, in the order
            of ids (`repeat_threshold`), None if each occurs once.
    """

    def __init__(self, records: RecordSet, cfg, rank: int = 0, size: int = 1):
        from src.data.targets import ScatterTargets

        self.records, self.cfg, self.rank, self.size = records, cfg, rank, size
        defaults = build_default_boxes(cfg)
        self.matcher = Matcher(*defaults, cfg.match_threshold)
        self.dense = ScatterTargets(len(defaults[0]))
        self.order = np.argsort(records.rows, kind="stable")
        self.factors, images = None, len(self.order)
        if cfg.repeat_threshold:
            rows = _read_rows(records, ["annotation"], self.order.tolist())
            self.factors = repeat_factors([boxes_of_row(row)[:, 4] for (row,) in rows], cfg.repeat_threshold)
            images = epoch_length(self.factors)
        self.steps = images // (cfg.batch_size * size)

    def samples(self, epoch: int) -> Tuple[List[int], List[int]]:
        """(row indices, number of the copy of each row's image, from 0) of this rank in an epoch; every rank has the
        same number of rows."""
        rng = np.random.default_rng([self.cfg.seed, epoch])
        if self.factors is None:
            images = rng.permutation(len(self.order))
            copies = np.zeros_like(images)
        else:
            images, copies = draw_epoch(self.factors, rng)
        used = slice(self.rank, self.steps * self.cfg.batch_size * self.size, self.size)
        return self.order[images[used]].tolist(), copies[used].tolist()

    def numpy_batches(self, epoch: int, first_step: int = 0) -> Iterator[tuple]:
        """(images uint8 RGB [B, H, W, 3], matches of each image as `encode_matches` gives them, img_id [B, 1])."""
        cfg = self.cfg
        rows_left, copies_left = (part[first_step * cfg.batch_size :] for part in self.samples(epoch))
        transform = TrainTransform(
            cfg.img_shape, self.matcher, cfg.prior_scaling, cfg.seed, epoch, Augmentation.of(cfg)
        )

        def prepare(slot, img_id, image, annotation, copy):
            image_id = int(img_id.ravel()[0])
            _, boxes_norm = transform.augment(_decode(image, img_id), boxes_of_row(annotation), image_id, slot, copy)
            return boxes_norm, image_id

        rows = ((*row, copy) for row, copy in zip(_read_rows(self.records, COLUMNS, rows_left), copies_left))
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


def _shard(records: RecordSet, rank: int, size: int) -> List[int]:
    """A rank's rows by ascending id: every row is on one rank."""
    return np.argsort(records.rows, kind="stable")[rank::size].tolist()


def evaluation_batches(records: RecordSet, cfg, rank: int = 0, size: int = 1) -> Iterator[tuple]:
    """(img_id int [n], images uint8 RGB [n, H, W, 3], shapes int [n, 2]) as arrays; the last batch may be short.

    Every image occurs once, on one rank.

    Raises:
        UserError: an image in the records that cannot be decoded.
    """

    def prepare(slot, img_id, image):
        pixels = _decode(image, img_id)
        slot[:] = resize(pixels, cfg.img_shape)
        return pixels.shape[:2], int(img_id.ravel()[0])

    rows = _read_rows(records, ["img_id", "image"], _shard(records, rank, size))
    for images, results in _batches(rows, prepare, cfg.img_shape, cfg.batch_size, cfg.num_parallel_workers):
        shapes, ids = zip(*results)
        yield np.array(ids), images, np.array(shapes, np.int32)


def validation_batches(records: RecordSet, cfg, matcher: Matcher, rank: int = 0, size: int = 1) -> Iterator[tuple]:
    """(images uint8 RGB [n, H, W, 3], matches of each image as `encode_matches` gives them); nothing is augmented, and
    the last batch may be short.

    Every image occurs once, on one rank.

    Raises:
        UserError: an image in the records that cannot be decoded.
    """

    def prepare(slot, img_id, image, annotation):
        pixels = _decode(image, img_id)
        slot[:] = resize(pixels, cfg.img_shape)
        return normalize_boxes(boxes_of_row(annotation), *pixels.shape[:2])

    rows = _read_rows(records, COLUMNS, _shard(records, rank, size))
    for images, boxes_norm in _batches(rows, prepare, cfg.img_shape, cfg.batch_size, cfg.num_parallel_workers):
        yield images, encode_matches(boxes_norm, matcher, cfg.prior_scaling)


def evaluation_tiles(records: RecordSet, cfg, rank: int = 0, size: int = 1) -> Iterator[tuple]:
    """(img_id int, tiles uint8 RGB [T, h, w, 3] of the network's size, (height, width)) of each image: the images of
    `evaluation_batches` in the same order, cut.

    Raises:
        UserError: an image in the records that cannot be decoded.
    """
    tiling, threads = of_config(cfg), cfg.num_parallel_workers

    def prepare(row):
        img_id, image = row
        pixels = _decode(image, img_id)
        return int(img_id.ravel()[0]), network_tiles(pixels, tiling, cfg.img_shape), pixels.shape[:2]

    rows = _read_rows(records, ["img_id", "image"], _shard(records, rank, size))
    with ThreadPoolExecutor(threads, thread_name_prefix="tiles") as pool:
        # a picture of many pixels takes long, so a few ahead keep the threads busy
        yield from ordered_map(pool, prepare, ((row, 0) for row in rows), threads + 1, 0)
