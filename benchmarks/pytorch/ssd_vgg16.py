"""SSD300 on VGG16 in PyTorch."""

from __future__ import annotations

from torch import nn

from benchmarks.pytorch.layers import PerLevelSSD


def conv(into: int, out: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, stride, padding, dilation, bias=False)


class Network(PerLevelSSD):
    def __init__(self):
        super().__init__((512, 1024, 512, 256, 256, 256))
        blocks, into = [], 3
        for out, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            cells = []
            for _ in range(count):
                cells += [conv(into, out, 3, padding=1), nn.ReLU(True)]
                into = out
            blocks.append(nn.Sequential(*cells))
        pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.first = nn.Sequential(blocks[0], pool, blocks[1], pool, blocks[2], pool, blocks[3])
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    *(pool, blocks[4], nn.MaxPool2d(3, 1, 1)),
                    *(conv(512, 1024, 3, padding=6, dilation=6), nn.Dropout(), conv(1024, 1024, 1), nn.Dropout()),
                ),
                nn.Sequential(conv(1024, 256, 1, padding=1), conv(256, 512, 3, 2)),
                nn.Sequential(conv(512, 128, 1, padding=1), conv(128, 256, 3, 2)),
                nn.Sequential(conv(256, 128, 1), conv(128, 256, 3)),
                nn.Sequential(conv(256, 128, 1), conv(128, 256, 3)),
            ]
        )

    def features(self, x):
        maps = [self.first(x)]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps
