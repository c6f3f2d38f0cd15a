"""Checkpoint names, and moving the files of an earlier run; docs/reference.md, "Failure handling"."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import time
from typing import Iterator, List

from src.utils.errors import RunError, UserError
from src.utils.log import LOGGER
from src.utils.output import PART, atomic_write, output_error

BEST = "best_map.ckpt"
HISTORY = "history.jsonl"
# other files of a run that are moved with its checkpoints; log files are appended to
RECORDS = (HISTORY, "config.yaml", "run.json", "curves.png", "summary")
_NAME = re.compile(r"ssd-(\d+)_(\d+)\.ckpt$")


def epoch_and_step(path: str) -> tuple:
    """(epoch, step of the epoch) of a file `ssd-{epoch}_{step}.ckpt`; (0, 0) for any other name."""
    match = _NAME.search(os.path.basename(path))
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def list_checkpoints(folder: str) -> List[str]:
    """Paths of the files `ssd-{epoch}_{step}.ckpt` in a folder, in the order of training steps."""
    paths = glob.glob(os.path.join(glob.escape(folder), "ssd-*.ckpt"))
    return sorted((path for path in paths if epoch_and_step(path) != (0, 0)), key=epoch_and_step)


def find_resume(resume: str, output_path: str) -> List[str]:
    """Rank 0's files that the option `resume` allows, best first: none for "", the newest first for "auto".

    Raises:
        UserError: the named file does not exist.
    """
    if not resume:
        return []
    if resume == "auto":
        return list_checkpoints(os.path.join(output_path, "ckpt_0"))[::-1]
    if not os.path.isfile(resume):
        raise UserError(f"resume: no such checkpoint: {os.path.abspath(resume)}")
    return [os.path.abspath(resume)]


def prepare_folder(output_path: str, rank: int, source: str = "") -> str:
    """Create the checkpoint folder of a rank, `output_path/ckpt_{rank}`, and return its path.

    Files of an earlier run are moved to `ckpt_{rank}.{time}`, by rank 0 also its history and configuration. When a run
    is resumed, only checkpoints later than the resumed one are moved there. Unfinished files of killed runs are
    removed.

    Args:
        source: rank 0's file that the run resumes from; "" for a fresh start.

    Raises:
        OutputError: the folder cannot be created, or files cannot be moved.
    """
    folder = os.path.join(os.path.abspath(output_path), f"ckpt_{rank}")
    with _as_output_error(folder):
        _prepare(folder, rank, source)
    return folder


@contextlib.contextmanager
def _as_output_error(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(error.filename or path, error) from error


def _prepare(folder: str, rank: int, source: str) -> None:
    output_path = os.path.dirname(folder)
    os.makedirs(folder, exist_ok=True)
    for left_over in glob.glob(os.path.join(glob.escape(folder), PART + "*")):
        os.remove(left_over)
    records = [os.path.join(output_path, name) for name in RECORDS if rank == 0]
    records = [path for path in records if os.path.exists(path)]
    if source and os.path.dirname(os.path.abspath(source)) == os.path.join(output_path, "ckpt_0"):
        later = [path for path in list_checkpoints(folder) if epoch_and_step(path) > epoch_and_step(source)]
        if later:
            backup = _new_folder(folder)
            for path in later:
                os.rename(path, os.path.join(backup, os.path.basename(path)))
            # the resumed run may replace the best checkpoint and removes later epochs from the history: copy both
            for path in (os.path.join(folder, BEST), *(p for p in records if os.path.basename(p) == HISTORY)):
                if os.path.exists(path):
                    shutil.copy2(path, backup)
            LOGGER.warning("%d checkpoints later than the resumed one were moved to %s", len(later), backup)
    elif os.listdir(folder) or records:
        backup = _new_folder(folder)
        os.rename(folder, backup)  # replaces the empty folder
        os.makedirs(folder)
        for path in records:
            os.rename(path, os.path.join(backup, os.path.basename(path)))
        LOGGER.info("an earlier run was moved to %s", backup)


def _new_folder(folder: str) -> str:
    """Create an empty folder next to `folder`: its name with the time and, if that exists, a number."""
    name = f"{folder}.{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        backup = name if number == 1 else f"{name}-{number}"
        try:
            os.makedirs(backup)
            return backup
        except FileExistsError:
            continue
    raise RunError(f"{folder} cannot be moved: {name} to {name}-999 exist")


def cut_history(output_path: str, epochs: int) -> None:
    """Keep the lines of the first `epochs` epochs; later epochs are trained again, and a kill may have cut a line."""
    path = os.path.join(output_path, HISTORY)
    if not os.path.exists(path):
        return
    kept = []
    with _as_output_error(path), open(path, encoding="utf-8", errors="replace") as handle:
        for line in handle:
            try:
                if json.loads(line)["epoch"] <= epochs:
                    kept.append(line.rstrip("\n") + "\n")
            except (ValueError, KeyError, TypeError):
                continue
    with atomic_write(path) as handle:
        handle.writelines(kept)
