"""How a run was started, `output_path/run.json`: enough to repeat it."""

from __future__ import annotations

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from typing import Optional

from src import __version__
from src.utils.distributed import Communicator
from src.utils.output import write_text

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGES = {"mindspore": "mindspore", "numpy": "numpy", "opencv-python": "cv2", "mpi4py": "mpi4py"}


def git_commit() -> Optional[str]:
    """Commit of the checkout, with `-dirty` if files differ from it; None outside a checkout."""
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode().strip() or None


def describe_start(argv, cfg, comm: Communicator, source: str) -> dict:
    """Command, folder, machine, versions, seed and devices of a start; `source` is the checkpoint it resumes from."""
    versions = {}
    for name, module in PACKAGES.items():
        loaded = sys.modules.get(module)
        if loaded is not None:
            versions[name] = getattr(loaded, "__version__", "")
    return {
        "command": " ".join(map(shlex.quote, [sys.executable, os.path.join(ROOT, "train.py"), *map(str, argv)])),
        "folder": os.getcwd(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "version": __version__,
        "versions": versions,
        "git_commit": git_commit(),
        "seed": cfg.seed,
        "device_target": cfg.device_target,
        "ranks": comm.size,
        "goes_on_from": source or None,
    }


def record_start(output_path: str, start: dict) -> None:
    """Append a start to the list in run.json.

    Raises:
        OutputError: it cannot be written.
    """
    path = os.path.join(output_path, "run.json")
    starts = []
    try:
        with open(path, encoding="utf-8") as handle:
            starts = json.load(handle)
    except (FileNotFoundError, ValueError):  # none yet, or a damaged file, which is replaced
        pass
    starts = [*(starts if isinstance(starts, list) else []), start]
    write_text(path, json.dumps(starts, indent=2) + "\n")
