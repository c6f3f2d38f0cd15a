"""MultiBox heads: shared by all levels, or predictors for each level; docs/reference.md, "Head" and "SSD300 head"."""

from __future__ import annotations

from typing import Sequence

from mindspore import dtype as mstype
from mindspore import nn, ops

from src.models.layers import BatchNorm2d, conv, conv_bn_relu6


class TowerLayer(nn.Cell):
    """A convolution (shared by the levels), the level's own BN, ReLU6."""

    def __init__(self, shared_conv: nn.Conv2d, channels: int):
        super().__init__()
        self.features = nn.SequentialCell([shared_conv, BatchNorm2d(channels, eps=1e-3, momentum=0.97), nn.ReLU6()])
        # called one by one: the loop of SequentialCell takes a second more to compile
        self.convolve, self.norm, self.relu6 = self.features

    def construct(self, x):
        return self.relu6(self.norm(self.convolve(x)))


def _towers(levels: int, depth: int, channels: int) -> nn.CellList:
    # The convolutions are the same objects on every level, so they carry the names of level 0 alone
    convs = [conv(channels, channels, 3, has_bias=True) for _ in range(depth)]
    return nn.CellList([nn.SequentialCell([TowerLayer(shared, channels) for shared in convs]) for _ in range(levels)])


class PredictionRows(nn.Cell):
    """Maps of each level, [B, boxes per cell * columns, h, w] -> [B, N, columns], float32: levels in order, cells row
    by row, the boxes of a cell innermost."""

    def __init__(self, columns: int):
        super().__init__()
        self.columns = columns
        self.transpose, self.reshape, self.concat = ops.Transpose(), ops.Reshape(), ops.Concat(1)

    def construct(self, maps):
        rows = ()
        for level in maps:
            rows += (self.reshape(self.transpose(level, (0, 2, 3, 1)), (level.shape[0], -1, self.columns)),)
        return self.concat(rows).astype(mstype.float32)


class MultiBoxHead(nn.Cell):
    """P3..P7 [B, channels, h, w] -> pred_loc [B, N, 4] and pred_label [B, N, num_classes] (logits), float32."""

    def __init__(self, num_classes: int, num_default: int = 6, levels: int = 5, depth: int = 4, channels: int = 256):
        super().__init__()
        self.addition_layer_loc = _towers(levels, depth, channels)
        self.addition_layer_cls = _towers(levels, depth, channels)
        self.loc_layers = nn.CellList([conv(channels, num_default * 4, 3, has_bias=True)])
        self.cls_layers = nn.CellList([conv(channels, num_default * num_classes, 3, has_bias=True)])
        self.levels = levels
        self.loc_rows, self.label_rows = PredictionRows(4), PredictionRows(num_classes)

    def construct(self, features):
        locs, labels = (), ()
        for level in range(self.levels):
            x = features[level]
            locs += (self.loc_layers[0](self.addition_layer_loc[level](x)),)
            labels += (self.cls_layers[0](self.addition_layer_cls[level](x)),)
        return self.loc_rows(locs), self.label_rows(labels)


def _separable_predictor(channels: int, outputs: int) -> nn.SequentialCell:
    """Depthwise 3x3, BN, ReLU6, 1x1 with bias; names `0.weight`, `1.*`, `3.weight`, `3.bias`."""
    depthwise = conv_bn_relu6(channels, channels, 3, group=channels, eps=1e-3, momentum=0.97)
    return nn.SequentialCell([*depthwise, conv(channels, outputs, 1, has_bias=True)])


class PerLevelHead(nn.Cell):
    """Maps [B, channels[k], h, w] of each level -> pred_loc [B, N, 4] and pred_label [B, N, num_classes], as above.

    Args:
        channels: of each level's map.
        num_default: default boxes per cell of each level.
    """

    def __init__(self, num_classes: int, channels: Sequence[int], num_default: Sequence[int]):
        super().__init__()
        pairs = list(zip(channels, num_default))
        self.multi_loc_layers = nn.CellList([_separable_predictor(count, boxes * 4) for count, boxes in pairs])
        self.multi_cls_layers = nn.CellList(
            [_separable_predictor(count, boxes * num_classes) for count, boxes in pairs]
        )
        self.levels = len(pairs)
        self.loc_rows, self.label_rows = PredictionRows(4), PredictionRows(num_classes)

    def construct(self, features):
        locs, labels = (), ()
        for level in range(self.levels):
            locs += (self.multi_loc_layers[level](features[level]),)
            labels += (self.multi_cls_layers[level](features[level]),)
        return self.loc_rows(locs), self.label_rows(labels)
