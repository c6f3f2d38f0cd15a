"""The training loss over the evaluation set; docs/reference.md, "Training options"."""

from __future__ import annotations

from typing import Callable, Dict, Optional

import numpy as np
from mindspore import Tensor, nn

from src.boxes.default_boxes import build_default_boxes
from src.boxes.matcher import Matcher
from src.data.pipeline import validation_batches
from src.data.records import RecordSet
from src.data.targets import ScatterTargets, pack_matches
from src.loss import MultiBoxLoss
from src.utils.distributed import Communicator


class ImageLosses(nn.Cell):
    """(images [B, H, W, 3], gt_loc [B, N, 4], gt_label [B, N]) -> [B, 2], see `MultiBoxLoss.of_images`."""

    def __init__(self, network: nn.Cell, loss: MultiBoxLoss):
        super().__init__(auto_prefix=False)
        self.network, self.loss = network, loss

    def construct(self, images, gt_loc, gt_label):
        pred_loc, pred_label = self.network(images)
        return self.loss.of_images(pred_loc, pred_label, gt_loc, gt_label)


class ValidationLoss:
    """(should_stop) -> the loss of a model that is being trained and its two parts, on every rank; None where it was
    stopped.

    The images are resized and not augmented, and BN uses its running statistics. The divisor is the number of matches
    in the complete set, so the result does not depend on batches and ranks.

    Args:
        model: the network; left in evaluation mode.
        records: the evaluation set.
    """

    def __init__(self, model: nn.Cell, records: RecordSet, cfg, comm: Communicator):
        self._records, self._cfg, self._comm = records, cfg, comm
        defaults = build_default_boxes(cfg)
        self._matcher, self._dense = Matcher(*defaults, cfg.match_threshold), ScatterTargets(len(defaults[0]))
        loss = MultiBoxLoss(cfg.num_classes, cfg.gamma, cfg.alpha, cfg.box_loss, cfg.prior_scaling)
        self._cell = ImageLosses(model, loss)

    def __call__(self, should_stop: Callable[[], bool]) -> Optional[Dict[str, float]]:
        cfg, comm = self._cfg, self._comm
        self._cell.set_train(False)
        batches = validation_batches(self._records, cfg, self._matcher, comm.rank, comm.size)
        longest = -(-self._records.count // comm.size)
        sums = np.zeros(3)  # classes, boxes, matches
        for _ in range(-(-longest // cfg.batch_size)):
            if should_stop():
                return None
            images, matches = next(batches, (None, ()))
            if matches:
                sums[:2] += self._batch(images, matches).sum(axis=0)
                sums[2] += sum(len(boxes) for boxes, _, _ in matches)
        classes, boxes, matched = np.sum(comm.all_gather(sums.tolist()), axis=0).tolist()
        classes, boxes = classes / max(matched, 1), boxes / max(matched, 1)
        return {
            "validation_loss": classes + boxes,
            "validation_loss_class": classes,
            "validation_loss_box": boxes,
        }

    def _batch(self, images: np.ndarray, matches: list) -> np.ndarray:
        """float64 [n, 2] of n images; the last batch is padded to the one shape that is compiled."""
        count, size = len(images), self._cfg.batch_size
        images = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), images.dtype)])
        no_match = tuple(part[:0] for part in matches[0])
        gt_loc, gt_label = self._dense(*map(Tensor, pack_matches([*matches, *[no_match] * (size - count)])))
        return self._cell(Tensor(images), gt_loc, gt_label).asnumpy()[:count].astype(np.float64)
