"""Paths that the configuration names, and what belongs to them."""

from __future__ import annotations

import os
from typing import List

from src.utils.errors import UserError

# images per step that the published lr of 0.05 belongs to
_PUBLISHED_BATCH = {"Ascend": 256}
_PUBLISHED_BATCH_GPU = 128


def data_file(cfg, path: str) -> str:
    """`path` below `data_path`, unless it is absolute."""
    return os.path.abspath(os.path.join(cfg.data_path, path))


def voc_json_places(cfg) -> List[str]:
    """Absolute paths that `voc_json` may mean, the first one first: below `voc_root`, as published, and below
    `data_path`. One path where it is absolute."""
    places = [os.path.abspath(os.path.join(data_file(cfg, cfg.voc_root), cfg.voc_json)), data_file(cfg, cfg.voc_json)]
    return places if places[0] != places[1] else places[:1]


def checkpoint_file(cfg) -> str:
    """Absolute path of `checkpoint_file_path`, looked for in the current folder, then in `checkpoint_path`.

    Raises:
        UserError: it is in neither.
    """
    if not cfg.checkpoint_file_path:
        raise UserError("checkpoint_file_path is empty; name the checkpoint with --checkpoint_file_path")
    places = [cfg.checkpoint_file_path, os.path.join(cfg.checkpoint_path, cfg.checkpoint_file_path)]
    for place in places:
        if os.path.isfile(place):
            return os.path.abspath(place)
    for place in places:
        if os.path.isdir(place):
            raise UserError(f"checkpoint_file_path: {os.path.abspath(place)} is a folder; name a checkpoint in it")
    first, second = map(os.path.abspath, places)
    raise UserError(
        f"checkpoint_file_path: no such checkpoint: {first}" + (f" (nor {second})" if second != first else "")
    )


def learning_rate_advice(cfg, devices: int = 1) -> str:
    """One line when lr was left at the published value while another batch is used, else ""."""
    batch = cfg.batch_size * devices
    published = _PUBLISHED_BATCH.get(cfg.device_target, _PUBLISHED_BATCH_GPU)
    if cfg.lr != 0.05 or batch == published:
        return ""
    return (
        f"lr {cfg.lr} is meant for {published} images per step; for {cfg.batch_size} x {devices} = {batch} "
        f"the linear scaling rule gives --lr={cfg.lr * batch / published:.3g}"
    )
