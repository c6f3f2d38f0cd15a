"""Times our training step and forward pass, for `scripts/benchmark.py step`; prints one JSON line."""

from __future__ import annotations

import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import numpy as np  # noqa: E402

from benchmarks.data import memory  # noqa: E402
from src.config import load_config  # noqa: E402
from src.utils.device import init_device, prepare_environment  # noqa: E402


def main(batch: int, size: int, steps: int, model_name: str = "ssd_resnet50_fpn") -> None:
    prepare_environment()
    options = ["--device_target=CPU", "--use_float16=False", f"--batch_size={batch}", f"--img_shape=[{size}, {size}]"]
    cfg = load_config([f"--model_name={model_name}", *options])
    init_device(cfg)
    from mindspore import Tensor

    from src.inference.detector import build_inference
    from src.models.build import build_model
    from src.training.step import build_train_step

    model = build_model(cfg)
    step = build_train_step(model, cfg, np.full(2 * steps, 0.01, np.float32))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (batch, size, size, 3)).astype(np.uint8)
    label = (rng.random((batch, cfg.num_ssd_boxes)) < 0.003) * rng.integers(1, 81, (batch, cfg.num_ssd_boxes))
    targets = (rng.normal(size=(*label.shape, 4)).astype(np.float32), label.astype(np.int32))
    matches = (label > 0).sum(axis=1, keepdims=True).astype(np.float32)
    arrays = [Tensor(value) for value in (images, *targets, matches)]
    step_times, forward_times = [], []
    for _ in range(steps):
        start = time.perf_counter()
        step(*arrays).asnumpy()
        step_times.append(time.perf_counter() - start)
    peak = memory() / 2**30
    inference = build_inference(model, cfg)
    for _ in range(4 * steps):  # more repeats, because a short measurement varies more
        start = time.perf_counter()
        inference(Tensor(images[:1]))[1].asnumpy()
        forward_times.append(time.perf_counter() - start)
    print(json.dumps({"step": min(step_times[1:]), "forward": min(forward_times[1:]), "peak": peak}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:])
