"""What a device computes: the published figures and a short training, for `scripts/check_device.py`.

    python3 benchmarks/device_numbers.py CPU|GPU|Ascend STEPS

Prints one JSON line. `figures`: name -> [largest difference from the published value, allowed difference]; see
tests/reference/README.md. `losses`: of STEPS training steps on the batch of the reference values, whose learning rate
stays that of the published run. In float32, without TF32.
"""

from __future__ import annotations

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import numpy as np  # noqa: E402

from benchmarks.device import choose_float32  # noqa: E402
from src.boxes.default_boxes import default_boxes  # noqa: E402
from src.config import load_config  # noqa: E402
from src.utils.device import init_device, prepare_environment  # noqa: E402
from tests.helpers.reference import (  # noqa: E402
    load_reference,
    reference_images,
    reference_targets,
    set_reference_weights,
)

RUN = "A_globalnorm_scale1"


def forward_figures(cfg) -> dict:
    """Differences from forward.npz, of the network in evaluation mode."""
    from mindspore import Tensor

    from src.models.build import build_model
    from src.models.ssd import SSDInference

    inference = SSDInference(build_model(cfg), default_boxes((256, 256))[0], (0.1, 0.2))
    set_reference_weights(inference)
    inference.set_train(False)
    published, images = load_reference("forward.npz"), Tensor(reference_images())
    pred_loc, logits = (output.asnumpy() for output in inference.network(images))
    boxes = inference(images)[0].asnumpy()
    pairs = {
        "box regression": (pred_loc[:, ::11], published["pred_loc_every11"]),
        "class logits": (logits[:, ::77], published["pred_label_logits_every77"]),
        "decoded boxes": (boxes[:, ::11], published["boxes_every11"]),
    }
    return {name: [float(np.abs(ours - theirs).max()), 1e-3] for name, (ours, theirs) in pairs.items()}


def training_figures(cfg, steps: int) -> tuple:
    """(differences from loss.npz, losses of all steps)."""
    from mindspore import Tensor

    from src.models.build import build_model
    from src.training.step import build_train_step

    published = load_reference("loss.npz")
    rates = published[f"{RUN}/lr"].astype(np.float32)
    rates = np.concatenate([rates, np.full(max(steps - len(rates), 0), rates[-1], np.float32)])
    step = build_train_step(build_model(cfg), cfg, rates)
    set_reference_weights(step.forward)
    batch = [Tensor(value) for value in (reference_images(), *reference_targets())]
    losses = [float(step(*batch).asnumpy())]
    norm = float(step.metrics.asnumpy()[2])
    losses += [float(step(*batch).asnumpy()) for _ in range(steps - 1)]
    wanted = float(published["grad_global_norm_bs2"])
    first = published[f"{RUN}/losses"]
    figures = {
        "losses of 3 steps (relative)": [float(np.abs(np.array(losses[: len(first)]) / first - 1).max()), 1e-4],
        "gradient norm (relative)": [float(abs(norm / wanted - 1)), 1e-3],
    }
    return figures, losses


def main(target: str, steps: str) -> None:
    choose_float32(precise=True)
    prepare_environment()
    options = [f"--device_target={target}", "--img_shape=[256, 256]", "--use_float16=False", "--loss_scale=1"]
    cfg = load_config(options)
    init_device(cfg)
    figures = forward_figures(cfg)
    trained, losses = training_figures(cfg, int(steps))
    print(json.dumps({"figures": {**figures, **trained}, "losses": losses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
