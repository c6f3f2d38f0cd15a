"""Sigmoid focal loss (Lin et al. 2017, arXiv:1708.02002) + smooth L1 or GIoU; docs/reference.md, "Loss" and
"Training options"."""

from __future__ import annotations

from typing import Sequence

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

GIOU_WEIGHT = 2.0


class MultiBoxLoss(nn.Cell):
    """(pred_loc [B, N, 4], pred_label [B, N, C], gt_loc [B, N, 4], gt_label [B, N], num_match [B]) -> scalar.

    `(sum of focal over all C columns + sum of smooth L1 where label > 0) / max(sum of num_match, 1)`:
    divided by the matches of this device's batch, by 1 when there is none. With `box_loss` "giou" the GIoU loss of the
    decoded boxes takes the place of smooth L1.
    """

    def __init__(
        self,
        num_classes: int = 81,
        gamma: float = 2.0,
        alpha: float = 0.25,
        box_loss: str = "smooth_l1",
        prior_scaling: Sequence[float] = (0.1, 0.2),
    ):
        super().__init__()
        self.is_giou = box_loss == "giou"
        self.centre, self.size = (float(value) for value in prior_scaling)
        self.minimum, self.split = ops.Minimum(), ops.Split(2, 4)
        self.gamma, self.alpha = float(gamma), float(alpha)
        self.columns = Tensor(np.arange(num_classes, dtype=np.int32).reshape(1, 1, -1))
        self.abs, self.exp, self.log1p = ops.Abs(), ops.Exp(), ops.Log1p()
        self.relu, self.sigmoid, self.equal, self.greater = ops.ReLU(), ops.Sigmoid(), ops.Equal(), ops.Greater()
        self.expand, self.maximum, self.sum, self.select = (
            ops.ExpandDims(),
            ops.Maximum(),
            ops.ReduceSum(),
            ops.Select(),
        )
        self.less, self.stack, self.columns_of = ops.Less(), ops.Stack(), ops.Stack(-1)
        self.zero, self.one = Tensor(0, mstype.int32), Tensor(1.0, mstype.float32)
        self.four = Tensor(4.0, mstype.float32)

    def focal(self, logits, labels):
        """Focal loss [B, N, C] of logits [B, N, C] and labels [B, N]."""
        target = self.equal(self.expand(labels, -1), self.columns).astype(mstype.float32)
        # 1. cross entropy of the sigmoid, stable for large |x|
        positive = self.relu(logits)  # logits - 2 * positive = -|logits|
        tail = self.log1p(self.exp(logits - 2.0 * positive))
        entropy = positive - logits * target + tail
        # 2. (1 - p_t) ** gamma, where 1 - p_t is the probability of being wrong
        if self.gamma == 2.0:
            probability = self.sigmoid(logits)
            wrong = target + probability - 2.0 * target * probability
            modulation = wrong * wrong
        else:
            # The gradient of a power is infinite at 0 below gamma 1. -log(1 - p_t) is softplus(x) for a one and
            # softplus(-x) for a zero, whose gradients never are: the product's limit, 0, is what comes out.
            modulation = self.exp(-self.gamma * (positive - logits * (1.0 - target) + tail))
        # 3. alpha for the one, 1 - alpha for the zeros
        return (1.0 - self.alpha + (2.0 * self.alpha - 1.0) * target) * modulation * entropy

    def smooth_l1(self, prediction, target):
        """Smooth L1 with beta 1, elementwise."""
        size = self.abs(prediction - target)
        return self.select(self.less(size, self.one), 0.5 * size * size, size - 0.5)

    def giou(self, prediction, target):
        """`2 * (1 - GIoU)` (Rezatofighi et al. 2019, arXiv:1902.09630) of boxes given as offsets [B, N, 4]: [B, N, 1].

        Computed in units of the default box, because scaling an axis changes no IoU.
        """
        top, left, bottom, right, area = self._corners(prediction)
        gt_top, gt_left, gt_bottom, gt_right, gt_area = self._corners(target)
        height = self.relu(self.minimum(bottom, gt_bottom) - self.maximum(top, gt_top))
        width = self.relu(self.minimum(right, gt_right) - self.maximum(left, gt_left))
        union = area + gt_area - height * width
        hull_height = self.maximum(bottom, gt_bottom) - self.minimum(top, gt_top)
        hull = hull_height * (self.maximum(right, gt_right) - self.minimum(left, gt_left))
        return GIOU_WEIGHT * (2.0 - height * width / union - union / hull)

    def _corners(self, offsets):
        """Top, left, bottom, right and area, each [B, N, 1], of boxes relative to their default boxes."""
        y, x, log_height, log_width = self.split(offsets)
        height, width = self._side(log_height), self._side(log_width)
        y, x = y * self.centre, x * self.centre
        return y - 0.5 * height, x - 0.5 * width, y + 0.5 * height, x + 0.5 * width, height * width

    def _side(self, logarithm):
        # exp of a wild prediction would overflow: no box is more than e^4 = 55 times its default box
        return self.exp(self.minimum(logarithm * self.size, self.four))

    def _of_boxes(self, pred_loc, pred_label, gt_loc, gt_label):
        """Of each default box: focal loss [B, N], and loss of its box [B, N, 1 or 4], 0 where it is background."""
        labels = gt_label.astype(mstype.int32)
        # a sum over everything at once runs on one core of a CPU
        classification = self.sum(self.focal(pred_label.astype(mstype.float32), labels), -1)
        object_rows = self.expand(self.greater(labels, self.zero).astype(mstype.float32), -1)
        pred_loc = pred_loc.astype(mstype.float32)
        boxes = self.giou(pred_loc, gt_loc) if self.is_giou else self.smooth_l1(pred_loc, gt_loc)
        return classification, boxes * object_rows

    def of_images(self, pred_loc, pred_label, gt_loc, gt_label):
        """[B, 2]: the two sums of each image, not divided by any number of matches."""
        classification, location = self._of_boxes(pred_loc, pred_label, gt_loc, gt_label)
        return self.columns_of((self.sum(classification, -1), self.sum(self.sum(location, -1), -1)))

    def parts(self, pred_loc, pred_label, gt_loc, gt_label, num_match):
        """[2]: the classes' and the boxes' share of the loss."""
        classification, location = self._of_boxes(pred_loc, pred_label, gt_loc, gt_label)
        classification, location = self.sum(classification), self.sum(location)
        matches = self.maximum(self.sum(num_match.astype(mstype.float32)), self.one)
        return self.stack((classification, location)) / matches

    def construct(self, pred_loc, pred_label, gt_loc, gt_label, num_match):
        return self.sum(self.parts(pred_loc, pred_label, gt_loc, gt_label, num_match))
