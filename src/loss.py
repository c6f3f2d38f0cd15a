"""MultiBox loss: sigmoid focal loss (Lin et al. 2017, arXiv:1708.02002) + smooth L1, SPEC section 5."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype


class FocalLoss(nn.Cell):
    """logits [B, N, C], labels [B, N] -> sum over everything of the sigmoid focal loss with one-hot targets.

    The gradient is written out: keeping what automatic differentiation needs takes ten arrays of the logits' size.
    """

    def __init__(self, num_classes: int, gamma: float, alpha: float):
        super().__init__()
        self.gamma, self.alpha = float(gamma), float(alpha)
        self.columns = Tensor(np.arange(num_classes, dtype=np.int32).reshape(1, 1, -1))
        self.abs, self.exp, self.log1p, self.pow = ops.Abs(), ops.Exp(), ops.Log1p(), ops.Pow()
        self.relu, self.sigmoid, self.equal = ops.ReLU(), ops.Sigmoid(), ops.Equal()
        self.expand, self.sum, self.zeros = ops.ExpandDims(), ops.ReduceSum(), ops.ZerosLike()

    def factors(self, logits, labels):
        """(one-hot target, probability p, cross entropy, 1 - p_t, alpha_t), each [B, N, C]."""
        target = self.equal(self.expand(labels, -1), self.columns).astype(mstype.float32)
        probability = self.sigmoid(logits)
        # stable for large |x|
        entropy = self.relu(logits) - logits * target + self.log1p(self.exp(-self.abs(logits)))
        wrong = target + probability - 2.0 * target * probability
        # alpha for the one, 1 - alpha for the zeros
        weight = 1.0 - self.alpha + (2.0 * self.alpha - 1.0) * target
        return target, probability, entropy, wrong, weight

    def power(self, wrong, exponent):
        """wrong ** exponent."""
        if exponent == 2.0:
            return wrong * wrong
        if exponent == 1.0:
            return wrong
        return self.pow(wrong, exponent)

    def construct(self, logits, labels):
        _, _, entropy, wrong, weight = self.factors(logits, labels)
        return self.sum(weight * self.power(wrong, self.gamma) * entropy)

    def bprop(self, logits, labels, out, dout):
        """d(weight * wrong^gamma * entropy) / d logits; d wrong = (1 - 2 t) p (1 - p), d entropy = p - t."""
        target, probability, entropy, wrong, weight = self.factors(logits, labels)
        slope = (1.0 - 2.0 * target) * probability * (1.0 - probability)
        gradient = self.power(wrong, self.gamma) * (probability - target)
        if self.gamma > 0:
            gradient += self.gamma * self.power(wrong, self.gamma - 1.0) * slope * entropy
        return weight * gradient * dout, self.zeros(labels)


class MultiBoxLoss(nn.Cell):
    """(pred_loc [B, N, 4], pred_label [B, N, C], gt_loc [B, N, 4], gt_label [B, N], num_match [B]) -> scalar.

    `(sum of focal over all C columns + sum of smooth L1 where label > 0) / max(sum of num_match, 1)`:
    divided by the matches of this device's whole batch, by 1 when there is none.
    """

    def __init__(self, num_classes: int = 81, gamma: float = 2.0, alpha: float = 0.25):
        super().__init__()
        self.focal = FocalLoss(num_classes, gamma, alpha)
        self.abs, self.greater, self.expand, self.maximum = ops.Abs(), ops.Greater(), ops.ExpandDims(), ops.Maximum()
        self.sum, self.select, self.less, self.stack = ops.ReduceSum(), ops.Select(), ops.Less(), ops.Stack()
        self.zero, self.one = Tensor(0, mstype.int32), Tensor(1.0, mstype.float32)

    def smooth_l1(self, prediction, target):
        """Smooth L1 with beta 1, elementwise."""
        size = self.abs(prediction - target)
        return self.select(self.less(size, self.one), 0.5 * size * size, size - 0.5)

    def parts(self, pred_loc, pred_label, gt_loc, gt_label, num_match):
        """[2]: the classes' and the boxes' share of the loss."""
        labels = gt_label.astype(mstype.int32)
        classification = self.focal(pred_label.astype(mstype.float32), labels)
        object_rows = self.expand(self.greater(labels, self.zero).astype(mstype.float32), -1)
        location = self.sum(self.smooth_l1(pred_loc.astype(mstype.float32), gt_loc) * object_rows)
        matches = self.maximum(self.sum(num_match.astype(mstype.float32)), self.one)
        return self.stack((classification, location)) / matches

    def construct(self, pred_loc, pred_label, gt_loc, gt_label, num_match):
        return self.sum(self.parts(pred_loc, pred_label, gt_loc, gt_label, num_match))
