"""The baseline of `scripts/benchmark.py start`: prints a line after its first training step.

It trains the same network and loss with MindSpore's layers, initialiser, optimiser and clipping in one training cell,
without records, input pipeline and run folder.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import numpy as np  # noqa: E402

from src.config import load_config  # noqa: E402


def plain_layers() -> None:
    """Replace our layers by MindSpore's; call it before the modules of the network are imported."""
    from mindspore import nn
    from mindspore.common.initializer import TruncatedNormal, initializer

    from src.models import layers

    def init_weights(model, _):
        for parameter in model.trainable_params():
            if parameter.name.endswith("weight"):
                parameter.set_data(initializer(TruncatedNormal(0.02), parameter.shape))

    layers.Conv2d, layers.BatchNorm2d = nn.Conv2d, nn.BatchNorm2d
    os.environ["SSD_PLAIN_CONV"] = "1"
    layers.init_weights = init_weights


def main(*options: str) -> None:
    cfg = load_config(options)
    import mindspore as ms
    from mindspore import Tensor, nn, ops

    ms.set_context(mode=ms.GRAPH_MODE)
    plain_layers()
    from src.loss import MultiBoxLoss
    from src.models.build import build_model
    from src.training.optimizer import has_weight_decay

    class WithLoss(nn.Cell):
        def __init__(self):
            super().__init__()
            self.network, self.loss = build_model(cfg), MultiBoxLoss(cfg.num_classes, cfg.gamma, cfg.alpha)

        def construct(self, images, *targets):
            return self.loss(*self.network(images), *targets)

    class Step(nn.TrainOneStepCell):
        def construct(self, *inputs):
            loss = self.network(*inputs)
            gradients = self.grad(self.network, self.weights)(*inputs, ops.ones_like(loss))
            return ops.depend(loss, self.optimizer(ops.clip_by_global_norm(gradients, 1.0)))

    forward = WithLoss()
    weights = forward.trainable_params()
    groups = [
        {"params": [weight for weight in weights if has_weight_decay(weight.name)], "weight_decay": cfg.weight_decay},
        {"params": [weight for weight in weights if not has_weight_decay(weight.name)], "weight_decay": 0.0},
        {"order_params": weights},
    ]
    step = Step(forward, nn.Momentum(groups, cfg.lr, cfg.momentum)).set_train()
    rng = np.random.default_rng(0)
    images = rng.standard_normal((cfg.batch_size, 3, *cfg.img_shape)).astype(np.float32)
    label = (rng.random((cfg.batch_size, cfg.num_ssd_boxes)) < 0.003).astype(np.int32)
    targets = np.zeros((*label.shape, 4), np.float32), label, label.sum(1, keepdims=True).astype(np.float32)
    loss = step(*map(Tensor, (images, *targets)))
    print(f"first step: loss {float(loss.asnumpy()):.4f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
