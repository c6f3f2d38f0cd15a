"""ResNet50-FPN in PyTorch."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from benchmarks.pytorch.layers import FpnSSD


class Bottleneck(nn.Module):
    def __init__(self, into: int, out: int, stride: int):
        super().__init__()
        width = out // 4
        self.body = nn.Sequential(
            *(nn.Conv2d(into, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)),
            *(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)),
        )
        self.side = nn.Identity()
        if stride != 1 or into != out:
            self.side = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        return F.relu(self.body(x) + self.side(x), True)


class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)
        )
        layers, into = [], 64
        for count, out, stride in ((3, 256, 1), (4, 512, 2), (6, 1024, 2), (3, 2048, 2)):
            blocks = [Bottleneck(into, out, stride), *(Bottleneck(out, out, 1) for _ in range(count - 1))]
            layers.append(nn.Sequential(*blocks))
            into = out
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        features = []
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features[1:]


def Network() -> FpnSSD:
    return FpnSSD(ResNet50(), (512, 1024, 2048))
