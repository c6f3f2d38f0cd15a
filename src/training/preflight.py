"""What can be checked before anything is converted or compiled; docs/reference.md, "Faults"."""

from __future__ import annotations

import glob
import os

from src.utils.errors import UserError

# a checkpoint holds every value and, of those trained, its moment (float32): what does not depend on the classes,
# and for each class and default box a predictor of 256 x 3 x 3 weights and a bias
_COMMON_BYTES = 258_000_000
_CLASS_BYTES = 2 * 4 * (256 * 9 + 1)


def checkpoint_bytes(cfg) -> int:
    """Size of a checkpoint of a run, to within 2 % (the published head)."""
    return _COMMON_BYTES + cfg.num_classes * cfg.num_default[0] * _CLASS_BYTES


def required_disk_space(cfg) -> int:
    """Bytes that a run will still write at most: checkpoints kept, the best, the one being written, less what lies
    there of the run that it resumes. Each machine has its own ranks' in `output_path`, or all share it."""
    every = cfg.save_checkpoint_epochs
    saved = -(-cfg.epoch_size // every) - cfg.pre_trained_epoch_size // every
    files = min(saved, cfg.keep_checkpoint_max) * (cfg.device_num if cfg.run_distribute else 1)
    files += int(cfg.run_eval and cfg.save_best_ckpt) + (cfg.device_num if cfg.run_distribute else 1)
    pattern = os.path.join(glob.escape(cfg.output_path), "ckpt_*[0-9]", "*.ckpt")
    existing = glob.glob(pattern) if cfg.resume else []
    existing = [path for path in existing if "." not in os.path.basename(os.path.dirname(path))]
    return files * checkpoint_bytes(cfg) - sum(os.path.getsize(path) for path in existing)


def check_training(cfg, resumes: bool) -> None:
    """What a training run needs is there: a batch that BN can take, and for a fresh run the checkpoints it starts from.

    Raises:
        UserError: naming the option and the path.
    """
    if cfg.batch_size * (cfg.img_shape[0] // max(cfg.steps)) * (cfg.img_shape[1] // max(cfg.steps)) == 1:
        raise UserError(
            f"batch_size: with img_shape {cfg.img_shape} the last level has one cell, and BN finds no variance in "
            f"a batch of one; use --batch_size=2 or more"
        )
    if resumes:
        return
    for key in ("pre_trained", "feature_extractor_base_param"):
        needless = key == "feature_extractor_base_param" and cfg.pre_trained
        if cfg[key] and not needless and not os.path.isfile(cfg[key]):
            raise UserError(f'{key}: no such checkpoint: {os.path.abspath(cfg[key])} (set --{key}="" to do without)')
