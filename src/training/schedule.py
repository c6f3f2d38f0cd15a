"""The learning rate of every step; docs/reference.md, "Learning rate"."""

from __future__ import annotations

import numpy as np

from src.config import learning_rate_factor


def learning_rates(
    global_step: int,
    lr_init: float,
    lr_end: float,
    lr_max: float,
    warmup_epochs: float,
    total_epochs: int,
    steps_per_epoch: int,
) -> np.ndarray:
    """Linear warm-up from lr_init to lr_max, then a cosine to lr_end.

    Args:
        global_step: the first step whose rate is returned.
        lr_init, lr_end, lr_max: learning rates at the start, at the end and after the warm-up.
        warmup_epochs, total_epochs: lengths in epochs.
        steps_per_epoch: length of an epoch.

    Returns:
        float32 [total_epochs * steps_per_epoch - global_step].
    """
    total = int(total_epochs * steps_per_epoch)
    warmup = int(warmup_epochs * steps_per_epoch)
    step = np.arange(total, dtype=np.float64)
    rising = lr_init + (lr_max - lr_init) * step / max(warmup, 1)
    angle = np.pi * (step - warmup) / max(total - warmup, 1)
    falling = lr_end + (lr_max - lr_end) * (1 + np.cos(angle)) / 2
    rates = np.maximum(np.where(step < warmup, rising, falling), 0.0)
    return rates.astype(np.float32)[int(global_step) :]


def build_learning_rates(cfg, steps_per_epoch: int, devices: int = 1) -> np.ndarray:
    """`learning_rates` of all steps of a config on this number of devices (which counts with `scale_lr` only), float32
    [cfg.epoch_size * steps_per_epoch]."""
    factor = learning_rate_factor(cfg, devices)
    lr_init, lr = cfg.lr_init * factor, cfg.lr * factor
    return learning_rates(0, lr_init, lr * cfg.lr_end_rate, lr, cfg.warmup_epochs, cfg.epoch_size, steps_per_epoch)
