"""The weight-shared MultiBox head; docs/reference.md, "Head"."""

from __future__ import annotations

from mindspore import dtype as mstype
from mindspore import nn, ops

from src.models.layers import BatchNorm2d, Chain, conv


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
    return nn.CellList([Chain([TowerLayer(shared, channels) for shared in convs]) for _ in range(levels)])


class MultiBoxHead(nn.Cell):
    """P3..P7 [B, channels, h, w] -> pred_loc [B, N, 4] and pred_label [B, N, num_classes] (logits), float32."""

    def __init__(self, num_classes: int, num_default: int = 6, levels: int = 5, depth: int = 4, channels: int = 256):
        super().__init__()
        self.addition_layer_loc = _towers(levels, depth, channels)
        self.addition_layer_cls = _towers(levels, depth, channels)
        self.loc_layers = nn.CellList([conv(channels, num_default * 4, 3, has_bias=True)])
        self.cls_layers = nn.CellList([conv(channels, num_default * num_classes, 3, has_bias=True)])
        self.levels, self.num_classes = levels, num_classes
        self.transpose, self.reshape, self.concat = ops.Transpose(), ops.Reshape(), ops.Concat(1)

    def construct(self, features):
        locs, labels = (), ()
        for level in range(self.levels):
            x = features[level]
            loc = self.loc_layers[0](self.addition_layer_loc[level](x))
            label = self.cls_layers[0](self.addition_layer_cls[level](x))
            batch = x.shape[0]
            locs += (self.reshape(self.transpose(loc, (0, 2, 3, 1)), (batch, -1, 4)),)
            labels += (self.reshape(self.transpose(label, (0, 2, 3, 1)), (batch, -1, self.num_classes)),)
        return self.concat(locs).astype(mstype.float32), self.concat(labels).astype(mstype.float32)
