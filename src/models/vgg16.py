"""VGG16 backbone (Simonyan and Zisserman 2014, arXiv:1409.1556) and SSD300 on it; docs/reference.md, "VGG16"."""

from __future__ import annotations

import re

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from src.models.head import PerLevelHead
from src.models.layers import BatchNorm2d, SymmetricPad, conv
from src.models.ssd import SSD

_BLOCKS = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))


class VGG16(nn.Cell):
    """[B, 3, H, W] -> [B, 512, H/8, W/8] before the fourth pooling, [B, 512, H/16, W/16] after the fifth.

    Args:
        has_bn: BN after each convolution.
    """

    def __init__(self, has_bn: bool = False):
        super().__init__()
        self.b1, self.b2, self.b3, self.b4, self.b5 = (self._block(*block, has_bn) for block in _BLOCKS)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2, pad_mode="same")
        # 3x3 of stride 1, after a ReLU, where zeros never win
        self.last_pool = nn.SequentialCell([SymmetricPad(1), nn.MaxPool2d(kernel_size=3, stride=1, pad_mode="valid")])

    @staticmethod
    def _block(channels_in: int, channels_out: int, count: int, has_bn: bool) -> nn.SequentialCell:
        cells = []
        for number in range(count):
            cells.append(conv(channels_in if number == 0 else channels_out, channels_out, 3))
            if has_bn:
                cells.append(BatchNorm2d(channels_out, eps=1e-5, momentum=0.9))
            cells.append(nn.ReLU())
        return nn.SequentialCell(cells)

    def construct(self, x):
        x = self.pool(self.b1(x))
        x = self.pool(self.b2(x))
        x = self.pool(self.b3(x))
        level0 = self.b4(x)
        return level0, self.last_pool(self.b5(self.pool(level0)))


class Dropout(nn.Dropout):
    """Half of the values are zero in training, the others are doubled; nothing in evaluation.

    Which ones is a function of the values themselves, so that a resumed run drops what the uninterrupted one drops,
    and every rank and image something else. MindSpore's own operator has a hidden state that no checkpoint can hold.
    """

    def __init__(self, channels: int, side: int):
        super().__init__()
        rng = np.random.default_rng([mindspore.get_seed() or 0, channels, side])
        # frac(offset + rate * key): for each key another, unrelated set of the cells
        self.offset, self.rate = (Tensor(rng.random((1, channels, side, side), np.float32)) for _ in range(2))
        self.sum, self.floor, self.abs = ops.ReduceSum(keep_dims=True), ops.Floor(), ops.Abs()

    def construct(self, x):
        if not self.training:
            return x
        values = ops.stop_gradient(x).astype(mstype.float32)
        key = self._fraction(self.sum(self.abs(values), (1, 2, 3)) * 0.6180339) * 1000.0 + 100.0
        keep = self._fraction(self.offset + self.rate * key) >= 0.5
        return x * (keep.astype(x.dtype) * 2)

    def _fraction(self, x):
        return x - self.floor(x)


class SSDVGG16(SSD):
    """SSD300 on VGG16: six levels. All that follows the backbone is linear, as published."""

    backbone_file_question = "does pretrain_vgg_bn say whether that file's VGG16 has BN?"

    def __init__(self, head: nn.Cell, has_bn: bool, file_has_bn: bool, side: int):
        super().__init__("backbone.")
        self.backbone = VGG16(has_bn)
        self.b6_1 = conv(512, 1024, 3, dilation=6, padding=6)
        self.b6_2 = Dropout(1024, side)
        self.b7_1 = conv(1024, 1024, 1)
        self.b7_2 = Dropout(1024, side)
        self.b8_1 = conv(1024, 256, 1, padding=1)
        self.b8_2 = conv(256, 512, 3, 2, padding=0)
        self.b9_1 = conv(512, 128, 1, padding=1)
        self.b9_2 = conv(128, 256, 3, 2, padding=0)
        self.b10_1 = conv(256, 128, 1)
        self.b10_2 = conv(128, 256, 3, padding=0)
        self.b11_1 = conv(256, 128, 1)
        self.b11_2 = conv(128, 256, 3, padding=0)
        self.multi_box = head
        self.per_conv, self.per_conv_in_file = (3 if bn else 2 for bn in (has_bn, file_has_bn))

    def features(self, x):
        level0, x = self.backbone(x)
        level1 = self.b7_2(self.b7_1(self.b6_2(self.b6_1(x))))
        level2 = self.b8_2(self.b8_1(level1))
        level3 = self.b9_2(self.b9_1(level2))
        level4 = self.b10_2(self.b10_1(level3))
        return level0, level1, level2, level3, level4, self.b11_2(self.b11_1(level4))

    def name_in_backbone_file(self, name: str) -> str:
        """A VGG16 classifier has one list `layers` of convolutions, BN, ReLU and pooling; BN is not read."""
        match = re.match(r"b(\d)\.(\d+)\.weight$", super().name_in_backbone_file(name))
        if match is None:
            return ""
        block, place = (int(number) for number in match.groups())
        before = sum(count for _, _, count in _BLOCKS[: block - 1])
        # a pooling after each block
        number = (before + place // self.per_conv) * self.per_conv_in_file + block - 1
        return f"layers.{number}.weight"


def build_ssd_vgg16(cfg) -> SSDVGG16:
    """`model_name: ssd_vgg16`."""
    head = PerLevelHead(cfg.num_classes, cfg.extras_out_channels, cfg.num_default)
    return SSDVGG16(head, cfg.ssd_vgg_bn, cfg.pretrain_vgg_bn, cfg.feature_size[1])
