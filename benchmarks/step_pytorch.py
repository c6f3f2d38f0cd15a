"""Times the same network in PyTorch, for `scripts/benchmark.py step`; runs in a Python with torch.

    python3 benchmarks/step_pytorch.py BATCH SIZE STEPS [MODEL [cpu|cuda [float32|tf32|float16|bfloat16]]]

Prints one JSON line: seconds per step and per forward pass of one image, and GiB of memory (of the process on a CPU,
else of the device). Layers, sizes, loss and update are the same; the weights need not be the same to compare times.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
import time

import torch
from torch.nn import functional as F

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


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


def main(
    batch: int,
    size: int,
    steps: int,
    model_name: str = "ssd_resnet50_fpn",
    device: str = "cpu",
    precision: str = "float32",
) -> None:
    torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    model = importlib.import_module(f"benchmarks.pytorch.{model_name}").Network().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=4e-4)
    scaler = torch.amp.GradScaler(device, enabled=precision == "float16")
    images = torch.randn(batch, 3, size, size, device=device)
    with torch.no_grad():
        boxes = model(images)[0].shape[1]
    label = (torch.rand(batch, boxes) < 0.003).long().to(device)
    gt_loc = torch.randn(*label.shape, 4, device=device)
    matches = max(float(label.sum()), 1.0)

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
