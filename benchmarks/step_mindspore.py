"""Times our training step and forward pass, for `scripts/benchmark.py step` and `scripts/check_device.py`.

    python3 benchmarks/step_mindspore.py BATCH SIZE STEPS [MODEL [CPU|GPU|Ascend [float32|tf32|float16]]]

Prints one JSON line: seconds of the fastest step, of the median and of the first one, which compiles; of a forward pass
of one image; and GiB of memory (of the process on a CPU, else of the device; null if unknown). The data is on the
device already.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import numpy as np  # noqa: E402

from benchmarks.data import memory  # noqa: E402
from benchmarks.device import choose_float32, device_memory  # noqa: E402
from src.config import load_config  # noqa: E402
from src.utils.device import init_device, prepare_environment  # noqa: E402


def main(
    batch: int,
    size: int,
    steps: int,
    model_name: str = "ssd_resnet50_fpn",
    device: str = "CPU",
    precision: str = "float32",
) -> None:
    choose_float32(precise=precision == "float32")
    prepare_environment()
    options = [f"--device_target={device}", f"--use_float16={precision == 'float16'}", f"--batch_size={batch}"]
    cfg = load_config([f"--model_name={model_name}", *options, f"--img_shape=[{size}, {size}]"])
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
    peak = memory() if device == "CPU" else device_memory(cfg.device_id)
    inference = build_inference(model, cfg)
    for _ in range(4 * steps):  # more repeats, because a short measurement varies more
        start = time.perf_counter()
        inference(Tensor(images[:1]))[1].asnumpy()
        forward_times.append(time.perf_counter() - start)
    found = {"step": min(step_times[1:]), "median": statistics.median(step_times[1:]), "first": step_times[0]}
    print(json.dumps({**found, "forward": min(forward_times[1:]), "peak": peak and peak / 2**30}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:])
