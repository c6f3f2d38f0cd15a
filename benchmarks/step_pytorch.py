"""Times the same network in PyTorch, for `scripts/benchmark.py step`; runs in a Python with torch.

    python3 benchmarks/step_pytorch.py BATCH SIZE STEPS [cpu|cuda] [float32|tf32|float16|bfloat16]

Prints one JSON line: seconds per step and per forward pass of one image, and GiB of memory (of the process on a CPU,
else of the device). Layers, sizes, loss and update are the same; the weights need not be the same to compare times.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


def conv_bn(into: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6(True))


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


class SSD(nn.Module):
    def __init__(self, classes: int = 81, boxes: int = 6, width: int = 256):
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
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in (512, 1024, 2048))
        self.smooth = nn.ModuleList(conv_bn(width, width, 3) for _ in range(3))
        self.down = nn.ModuleList(conv_bn(width, width, 3, 2) for _ in range(2))
        self.towers = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4)) for _ in "lc"
        )
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for _ in range(20)) for _ in "lc")
        self.last = nn.ModuleList(nn.Conv2d(width, boxes * count, 3, padding=1) for count in (4, classes))

    def forward(self, x):
        features = []
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        top = self.lateral[2](features[3])
        middle = self.lateral[1](features[2]) + F.interpolate(top, scale_factor=2, mode="bilinear")
        bottom = self.lateral[0](features[1]) + F.interpolate(middle, scale_factor=2, mode="bilinear")
        maps = [smooth(level) for smooth, level in zip(self.smooth, (bottom, middle, top))]
        for block in self.down:
            maps.append(block(maps[-1]))
        outputs = []
        for tower, norms, last, size in zip(self.towers, self.norms, self.last, (4, 81)):
            levels = []
            for number, level in enumerate(maps):
                for step, conv in enumerate(tower):
                    level = F.relu6(norms[5 * step + number](conv(level)), True)
                levels.append(last(level).permute(0, 2, 3, 1).reshape(len(level), -1, size))
            outputs.append(torch.cat(levels, 1))
        return outputs


def loss_of(loc, logits, gt_loc, gt_label, matches):
    target = F.one_hot(gt_label, 81).float()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    wrong = target + probability - 2 * target * probability
    focal = ((0.75 - 0.5 * target) * wrong * wrong * entropy).sum()
    rows = gt_label > 0
    return (focal + F.smooth_l1_loss(loc[rows], gt_loc[rows], reduction="sum")) / matches


def precision_of(name: str, device: str):
    """The context to run the network in: float32 (without TF32), tf32, float16 or bfloat16."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    if name in ("float32", "tf32"):
        return contextlib.nullcontext()
    return torch.autocast(device, getattr(torch, name))


def main(batch: int, size: int, steps: int, device: str = "cpu", precision: str = "float32") -> None:
    torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    model = SSD().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=4e-4)
    scaler = torch.amp.GradScaler(device, enabled=precision == "float16")
    images = torch.randn(batch, 3, size, size, device=device)
    label = (torch.rand(batch, 51150 * size * size // 640**2) < 0.003).long().to(device)
    gt_loc = torch.randn(*label.shape, 4, device=device)
    matches = float(label.sum())

    def step() -> None:
        optimizer.zero_grad()
        with precision_of(precision, device):
            loc, logits = model(images)
        scaler.scale(loss_of(loc.float(), logits.float(), gt_loc, label, matches)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    def forward() -> None:
        with precision_of(precision, device), torch.no_grad():
            model(images[:1])

    def timed(call, repeats: int) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    seconds = timed(step, steps)
    if device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    else:
        peak = torch.cuda.max_memory_reserved() / 2**30
    model.eval()
    print(json.dumps({"step": seconds, "forward": timed(forward, 4 * steps), "peak": peak}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:])
