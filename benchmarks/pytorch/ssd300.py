"""SSD300 on MobileNetV2 in PyTorch."""

from __future__ import annotations

from torch import nn

from benchmarks.pytorch.layers import PerLevelSSD, conv_bn


class InvertedResidual(nn.Module):
    def __init__(self, into: int, out: int, stride: int, expansion: float, last: bool = False):
        super().__init__()
        hidden = round(into * expansion)
        cells = [conv_bn(into, hidden, 1)] if expansion != 1 else []
        cells += [conv_bn(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, out, 1, bias=False)]
        cells += [nn.BatchNorm2d(out)] + [nn.ReLU6(True)] * last
        self.body, self.adds = nn.Sequential(*cells), stride == 1 and into == out

    def forward(self, x):
        return x + self.body(x) if self.adds else self.body(x)


class Network(PerLevelSSD):
    def __init__(self):
        channels = (576, 1280, 512, 256, 256, 128)
        super().__init__(channels)
        blocks, into = [conv_bn(3, 32, 3, 2)], 32
        stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
        for expansion, out, count, stride in (*stages, (6, 320, 1, 1)):
            for number in range(count):
                blocks.append(InvertedResidual(into, out, stride if number == 0 else 1, expansion))
                into = out
        self.first = nn.Sequential(*blocks[:14])
        self.second = nn.Sequential(*blocks[14:], conv_bn(into, 1280, 1))
        self.expand = conv_bn(96, 576, 1)
        extras = zip(channels[1:], channels[2:], (0.2, 0.25, 0.5, 0.25))
        self.extras = nn.ModuleList(InvertedResidual(into, out, 2, ratio, True) for into, out, ratio in extras)

    def features(self, x):
        x = self.first(x)
        maps = [self.expand(x), self.second(x)]
        for block in self.extras:
            maps.append(block(maps[-1]))
        return maps
