"""What can be known before anything is converted or compiled (SPEC section 10a)."""

from __future__ import annotations

import os
import shutil
import tempfile

from src.errors import UserError

# the training state of 81 classes takes 264 MB; two lie side by side while one replaces the other
CHECKPOINT_ROOM = 2 * 340_000_000


def writable_folder(path: str, key: str, room: int = 0) -> None:
    """Make `path` and prove that it can be written and has `room` bytes free.

    Raises:
        UserError: naming `key`, the option that gave the path.
    """
    path = os.path.abspath(path)
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{key}: cannot write to {path}: {error.strerror}; name another folder with --{key}") from None
    free = shutil.disk_usage(path).free
    if free < room:
        raise UserError(f"{key}: {path} has {free} bytes free, {room} are needed")


def check_training(cfg) -> None:
    """The checkpoints that a training run starts from exist.

    Raises:
        UserError: naming the option and the path.
    """
    for key in ("pre_trained", "feature_extractor_base_param"):
        needless = key == "feature_extractor_base_param" and cfg.pre_trained
        if cfg[key] and not needless and not os.path.isfile(cfg[key]):
            raise UserError(f'{key}: no such checkpoint: {os.path.abspath(cfg[key])} (set --{key}="" to do without)')
    if cfg.resume not in ("", "auto") and not os.path.isfile(cfg.resume):
        raise UserError(f"resume: no such checkpoint: {os.path.abspath(cfg.resume)}")
