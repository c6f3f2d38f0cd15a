"""SSD (Liu et al. 2015, arXiv:1512.02325) = features + head; inference adds decoding and sigmoid."""

from __future__ import annotations

from typing import Sequence

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from src.models.layers import NormalizePixels


class SSD(nn.Cell):
    """images -> pred_loc [B, N, 4], pred_label [B, N, C] (logits), float32 both.

    images are normalised float32 [B, 3, H, W], or pixels uint8 RGB [B, H, W, 3].

    A network has `multi_box`, its head, and `features`: normalised images -> the maps that the head reads.

    Args:
        backbone: what the names of the backbone's parameters begin with.
    """

    # hint at the end of `load_backbone`'s error about a shape that does not fit
    backbone_file_question = "is it a checkpoint of another backbone?"

    def __init__(self, backbone: str):
        super().__init__()
        self.pixels = NormalizePixels()
        self.backbone_prefix = backbone

    def features(self, x):
        raise NotImplementedError

    def construct(self, x):
        return self.multi_box(self.features(self.pixels(x)))

    def name_in_backbone_file(self, name: str) -> str:
        """What a parameter of the backbone is called in a file of the backbone alone; "" where the file has none.

        Args:
            name: without `network.`
        """
        return name[len(self.backbone_prefix) :]


class SSDInference(nn.Cell):
    """images -> boxes yxyx in [0, 1] [B, N, 4] and sigmoid scores [B, N, C]; docs/reference.md, "Encoding".

    Args:
        model: an `SSD`; kept as `network`, which gives the parameters the names of published checkpoints.
        default_cyxhw: float32 [N, 4], normalised.
        prior_scaling: (centre, size).
    """

    def __init__(self, model: nn.Cell, default_cyxhw: np.ndarray, prior_scaling: Sequence[float]):
        super().__init__()
        self.network = model
        self.centre, self.size = (float(value) for value in prior_scaling)
        default_cyxhw = np.asarray(default_cyxhw, np.float32)
        # Tensors, not Parameters: a Parameter would enter the checkpoint
        self.default_centre = Tensor(default_cyxhw[None, :, :2])
        self.default_size = Tensor(default_cyxhw[None, :, 2:])
        self.exp, self.sigmoid, self.concat = ops.Exp(), ops.Sigmoid(), ops.Concat(-1)
        self.minimum, self.maximum = ops.Minimum(), ops.Maximum()
        self.zero, self.one = Tensor(0.0, mstype.float32), Tensor(1.0, mstype.float32)

    def construct(self, x):
        pred_loc, pred_label = self.network(x)
        centre = pred_loc[:, :, :2] * self.centre * self.default_size + self.default_centre
        half = self.exp(pred_loc[:, :, 2:] * self.size) * self.default_size * 0.5
        boxes = self.concat((centre - half, centre + half))
        return self.maximum(self.minimum(boxes, self.one), self.zero), self.sigmoid(pred_label)
