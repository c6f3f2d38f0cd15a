"""Locks between processes: they name their holder, and end with its process."""

import os
import signal
import subprocess
import sys

import pytest

from src.utils.errors import UserError
from src.utils.locks import hold_file, hold_folder, try_lock, wait_lock
from tests.helpers.paths import ROOT


def other_process(code: str) -> subprocess.Popen:
    """A second process that runs `code`, which prints a line when it is ready, and then waits."""
    code += "\nprint('ready', flush=True)\nimport time\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_folder_is_held_by_one_training_and_free_after_a_kill(tmp_path):
    holding = f"from src.utils.locks import hold_folder; lock = hold_folder({str(tmp_path)!r}, 'training')"
    first = other_process(holding)
    with pytest.raises(UserError) as refused:
        hold_folder(str(tmp_path), "training")
    assert str(tmp_path) in str(refused.value) and f"process {first.pid}" in str(refused.value)
    hold_folder(str(tmp_path), "evaluation").release()
    first.send_signal(signal.SIGKILL)
    first.wait()
    hold_folder(str(tmp_path), "training").release()
    assert os.listdir(tmp_path) == []  # nothing is left to delete


def test_a_child_does_not_keep_the_lock_of_a_killed_parent(tmp_path):
    code = f"""
import os, subprocess, sys, time
from src.utils.locks import hold_folder
lock = hold_folder({str(tmp_path)!r}, "training")
child = os.fork()
if child == 0:
    time.sleep(60)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
print(child, other.pid, flush=True)
"""
    words = [sys.executable, "-c", code + "import time\ntime.sleep(60)"]
    parent = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    children = [int(word) for word in parent.stdout.readline().split()]
    try:
        with pytest.raises(UserError):
            hold_folder(str(tmp_path), "training")
        parent.kill()
        parent.wait()
        for child in children:
            os.kill(child, 0)  # it lives
        hold_folder(str(tmp_path), "training").release()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_one_file_is_written_once_at_a_time(tmp_path):
    path = str(tmp_path / "ssd.onnx")
    first = other_process(f"from src.utils.locks import hold_file; lock = hold_file({path!r}, 'export', 'file_name')")
    with pytest.raises(UserError) as refused:
        hold_file(path, "export", "file_name")
    assert f"file_name: {path} is in use by another export (process {first.pid}" in str(refused.value)
    hold_file(str(tmp_path / "other.onnx"), "export", "file_name").release()
    first.kill()
    first.wait()
    hold_file(path, "export", "file_name").release()
    assert os.listdir(tmp_path) == []


def test_readers_share_a_lock_that_a_writer_waits_for(tmp_path):
    path = str(tmp_path / "a.lock")
    reader = other_process(f"from src.utils.locks import try_lock; lock = try_lock({path!r}, shared=True)")
    with wait_lock(path, "", shared=True):
        pass
    assert try_lock(path) is None
    reader.kill()
    reader.wait()
    with try_lock(path) as alone:
        assert alone is not None
        assert try_lock(path, shared=True) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_only_read_can_be_shared(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with try_lock(str(tmp_path / "a.lock"), shared=True) as lock:
            assert lock is not None
        with pytest.raises(OSError):
            try_lock(str(tmp_path / "a.lock"))
    finally:
        tmp_path.chmod(0o755)
