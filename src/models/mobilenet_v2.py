"""MobileNetV2 backbone (Sandler et al. 2018, arXiv:1801.04381) and SSD300 on it; docs/reference.md, "MobileNetV2"."""

from __future__ import annotations

import re
from typing import Sequence

from mindspore import nn

from src.models.head import PerLevelHead
from src.models.layers import BatchNorm2d, ConvBnRelu6, conv
from src.models.ssd import SSD

# expansion, output channels, number of blocks and stride of the first one
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# blocks of the first list, whose last output is level 0
_SPLIT = 14


class InvertedResidual(nn.Cell):
    """1x1 that expands, depthwise 3x3 that carries the stride, 1x1 without activation; added to the input where the
    shapes are equal.

    Args:
        expansion: hidden channels as a multiple of the input's; 1 leaves the first convolution out.
        last_relu6: an activation after all.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int,
        expansion: float,
        last_relu6: bool = False,
        symmetric: bool = False,
    ):
        super().__init__()
        hidden = round(channels_in * expansion)
        cells = [ConvBnRelu6(channels_in, hidden, 1)] if expansion != 1 else []
        cells += [
            ConvBnRelu6(hidden, hidden, 3, stride, group=hidden, symmetric=symmetric),
            conv(hidden, channels_out, 1),
            BatchNorm2d(channels_out, eps=1e-3, momentum=0.97),
        ]
        self.conv = nn.SequentialCell(cells)
        self.adds = stride == 1 and channels_in == channels_out
        self.last_relu6 = last_relu6
        self.relu6 = nn.ReLU6()

    # with code behind the `if`s, MindSpore 1.10 compiles 17 of these blocks for minutes instead of 2 seconds
    def construct(self, x):
        if self.last_relu6:
            return self.relu6(self.residual(x))
        return self.residual(x)

    def residual(self, x):
        if self.adds:
            return self.conv(x) + x
        return self.conv(x)


class MobileNetV2(nn.Cell):
    """[B, 3, H, W] -> levels 0 and 1: [B, 576, H/16, W/16], [B, 1280, H/32, W/32].

    Args:
        symmetric: pad strided layers alike on both sides, as PyTorch does.
    """

    def __init__(self, symmetric: bool = False):
        super().__init__()
        # block 14 has an expansion of the same shape; in the published network the two share no weights
        self.expand_layer_conv_13 = ConvBnRelu6(96, 576, 1)
        blocks, channels = [ConvBnRelu6(3, 32, 3, 2, symmetric=symmetric)], 32
        for expansion, channels_out, count, first_stride in _STAGES:
            for number in range(count):
                stride = first_stride if number == 0 else 1
                blocks.append(InvertedResidual(channels, channels_out, stride, expansion, symmetric=symmetric))
                channels = channels_out
        blocks.append(ConvBnRelu6(channels, 1280, 1))
        self.features_1 = nn.SequentialCell(blocks[:_SPLIT])
        self.features_2 = nn.SequentialCell(blocks[_SPLIT:])

    def construct(self, x):
        x = self.features_1(x)
        return self.expand_layer_conv_13(x), self.features_2(x)


class SSD300(SSD):
    """SSD300 on MobileNetV2: six levels, the last four of inverted residuals of stride 2.

    Args:
        extras: (input, output channels, stride, expansion) of each of them.
    """

    def __init__(self, head: nn.Cell, extras: Sequence[tuple], symmetric: bool):
        super().__init__("backbone.")
        self.backbone = MobileNetV2(symmetric)
        self.multi_residual = nn.CellList([InvertedResidual(*extra, last_relu6=True) for extra in extras])
        self.multi_box = head

    def features(self, x):
        maps = self.backbone(x)
        for block in self.multi_residual:
            maps += (block(maps[-1]),)
        return maps

    def name_in_backbone_file(self, name: str) -> str:
        """A MobileNetV2 classifier has one list of 19 blocks; the expansion of level 0 is block 14's."""
        name = super().name_in_backbone_file(name)
        name = name.replace("expand_layer_conv_13.", f"features.{_SPLIT}.conv.0.")
        name = re.sub(r"^features_2\.(\d+)", lambda match: f"features.{int(match.group(1)) + _SPLIT}", name)
        return name.replace("features_1.", "features.")


def build_ssd300(cfg) -> SSD300:
    """`model_name: ssd300`."""
    lists = cfg.extras_in_channels, cfg.extras_out_channels, cfg.extras_strides, cfg.extras_ratio
    head = PerLevelHead(cfg.num_classes, cfg.extras_out_channels, cfg.num_default)
    return SSD300(head, list(zip(*lists))[2:], cfg.backbone_padding == "symmetric")
