"""Paths named in the configuration, and advice about the learning rate."""

from __future__ import annotations

import os
from typing import List

from src.config.networks import NETWORKS
from src.utils.errors import UserError

# total batch size that the published lr of 0.05 is meant for: 8 devices with the FPN networks, else one
_FPN_BATCH = {"Ascend": 256, "GPU": 128, "CPU": 128}
_SSD300_BATCH = 32


def data_file(cfg, path: str) -> str:
    """Absolute form of `path`, which is relative to `data_path`."""
    return os.path.abspath(os.path.join(cfg.data_path, path))


def voc_json_paths(cfg) -> List[str]:
    """Absolute paths that `voc_json` may refer to, in order of preference: below `voc_root`, as published, then below
    `data_path`. One path if it is absolute."""
    paths = [os.path.abspath(os.path.join(data_file(cfg, cfg.voc_root), cfg.voc_json)), data_file(cfg, cfg.voc_json)]
    return paths if paths[0] != paths[1] else paths[:1]


def checkpoint_file(cfg) -> str:
    """Absolute path of `checkpoint_file_path`, looked for in the current folder, then in `checkpoint_path`.

    Raises:
        UserError: it is in neither.
    """
    if not cfg.checkpoint_file_path:
        raise UserError("checkpoint_file_path is empty; name the checkpoint with --checkpoint_file_path")
    candidates = [cfg.checkpoint_file_path, os.path.join(cfg.checkpoint_path, cfg.checkpoint_file_path)]
    for path in candidates:
        if os.path.isfile(path):
            return os.path.abspath(path)
    for path in candidates:
        if os.path.isdir(path):
            raise UserError(f"checkpoint_file_path: {os.path.abspath(path)} is a folder; name a checkpoint in it")
    first, second = map(os.path.abspath, candidates)
    raise UserError(
        f"checkpoint_file_path: no such checkpoint: {first}" + (f" (nor {second})" if second != first else "")
    )


def _published_batch(cfg) -> int:
    """Images per step on all devices that the published lr is meant for."""
    return _FPN_BATCH[cfg.device_target] if NETWORKS[cfg.model_name].has_shared_head else _SSD300_BATCH


def learning_rate_factor(cfg, devices: int = 1) -> float:
    """What `scale_lr` multiplies every learning rate with (the linear scaling rule, arXiv:1706.02677); 1 without it."""
    return cfg.batch_size * devices / _published_batch(cfg) if cfg.scale_lr else 1.0


def learning_rate_advice(cfg, devices: int = 1) -> str:
    """A line about the learning rate for this total batch size: what `scale_lr` does, or advice where lr has the
    published value but is meant for another batch size; else ""."""
    batch, published = cfg.batch_size * devices, _published_batch(cfg)
    if cfg.scale_lr:
        factor = learning_rate_factor(cfg, devices)
        return (
            f"scale_lr: lr {cfg.lr:g} x {cfg.batch_size} x {devices} / {published} = {cfg.lr * factor:.6g}, "
            f"lr_init {cfg.lr_init * factor:.6g}"
        )
    if cfg.lr != 0.05 or batch == published:
        return ""
    return (
        f"lr {cfg.lr} is meant for {published} images per step; for {cfg.batch_size} x {devices} = {batch} "
        f"the linear scaling rule gives --lr={cfg.lr * batch / published:.3g}"
    )
