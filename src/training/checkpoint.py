"""Checkpoints that are whole or absent, and the run's state in them (SPEC sections 6, 9 and 10a)."""

from __future__ import annotations

import glob
import os
import re
import time
from typing import Optional

import mindspore as ms
from mindspore import nn

from src.compat import load_into
from src.errors import UserError
from src.log import LOGGER
from src.models.weights import read_checkpoint

_NAME = re.compile(r"ssd-(\d+)_(\d+)\.ckpt$")
BEST = "best_map.ckpt"
STATE = ("epoch_num", "step_num", "best_map")


def save_whole(cell: nn.Cell, path: str, state: dict) -> None:
    """Write beside, flush, rename: MindSpore's own saving removes the old file first."""
    beside = os.path.join(os.path.dirname(path), f".part-{os.getpid()}.ckpt")
    try:
        ms.save_checkpoint(cell, beside, append_dict=dict(state))
        descriptor = os.open(beside, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        os.chmod(beside, 0o644)  # MindSpore leaves it read-only for its owner
        os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def list_checkpoints(folder: str) -> list:
    """`ssd-{epoch}_{step}.ckpt` files, oldest epoch first."""
    found = [
        (int(match.group(1)), path)
        for path in glob.glob(os.path.join(glob.escape(folder), "ssd-*.ckpt"))
        for match in [_NAME.search(os.path.basename(path))]
        if match
    ]
    return [path for _, path in sorted(found)]


class Checkpoints:
    """The checkpoint folder of a rank, `output_path/ckpt_{rank}`."""

    def __init__(self, output_path: str, rank: int, keep: int, resumes: bool):
        self.folder = os.path.join(output_path, f"ckpt_{rank}")
        self.keep = keep
        if os.path.isdir(self.folder) and os.listdir(self.folder) and not resumes:
            aside = f"{self.folder}.{time.strftime('%Y%m%d-%H%M%S')}"
            os.rename(self.folder, aside)
            LOGGER.info("checkpoints of an earlier run moved to %s", aside)
        os.makedirs(self.folder, exist_ok=True)

    def save(self, step: nn.Cell, epoch: int, steps_per_epoch: int, best_map: float) -> str:
        """Save the whole training state after an epoch; the oldest beyond `keep` go last."""
        path = os.path.join(self.folder, f"ssd-{epoch}_{steps_per_epoch}.ckpt")
        save_whole(step, path, {"epoch_num": epoch, "step_num": epoch * steps_per_epoch, "best_map": best_map})
        for old in list_checkpoints(self.folder)[: -self.keep]:
            os.remove(old)
        return path

    def save_best(self, step: nn.Cell, epoch: int, steps_per_epoch: int, best_map: float) -> str:
        """Save as best_map.ckpt."""
        path = os.path.join(self.folder, BEST)
        save_whole(step, path, {"epoch_num": epoch, "step_num": epoch * steps_per_epoch, "best_map": best_map})
        return path


def find_resume(resume: str, output_path: str, rank: int) -> Optional[str]:
    """The file that `resume` means: None for a fresh start, the newest for auto, else the file itself."""
    if not resume:
        return None
    if resume == "auto":
        found = list_checkpoints(os.path.join(output_path, f"ckpt_{rank}"))
        return found[-1] if found else None
    if not os.path.isfile(resume):
        raise UserError(f"resume: no such checkpoint: {resume}")
    return os.path.abspath(resume)


def restore_run(step: nn.Cell, resume: str, output_path: str, rank: int) -> tuple:
    """Load parameters, moments and step count; returns (epochs done, best mAP), (0, -1.0) for a fresh start.

    With `auto`, a newest file that is not whole is named and the one before it is taken.
    """
    newest = find_resume(resume, output_path, rank)
    if newest is None:
        return 0, -1.0
    candidates = [newest]
    if resume == "auto":
        candidates = list_checkpoints(os.path.dirname(newest))[::-1]
    reason = None
    for path in candidates:
        try:
            return _restore(step, path)
        except UserError as error:
            reason = error
            LOGGER.warning("%s", error)
    raise reason


def _restore(step: nn.Cell, path: str) -> tuple:
    entries = read_checkpoint(path, "resume")
    state = {name: entries.pop(name, None) for name in STATE}
    wanted = {parameter.name: tuple(parameter.shape) for parameter in step.get_parameters()}
    # The rates are the run's own: they follow from the config, and their number may have changed
    entries.pop("learning_rate", None)
    missing = [name for name in wanted if name not in entries and name != "learning_rate"]
    if missing or state["epoch_num"] is None:
        what = f"{len(missing)} entries are missing, first {missing[0]}" if missing else "it names no epoch"
        raise UserError(
            f"resume: {path} does not hold a whole run: {what}; to start from its weights alone use --pre_trained"
        )
    for name, shape in wanted.items():
        if name in entries and tuple(entries[name].shape) != shape:
            raise UserError(f"resume: {name} has shape {tuple(entries[name].shape)} in {path}, the run has {shape}")
    load_into(step, {name: value for name, value in entries.items() if name in wanted})
    epoch, best = int(state["epoch_num"].asnumpy()), float(state["best_map"].asnumpy())
    LOGGER.info("resumed from %s: %d epochs done", path, epoch)
    return epoch, best
