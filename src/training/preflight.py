"""Checks of a training run before anything is converted or compiled; docs/reference.md, "Failure handling"."""

from __future__ import annotations

import glob
import os

from src.utils.errors import UserError

# a copy of every parameter (float32): a part that does not depend on the classes, and for each class and default box a
# predictor of 256 x 3 x 3 weights and a bias
_COMMON_BYTES = 129_000_000
_CLASS_BYTES = 4 * (256 * 9 + 1)


def checkpoint_bytes(cfg) -> int:
    """Size of a checkpoint of a run in bytes, accurate to 2 % for the published head."""
    # every parameter and, for trained ones, the moments of the optimiser; and the moving average
    copies = 2 + (cfg.optimizer == "adamw") + (cfg.ema_decay > 0)
    return copies * (_COMMON_BYTES + cfg.num_classes * cfg.num_default[0] * _CLASS_BYTES)


def required_disk_space(cfg) -> int:
    """Upper bound of the bytes that a run will still write: checkpoints that are kept, the best one and the one being
    written, minus those that exist of the resumed run. Counted for all ranks, as machines may share `output_path`."""
    every = cfg.save_checkpoint_epochs
    saved = -(-cfg.epoch_size // every) - cfg.pre_trained_epoch_size // every
    files = min(saved, cfg.keep_checkpoint_max) * (cfg.device_num if cfg.run_distribute else 1)
    files += int(cfg.run_eval and cfg.save_best_ckpt) + (cfg.device_num if cfg.run_distribute else 1)
    pattern = os.path.join(glob.escape(cfg.output_path), "ckpt_*[0-9]", "*.ckpt")
    existing = glob.glob(pattern) if cfg.resume else []
    existing = [path for path in existing if "." not in os.path.basename(os.path.dirname(path))]
    return files * checkpoint_bytes(cfg) - sum(os.path.getsize(path) for path in existing)


def check_training(cfg, resumes: bool) -> None:
    """Check that BN can use the batch, and that the checkpoints exist which a fresh run starts from.

    Raises:
        UserError: a check failed; names the option and, for a checkpoint, the path.
    """
    if cfg.batch_size * (cfg.img_shape[0] // max(cfg.steps)) * (cfg.img_shape[1] // max(cfg.steps)) == 1:
        raise UserError(
            f"batch_size: with img_shape {cfg.img_shape} the last level has one cell, and BN cannot compute a "
            f"variance from a batch of one; use --batch_size=2 or more"
        )
    if resumes:
        return
    for key in ("pre_trained", "feature_extractor_base_param"):
        needless = key == "feature_extractor_base_param" and cfg.pre_trained
        if cfg[key] and not needless and not os.path.isfile(cfg[key]):
            path = os.path.abspath(cfg[key])
            raise UserError(f'{key}: no such checkpoint: {path} (set --{key}="" to train without it)')
