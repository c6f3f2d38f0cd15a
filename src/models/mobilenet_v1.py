"""MobileNetV1 backbone (Howard et al. 2017, arXiv:1704.04861) and its networks; docs/reference.md, "MobileNetV1"."""

from __future__ import annotations

from typing import Sequence

from mindspore import nn

from src.models.fpn import SSDFpn, build_ssd_fpn
from src.models.head import PerLevelHead
from src.models.layers import ConvBnRelu6, conv_bn_relu6
from src.models.ssd import SSD

# stride of the depthwise convolution and output channels of each pair of depthwise and 1x1 convolution
_PAIRS = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024))


class MobileNetV1(nn.Cell):
    """[B, 3, H, W] -> the outputs of some blocks.

    Args:
        outputs: numbers of three blocks at most, rising; the last is 26. Block 10 has stride 8 and 256 channels, 14 and
            22 have 16 and 512, 26 has 32 and 1024.
        symmetric: pad strided layers alike on both sides, as PyTorch does.
    """

    def __init__(self, outputs: Sequence[int], symmetric: bool = False):
        super().__init__()
        blocks, channels, counts = [conv_bn_relu6(3, 32, 3, 2, symmetric)], 32, [32]
        for stride, channels_out in _PAIRS:
            blocks.append(conv_bn_relu6(channels, channels, 3, stride, symmetric, group=channels))
            blocks.append(conv_bn_relu6(channels, channels_out, 1))
            counts += [channels, channels_out]
            channels = channels_out
        self.network = nn.CellList(blocks)
        self.outputs = tuple(outputs)
        self.out_channels = tuple(counts[block] for block in outputs)

    def construct(self, x):
        found = ()
        for number in range(len(self.network)):
            x = self.network[number](x)
            if number in self.outputs:
                found += (x,)
        return found


def build_ssd_mobilenet_v1_fpn(cfg) -> SSDFpn:
    """`model_name: ssd_mobilenet_v1_fpn`."""
    return build_ssd_fpn(cfg, MobileNetV1((10, 22, 26), cfg.backbone_padding == "symmetric"), "mobilenet_v1")


class _NamePrefix(nn.Cell):
    """Gives the backbone the name that published checkpoints have for it."""

    def __init__(self, backbone: nn.Cell):
        super().__init__()
        self.mobilenet_v1 = backbone

    def construct(self, x):
        return self.mobilenet_v1(x)


class SSDMobileNetV1(SSD):
    """SSD300 on MobileNetV1: six levels, the last four of plain convolutions of stride 2.

    Args:
        extras: (input, output channels, stride) of each of them.
    """

    def __init__(self, head: nn.Cell, extras: Sequence[tuple], symmetric: bool):
        super().__init__("feature_extractor.mobilenet_v1.")
        self.multi_box = head
        # block 14 is the second of 512 channels, not the last (22) as in the paper: so it was published
        self.feature_extractor = _NamePrefix(MobileNetV1((14, 26), symmetric))
        self.multi_residual = nn.CellList([ConvBnRelu6(before, after, 3, stride) for before, after, stride in extras])

    def features(self, x):
        maps = self.feature_extractor(x)
        for block in self.multi_residual:
            maps += (block(maps[-1]),)
        return maps


def build_ssd_mobilenet_v1(cfg) -> SSDMobileNetV1:
    """`model_name: ssd_mobilenet_v1`."""
    extras = list(zip(cfg.extras_in_channels, cfg.extras_out_channels, cfg.extras_strides))[2:]
    head = PerLevelHead(cfg.num_classes, cfg.extras_out_channels, cfg.num_default)
    return SSDMobileNetV1(head, extras, cfg.backbone_padding == "symmetric")
