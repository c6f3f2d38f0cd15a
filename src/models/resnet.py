"""ResNet50 backbone (He et al. 2015, arXiv:1512.03385); docs/reference.md, "Backbone"."""

from __future__ import annotations

from mindspore import nn, ops

from src.models.fpn import SSDFpn, build_ssd_fpn
from src.models.layers import BatchNorm2d, SymmetricPad, conv


def _bn(channels: int, gamma_init: str = "ones") -> BatchNorm2d:
    # MindSpore's momentum is the weight of the old average
    return BatchNorm2d(channels, eps=1e-3, momentum=0.997, gamma_init=gamma_init)


class Bottleneck(nn.Cell):
    """1x1, 3x3 (carries the stride), 1x1; a projection where the stride or the channels change."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, symmetric: bool = False):
        super().__init__()
        width = channels_out // 4
        self.conv1 = conv(channels_in, width, 1)
        self.bn1 = _bn(width)
        self.conv2 = conv(width, width, 3, stride, symmetric=symmetric)
        self.bn2 = _bn(width)
        self.conv3 = conv(width, channels_out, 1)
        self.bn3 = _bn(channels_out, "zeros")  # the block starts as the identity
        self.relu, self.add = ops.ReLU(), ops.Add()
        self.projects = stride != 1 or channels_in != channels_out
        if self.projects:
            self.down_sample_layer = nn.SequentialCell([conv(channels_in, channels_out, 1, stride), _bn(channels_out)])

    def construct(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.projects:
            return self.relu(self.add(out, self.down_sample_layer(x)))
        return self.relu(self.add(out, x))


class ResNet50(nn.Cell):
    """[B, 3, H, W] -> C3, C4, C5: [B, 512, H/8, W/8], [B, 1024, H/16, W/16], [B, 2048, H/32, W/32].

    Args:
        symmetric: pad strided layers alike on both sides, as PyTorch's ResNet50 does. On even sizes MindSpore's "same"
            pads below and to the right only, so every output looks one pixel further (docs/reference.md, "Network").
    """

    out_channels = (512, 1024, 2048)

    def __init__(self, symmetric: bool = False):
        super().__init__()
        self.conv1 = conv(3, 64, 7, 2, symmetric=symmetric)
        self.bn1 = _bn(64)
        self.relu = ops.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, pad_mode="same")
        if symmetric:  # after a ReLU zeros never win; 1.10 has no padding here
            pool = nn.MaxPool2d(kernel_size=3, stride=2, pad_mode="valid")
            self.maxpool = nn.SequentialCell([SymmetricPad(1), pool])
        self.layer1 = self._layer(3, 64, 256, 1, symmetric)
        self.layer2 = self._layer(4, 256, 512, 2, symmetric)
        self.layer3 = self._layer(6, 512, 1024, 2, symmetric)
        self.layer4 = self._layer(3, 1024, 2048, 2, symmetric)

    @staticmethod
    def _layer(blocks: int, channels_in: int, channels_out: int, stride: int, symmetric: bool) -> nn.SequentialCell:
        cells = [Bottleneck(channels_in, channels_out, stride, symmetric)]
        cells += [Bottleneck(channels_out, channels_out, 1) for _ in range(blocks - 1)]
        return nn.SequentialCell(cells)

    def construct(self, x):
        c1 = self.relu(self.bn1(self.conv1(x)))
        c2 = self.layer1(self.maxpool(c1))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        c5 = self.layer4(c4)
        return c3, c4, c5


def build_ssd_resnet50_fpn(cfg) -> SSDFpn:
    """`model_name: ssd_resnet50_fpn`."""
    return build_ssd_fpn(cfg, ResNet50(cfg.backbone_padding == "symmetric"), "resnet")
