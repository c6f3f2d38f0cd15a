"""Sigmoid focal loss (Lin et al. 2017, arXiv:1708.02002) + smooth L1; docs/reference.md, "Loss"."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype


class MultiBoxLoss(nn.Cell):
    """(pred_loc [B, N, 4], pred_label [B, N, C], gt_loc [B, N, 4], gt_label [B, N], num_match [B]) -> scalar.

    `(sum of focal over all C columns + sum of smooth L1 where label > 0) / max(sum of num_match, 1)`:
    divided by the matches of this device's batch, by 1 when there is none.
    """

    def __init__(self, num_classes: int = 81, gamma: float = 2.0, alpha: float = 0.25):
        super().__init__()
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
        self.less, self.stack = ops.Less(), ops.Stack()
        self.zero, self.one = Tensor(0, mstype.int32), Tensor(1.0, mstype.float32)

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

    def parts(self, pred_loc, pred_label, gt_loc, gt_label, num_match):
        """[2]: the classes' and the boxes' share of the loss."""
        labels = gt_label.astype(mstype.int32)
        # a sum over everything at once runs on one core of a CPU
        classification = self.sum(self.sum(self.focal(pred_label.astype(mstype.float32), labels), -1))
        object_rows = self.expand(self.greater(labels, self.zero).astype(mstype.float32), -1)
        location = self.sum(self.smooth_l1(pred_loc.astype(mstype.float32), gt_loc) * object_rows)
        matches = self.maximum(self.sum(num_match.astype(mstype.float32)), self.one)
        return self.stack((classification, location)) / matches

    def construct(self, pred_loc, pred_label, gt_loc, gt_label, num_match):
        return self.sum(self.parts(pred_loc, pred_label, gt_loc, gt_label, num_match))
