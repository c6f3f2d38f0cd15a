"""SSD300 on MobileNetV1 in PyTorch."""

from __future__ import annotations

from torch import nn

from benchmarks.pytorch.layers import MobileNetV1, PerLevelSSD, conv_bn


class Network(PerLevelSSD):
    def __init__(self):
        channels = (512, 1024, 512, 256, 256, 128)
        super().__init__(channels)
        self.backbone = MobileNetV1((14, 26))
        self.extras = nn.ModuleList(conv_bn(into, out, 3, 2) for into, out in zip(channels[1:], channels[2:]))

    def features(self, x):
        maps = self.backbone(x)
        for block in self.extras:
            maps.append(block(maps[-1]))
        return maps
