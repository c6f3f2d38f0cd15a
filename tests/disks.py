"""Full disks for tests."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from typing import Iterator

import pytest


@contextlib.contextmanager
def small_disk(folder, kilobytes: int) -> Iterator[str]:
    """A folder on a disk (tmpfs) of that size; the test is skipped if it cannot be mounted."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield str(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def limit_files(kilobytes: int) -> None:
    """Limit the size of files written by this process: writes fail as on a full disk, also for root."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextlib.contextmanager
def files_limited(kilobytes: int) -> Iterator[None]:
    """`limit_files` inside a block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit_files(kilobytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
