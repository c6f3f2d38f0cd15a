"""Feature pyramid (Lin et al. 2016, arXiv:1612.03144), P3 to P7; docs/reference.md, "Feature pyramid"."""

from __future__ import annotations

from typing import Sequence

from mindspore import nn, ops

from src.models.head import MultiBoxHead
from src.models.layers import conv, conv_bn_relu6
from src.models.ssd import SSD


class UpsampleBilinear2x(nn.Cell):
    """Bilinear resize to twice the size by the old TensorFlow rule (source = destination / 2).

    Row 2i is row i, row 2i+1 the mean of rows i and i+1 (the last one repeats): shifts and means in
    place of the resize operator, which has another name in each MindSpore and no ONNX counterpart.
    """

    def __init__(self):
        super().__init__()
        self.concat_rows, self.concat_columns = ops.Concat(2), ops.Concat(3)
        self.stack_rows, self.stack_columns = ops.Stack(3), ops.Stack(4)
        self.slice, self.reshape = ops.StridedSlice(), ops.Reshape()

    def construct(self, x):
        b, c, h, w = x.shape
        below = self.concat_rows((self._from(x, (0, 0, 1, 0)), self._from(x, (0, 0, h - 1, 0))))
        x = self.reshape(self.stack_rows((x, (x + below) * 0.5)), (b, c, 2 * h, w))
        right = self.concat_columns((self._from(x, (0, 0, 0, 1)), self._from(x, (0, 0, 0, w - 1))))
        return self.reshape(self.stack_columns((x, (x + right) * 0.5)), (b, c, 2 * h, 2 * w))

    def _from(self, x, begin):
        # Python's slices become ten graphs each before the compiler finds this operator
        return self.slice(x, begin, x.shape, (1, 1, 1, 1))


class FPN(nn.Cell):
    """C3, C4, C5 -> P3, P4, P5, each [B, channels, H/s, W/s] at strides 8, 16, 32."""

    def __init__(self, channels_in: Sequence[int], channels: int = 256):
        super().__init__()
        self.lateral_convs_list = nn.CellList([conv(count, channels, 1, has_bias=True) for count in channels_in])
        self.fpn_convs_list = nn.CellList([conv_bn_relu6(channels, channels, 3) for _ in channels_in])
        self.double = UpsampleBilinear2x()

    def construct(self, features):
        c3, c4, c5 = features
        top = self.lateral_convs_list[2](c5)
        middle = self.lateral_convs_list[1](c4) + self.double(top)
        bottom = self.lateral_convs_list[0](c3) + self.double(middle)
        return self.fpn_convs_list[0](bottom), self.fpn_convs_list[1](middle), self.fpn_convs_list[2](top)


class ExtraLevels(nn.Cell):
    """P3, P4, P5 -> P3..P7: two 3x3 blocks of stride 2 on the last level."""

    def __init__(self, channels: int = 256):
        super().__init__()
        self.blocks = nn.CellList([conv_bn_relu6(channels, channels, 3, 2) for _ in range(2)])

    def construct(self, features):
        p3, p4, p5 = features
        p6 = self.blocks[0](p5)
        return p3, p4, p5, p6, self.blocks[1](p6)


class FeatureExtractor(nn.Cell):
    """Backbone and both necks: images [B, 3, H, W] -> P3..P7 (strides 8, 16, 32, 64, 128).

    Args:
        backbone: images -> C3, C4, C5, with their numbers of channels in `out_channels`.
        name: of the attribute that holds it, which is part of its parameters' names.
    """

    def __init__(self, backbone: nn.Cell, name: str, channels: int = 256):
        super().__init__()
        setattr(self, name, backbone)
        self.fpn = FPN(backbone.out_channels, channels)
        self.bottom_up = ExtraLevels(channels)
        # not as a child, which would give the parameters another name
        object.__setattr__(self, "backbone", backbone)

    def construct(self, x):
        return self.bottom_up(self.fpn(self.backbone(x)))


class SSDFpn(SSD):
    """Backbone, FPN and the shared head.

    Args:
        backbone, name: see `FeatureExtractor`.
        head: on P3..P7 of `channels` channels.
    """

    def __init__(self, backbone: nn.Cell, name: str, head: nn.Cell, channels: int):
        super().__init__(f"feature_extractor.{name}.")
        self.multi_box = head
        self.feature_extractor = FeatureExtractor(backbone, name, channels)

    def features(self, x):
        return self.feature_extractor(x)


def build_ssd_fpn(cfg, backbone: nn.Cell, name: str) -> SSDFpn:
    """The network of a config on a backbone."""
    channels = cfg.extras_out_channels[0]
    head = MultiBoxHead(cfg.num_classes, cfg.num_default[0], len(cfg.steps), cfg.num_addition_layers, channels)
    return SSDFpn(backbone, name, head, channels)
