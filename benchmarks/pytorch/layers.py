"""Layers that several of the networks share, in PyTorch."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def conv_bn(into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6(True))


def _rows(maps: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, columns) for level in maps], 1)


class FpnSSD(nn.Module):
    """FPN, two more levels and the shared head on a backbone that returns C3, C4, C5."""

    def __init__(self, backbone: nn.Module, channels: Sequence[int], classes: int = 81, boxes: int = 6):
        super().__init__()
        width = 256
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.smooth = nn.ModuleList(conv_bn(width, width, 3) for _ in range(3))
        self.down = nn.ModuleList(conv_bn(width, width, 3, 2) for _ in range(2))
        self.towers = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4)) for _ in "lc"
        )
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for _ in range(20)) for _ in "lc")
        self.last = nn.ModuleList(nn.Conv2d(width, boxes * count, 3, padding=1) for count in (4, classes))

    def forward(self, x):
        c3, c4, c5 = self.backbone(x)
        top = self.lateral[2](c5)
        middle = self.lateral[1](c4) + F.interpolate(top, scale_factor=2, mode="bilinear")
        bottom = self.lateral[0](c3) + F.interpolate(middle, scale_factor=2, mode="bilinear")
        maps = [smooth(level) for smooth, level in zip(self.smooth, (bottom, middle, top))]
        for block in self.down:
            maps.append(block(maps[-1]))
        outputs = []
        for tower, norms, last, columns in zip(self.towers, self.norms, self.last, (4, 81)):
            levels = []
            for number, level in enumerate(maps):
                for step, conv in enumerate(tower):
                    level = F.relu6(norms[5 * step + number](conv(level)), True)
                levels.append(last(level))
            outputs.append(_rows(levels, columns))
        return outputs


class PerLevelSSD(nn.Module):
    """Separable predictors for each level of a network whose `features` returns the maps."""

    def __init__(self, channels: Sequence[int], classes: int = 81):
        super().__init__()
        boxes = (3, 6, 6, 6, 6, 6)
        self.predictors = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(conv_bn(count, count, 3, groups=count), nn.Conv2d(count, number * columns, 1))
                for count, number in zip(channels, boxes)
            )
            for columns in (4, classes)
        )

    def forward(self, x):
        maps = self.features(x)
        return [
            _rows([predict(level) for predict, level in zip(predictors, maps)], columns)
            for predictors, columns in zip(self.predictors, (4, 81))
        ]


class MobileNetV1(nn.Module):
    """The outputs of some blocks."""

    def __init__(self, outputs: Sequence[int]):
        super().__init__()
        pairs = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024))
        blocks, into = [conv_bn(3, 32, 3, 2)], 32
        for stride, out in pairs:
            blocks += [conv_bn(into, into, 3, stride, into), conv_bn(into, out, 1)]
            into = out
        self.blocks, self.outputs = nn.ModuleList(blocks), outputs

    def forward(self, x):
        found = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.outputs:
                found.append(x)
        return found
