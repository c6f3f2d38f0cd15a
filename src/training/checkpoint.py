"""Saving and restoring of checkpoints with the run's state; docs/reference.md, "Checkpoints" and "Failure handling"."""

from __future__ import annotations

import itertools
import os
from typing import List, Tuple

from mindspore import Tensor, nn

from src.config import default_values
from src.models.checkpoint_file import read_checkpoint, write_checkpoint
from src.models.trained_classes import RUN_STATE, check_resume_classes, trained_classes
from src.training.run_files import BEST, list_checkpoints
from src.training.state import RunState, from_bytes, restore_random_state
from src.utils.distributed import Communicator
from src.utils.errors import UserError
from src.utils.log import LOGGER


def save_checkpoint_atomically(cell: nn.Cell, path: str, state: RunState) -> None:
    """Write all parameters of a cell and the run's state, completely or not at all.

    Raises:
        RunError: it cannot be written (a full disk); an older file at `path` is unchanged, no temporary file is left.
    """
    parameters = ((parameter.name, parameter.asnumpy()) for parameter in cell.get_parameters())
    write_checkpoint(path, itertools.chain([(RUN_STATE, state.to_bytes())], parameters))


class Checkpoints:
    """The checkpoint folder of a rank, from `prepare_folder`."""

    def __init__(self, folder: str, keep: int):
        self.folder, self.keep = folder, keep

    def save(self, step: nn.Cell, state: RunState) -> str:
        """Save the training state as ssd-{epoch}_{step of the epoch}.ckpt, then remove the oldest beyond `keep`."""
        epoch, number = (
            (state.epochs, state.steps_per_epoch) if not state.epoch_step else (state.epochs + 1, state.epoch_step)
        )
        path = os.path.join(self.folder, f"ssd-{epoch}_{number}.ckpt")
        save_checkpoint_atomically(step, path, state)
        for old in list_checkpoints(self.folder)[: -self.keep]:
            os.remove(old)
        return path

    def save_best(self, step: nn.Cell, state: RunState) -> str:
        """Save as best_map.ckpt."""
        path = os.path.join(self.folder, BEST)
        save_checkpoint_atomically(step, path, state)
        return path


def restore_run(
    step: nn.Cell, candidates: List[str], now: RunState, comm: Communicator = Communicator()
) -> Tuple[RunState, str]:
    """Load parameters, moments and step count of the newest file that is intact on every rank.

    Args:
        candidates: rank 0's files, best first. Other ranks read the file of the same name in `ckpt_{rank}`, or rank
            0's if the saved run had fewer ranks.
        now: the state of a fresh start; its config, images and ranks are compared with the saved ones.

    Returns:
        The state to resume from and the path of rank 0's file; `now` and "" if there are no candidates.

    Raises:
        UserError: no file is intact, or this run cannot resume from it.
    """
    reasons = []
    for path in comm.broadcast(candidates):
        reason, entries, state, random_state = "", None, None, None
        try:
            entries, state, random_state = _read(_of_rank(path, comm.rank), step)
            _check_rank(path, comm.rank, state)
        except UserError as error:
            reason = str(error)
        reasons = [text for text in comm.all_gather(reason) if text]
        if not reasons:
            _check_fits(state, now, path)
            _check_shapes(entries, step, path)
            for parameter in step.get_parameters():
                if parameter.name in entries:
                    parameter.set_data(Tensor(entries[parameter.name].asnumpy(), parameter.dtype))
            restore_random_state(random_state)
            state.config, state.images, state.size = now.config, now.images, now.size
            state.steps_per_epoch = now.steps_per_epoch
            return state, path
        for text in reasons:
            LOGGER.warning("%s", text)
    if reasons:
        raise UserError(reasons[0])
    return now, ""


def _of_rank(path: str, rank: int) -> str:
    folder, name = os.path.split(path)
    if os.path.basename(folder) == "ckpt_0":
        of_rank = os.path.join(os.path.dirname(folder), f"ckpt_{rank}", name)
        return of_rank if os.path.isfile(of_rank) else path
    return path


def _check_rank(path: str, rank: int, saved: RunState) -> None:
    """Check that a rank which the saved run had finds its file: another rank's has other BN statistics.

    Raises:
        UserError: the file is missing.
    """
    of_rank = os.path.join(os.path.dirname(os.path.dirname(path)), f"ckpt_{rank}", os.path.basename(path))
    if os.path.basename(os.path.dirname(path)) == "ckpt_0" and rank < saved.size and not os.path.isfile(of_rank):
        raise UserError(
            f"resume: no such checkpoint: {of_rank}; to start every rank from rank 0's file, copy that file out of "
            f"ckpt_0 and name it with --resume"
        )


def _read(path: str, step: nn.Cell) -> tuple:
    """(entries for the step, the state, the bytes of the state) of an intact training checkpoint."""
    entries = read_checkpoint(path, "resume")
    # without the learning rates: they follow from the config, and their number may have changed
    expected = [parameter.name for parameter in step.get_parameters() if parameter.name != "learning_rate"]
    missing = [name for name in expected if name not in entries]
    if RUN_STATE not in entries or missing:
        what = f"{len(missing)} entries are missing, first {missing[0]}" if missing else "it has no run state"
        raise UserError(
            f"resume: {path} is not a complete training checkpoint: {what}; "
            f"to start from its weights only, use --pre_trained"
        )
    try:
        data = entries[RUN_STATE].asnumpy()
        state = from_bytes(data)
    except ValueError as error:
        raise UserError(f"resume: {path}: {error}") from None
    return {name: entries[name] for name in expected}, state, data


def _check_shapes(entries: dict, step: nn.Cell, path: str) -> None:
    for parameter in step.get_parameters():
        name, shape = parameter.name, tuple(parameter.shape)
        if name in entries and tuple(entries[name].shape) != shape:
            raise UserError(
                f"resume: {name} has shape {tuple(entries[name].shape)} in {path}, the run has {shape}; resume with "
                f"the configuration that it was saved with"
            )


def _check_fits(saved: RunState, now: RunState, path: str) -> None:
    """Log what differs between the saved run and this one, and stop if other samples would be trained on.

    Raises:
        UserError: the classes differ; or, in the middle of an epoch, the batch, the number of ranks, the data set or
            its order.
    """
    check_resume_classes(trained_classes(saved.config), trained_classes(now.config), path)
    # a key that an earlier version did not have stands for its default, which changes nothing
    before = dict(default_values(), **saved.config)
    changed = {
        key: (before.get(key), value)
        for key, value in now.config.items()
        if key not in ("device_num", "run_distribute") and before.get(key) != value
    }
    for key, old, new in (("ranks", saved.size, now.size), ("images", saved.images, now.images)):
        if old != new:
            changed[key] = (old, new)
    differences = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in changed.items())
    order = [key for key in ("batch_size", "ranks", "images", "seed", "repeat_threshold") if key in changed]
    if saved.epoch_step and order:
        raise UserError(
            f"resume: {path} is from the middle of epoch {saved.epochs + 1}, and the order of its samples would change "
            f"({differences}); resume from the end of an epoch, or with the same values"
        )
    if changed:
        LOGGER.warning("resume: changed since %s: %s; the run continues with the new values", path, differences)
