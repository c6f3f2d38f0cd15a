"""The files of a run: checkpoint names and how an earlier run is kept; docs/reference.md, "Faults"."""

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
    """(epoch, step in it) of a file `ssd-{epoch}_{step}.ckpt`; (0, 0) for another name."""
    match = _NAME.search(os.path.basename(path))
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def list_checkpoints(folder: str) -> List[str]:
    """`ssd-{epoch}_{step}.ckpt` files, oldest first."""
    found = glob.glob(os.path.join(glob.escape(folder), "ssd-*.ckpt"))
    return sorted((path for path in found if epoch_and_step(path) != (0, 0)), key=epoch_and_step)


def find_resume(resume: str, output_path: str) -> List[str]:
    """The files of rank 0 that `resume` may mean, best first: none for a fresh start, the newest first for auto.

    Raises:
        UserError: a file that is not there.
    """
    if not resume:
        return []
    if resume == "auto":
        return list_checkpoints(os.path.join(output_path, "ckpt_0"))[::-1]
    if not os.path.isfile(resume):
        raise UserError(f"resume: no such checkpoint: {os.path.abspath(resume)}")
    return [os.path.abspath(resume)]


def prepare_folder(output_path: str, rank: int, source: str = "") -> str:
    """The checkpoint folder of a rank, `output_path/ckpt_{rank}`, without the files of other runs.

    Args:
        source: rank 0's file that the run resumes from; "" for a fresh start.

    An earlier run goes to `ckpt_{rank}.{time}`, rank 0's with its history and configuration. When a run is
    resumed, only checkpoints newer than the resumed one are moved there. Unfinished files of killed runs are removed.

    Raises:
        OutputError: the folder cannot be made, or its files cannot be moved.
    """
    folder = os.path.join(os.path.abspath(output_path), f"ckpt_{rank}")
    with _changing(folder):
        _prepare(folder, rank, source)
    return folder


@contextlib.contextmanager
def _changing(path: str) -> Iterator[None]:
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
            # the resumed run may replace the best one, and its history drops the epochs that are trained again
            for path in (os.path.join(folder, BEST), *(p for p in records if os.path.basename(p) == HISTORY)):
                if os.path.exists(path):
                    shutil.copy2(path, backup)
            LOGGER.warning("%d checkpoints later than the resumed one moved to %s", len(later), backup)
    elif os.listdir(folder) or records:
        backup = _new_folder(folder)
        os.rename(folder, backup)  # onto the empty one
        os.makedirs(folder)
        for path in records:
            os.rename(path, os.path.join(backup, os.path.basename(path)))
        LOGGER.info("an earlier run was moved to %s", backup)


def _new_folder(folder: str) -> str:
    """A new empty folder next to `folder`: its name with the time, and a number where that exists."""
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
    """Leave the lines of the first `epochs` epochs; the others will be trained again, or were cut by a kill."""
    path = os.path.join(output_path, HISTORY)
    if not os.path.exists(path):
        return
    kept = []
    with _changing(path), open(path, encoding="utf-8", errors="replace") as handle:
        for line in handle:
            try:
                if json.loads(line)["epoch"] <= epochs:
                    kept.append(line.rstrip("\n") + "\n")
            except (ValueError, KeyError, TypeError):
                continue
    with atomic_write(path) as handle:
        handle.writelines(kept)
