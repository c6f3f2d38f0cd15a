"""Runs a detector over evaluation records and collects its detections in an evaluator; evaluation during training."""

from __future__ import annotations

import contextlib
import time
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from mindspore import nn

from src.data.pipeline import evaluation_batches, evaluation_tiles
from src.data.records import RecordSet
from src.evaluation.coco_evaluator import CocoEvaluator
from src.evaluation.validation_loss import ValidationLoss
from src.inference.detector import Detections, Detector, build_detector
from src.inference.tiled import TileQueue
from src.models.parameter_values import get_values, temporary_values
from src.utils.distributed import Communicator
from src.utils.log import LOGGER, progress

Found = List[Tuple[int, Detections]]
"""The images of a round, by img_id."""


def build_evaluator(records: RecordSet, cfg) -> CocoEvaluator:
    """The evaluator of a configuration for the images in its evaluation records."""
    ids = [records.dataset_id(img_id) for img_id in records.rows.tolist()]
    thresholds = (cfg.min_score, cfg.nms_threshold, cfg.max_boxes)
    return CocoEvaluator(records.annotation_file, cfg.classes, *thresholds, image_ids=ids)


@contextlib.contextmanager
def bn_statistics_of_rank0(model: nn.Cell, comm: Communicator) -> Iterator[None]:
    """Use rank 0's BN statistics on every rank inside the block, so that the evaluated network is the one that rank 0
    saves; afterwards each rank has its previous statistics again.

    The weights are the same on all ranks, the running statistics are not; docs/reference.md, "Data parallelism".
    """
    statistics = [p for p in model.get_parameters() if p.name.endswith(("moving_mean", "moving_variance"))]
    with temporary_values(statistics, comm.broadcast_arrays(get_values(statistics))):
        yield


def collect_detections(
    detector: Detector,
    records: RecordSet,
    cfg,
    evaluator: CocoEvaluator,
    comm: Communicator = Communicator(),
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Run every image through the network; afterwards rank 0's evaluator holds the detections of all ranks.

    Args:
        should_stop: called before each batch, the same number of times on every rank.

    Returns:
        False if it was stopped.
    """
    total = len(range(comm.rank, records.count, comm.size))
    # number of rounds of the longest shard: a rank with fewer must still take part in `should_stop`
    longest = -(-records.count // comm.size)
    rounds = longest if cfg.tile else -(-longest // cfg.batch_size)
    rounds_of_rank = (_detect_in_tiles if cfg.tile else _detect)(detector, records, cfg, comm)
    with progress(total, "evaluating", is_main=comm.rank == 0) as bar:
        for _ in range(rounds):
            if should_stop():
                return False
            _add(evaluator, records, next(rounds_of_rank, []), bar)
        for found in rounds_of_rank:
            _add(evaluator, records, found, bar)
    if comm.size > 1:
        for found in comm.gather(evaluator.arrays()) or []:
            evaluator.merge(found)
    return True


def _add(evaluator: CocoEvaluator, records: RecordSet, found: Found, bar) -> None:
    for img_id, detections in found:
        evaluator.add(records.dataset_id(img_id), *detections)
    bar.update(len(found))


def _detect(detector: Detector, records: RecordSet, cfg, comm: Communicator) -> Iterator[Found]:
    """Batch by batch of this rank's images."""
    for ids, images, shapes in evaluation_batches(records, cfg, comm.rank, comm.size):
        yield list(zip(ids, detector(images, shapes)))


def _detect_in_tiles(detector: Detector, records: RecordSet, cfg, comm: Communicator) -> Iterator[Found]:
    """Image by image of this rank what is complete by then, and at last the rest."""
    queue = TileQueue(detector)
    for picture in evaluation_tiles(records, cfg, comm.rank, comm.size):
        yield list(queue.add(*picture))
    yield list(queue.finish())


class TrainingEvaluation:
    """(should_stop) -> figures of a model that is being trained by the names that they have in the history: mAP and,
    with `validation_loss`, those of `ValidationLoss`; the same on every rank. None where it was stopped.

    Args:
        model: the network; left in evaluation mode.
        records: the evaluation set.
        should_stop: asked before each batch, see `collect_detections`.
    """

    def __init__(self, model: nn.Cell, records: RecordSet, cfg, comm: Communicator):
        self._model, self._records, self._cfg, self._comm = model, records, cfg, comm
        self._detector, self._evaluator = build_detector(model, cfg), build_evaluator(records, cfg)
        self._loss = ValidationLoss(model, records, cfg, comm) if cfg.validation_loss else None

    def __call__(self, should_stop: Callable[[], bool]) -> Optional[Dict[str, float]]:
        start = time.perf_counter()
        self._evaluator.clear()
        self._detector.cell.set_train(False)
        with bn_statistics_of_rank0(self._model, self._comm):
            if not collect_detections(
                self._detector, self._records, self._cfg, self._evaluator, self._comm, should_stop
            ):
                return None
            losses = {} if self._loss is None else self._loss(should_stop)
        if losses is None:
            return None
        detected = time.perf_counter()
        result = self._comm.broadcast(self._evaluator.summarize() if self._comm.rank == 0 else None)
        LOGGER.info(
            "mAP %.4f (all images), %.4f (published protocol); evaluation took %.1f s, of which scoring %.1f s",
            result["mAP"],
            result["mAP_published"],
            time.perf_counter() - start,
            time.perf_counter() - detected,
        )
        if losses:
            LOGGER.info("validation loss %.4f (classes %.4f, boxes %.4f)", *losses.values())
        return {"mAP": result["mAP"], **losses}
