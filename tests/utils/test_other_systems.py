"""Without what only Linux or Unix has: programs start, lock, write, and end by signals. msvcrt is a stand-in."""

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

MODULES = [
    os.path.relpath(os.path.join(top, name), ROOT)[:-3].replace(os.sep, ".").replace(".__init__", "")
    for top, _, names in os.walk(os.path.join(ROOT, "src"))
    for name in sorted(names)
    if name.endswith(".py")
]
ENTRIES = ["train", "eval", "export"] + [
    f"scripts.{name[:-3]}"
    for name in sorted(os.listdir(os.path.join(ROOT, "scripts")))
    if name.endswith(".py") and name != "launch.py"  # it starts mpirun: Linux
]

HIDE = """
import builtins, ctypes, errno, fcntl, importlib, os, shutil, signal, subprocess, sys, types
import src  # before MindSpore 1.10: finds its CUDA library
import cv2, mindspore.dataset, multiprocessing, numpy, pycocotools.cocoeval, tempfile, tqdm, uuid, yaml  # may use them
lockf, exclusive = fcntl.lockf, fcntl.LOCK_EX | fcntl.LOCK_NB
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
for name in "sched_setaffinity sched_getaffinity register_at_fork pwrite pread fork getuid geteuid uname".split():
    delattr(os, name)

class Library(ctypes.CDLL):
    def __init__(self, name, *more, **options):
        if name is None:
            raise TypeError("bad argument type for built-in operation")
        super().__init__(name, *more, **options)

ctypes.CDLL = Library
given_open, given_os_open = builtins.open, os.open

def hidden(path):
    return isinstance(path, (str, bytes)) and os.fsdecode(path).startswith(("/proc", "/sys"))

def open_file(path, *more, **options):
    if hidden(path):
        raise FileNotFoundError(errno.ENOENT, "no such file", path)
    return given_open(path, *more, **options)

def os_open(path, *more, **options):
    if hidden(path):
        raise FileNotFoundError(errno.ENOENT, "no such file", path)
    if os.path.isdir(path) and FOLDERS_CLOSED:
        raise PermissionError(errno.EACCES, "Permission denied", path)
    return given_os_open(path, *more, **options)

shutil._use_fd_functions = False  # as on Windows
builtins.open, os.open = open_file, os_open
for name in ("isdir", "exists"):
    def answer(path, given=getattr(os.path, name)):
        return not hidden(path) and given(path)
    setattr(os.path, name, answer)

if MSVCRT:
    def locking(descriptor, mode, length):
        try:
            lockf(descriptor, exclusive, length, os.lseek(descriptor, 0, os.SEEK_CUR), os.SEEK_SET)
        except OSError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
"""


def start(code, msvcrt=True, cwd=None):
    code = f"MSVCRT = FOLDERS_CLOSED = {msvcrt}\n" + HIDE + code
    environment = dict(os.environ, PYTHONPATH=ROOT, GLOG_v="4")
    words = [sys.executable, "-c", code]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd or ROOT
    )


def finish(code, msvcrt=True, cwd=None):
    run = start(code, msvcrt, cwd)
    out, error = run.communicate(timeout=300)
    assert run.returncode == 0, error[-3000:]
    return out


@pytest.mark.parametrize("msvcrt", [True, False])
def test_every_module_and_program_is_imported(msvcrt):
    code = f"for name in {MODULES + ENTRIES}:\n    importlib.import_module(name)\nprint('imported')"
    assert "imported" in finish(code, msvcrt)


SMALL = """
import logging, threading
from src.inference.exporter import _ascii_path
from src.utils.device import _share_cores
from src.utils.locks import hold_folder, try_lock
from src.utils.memory import keep_heap_small, release_free_memory
from src.utils.output import append_line, write_json
from src.utils.signals import STATUS, SignalGuard
from src.utils.threads import cores
folder = sys.argv[1] if len(sys.argv) > 1 else os.getcwd()
os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2"
_share_cores(); keep_heap_small(); release_free_memory()
assert cores() >= 1 and sorted(STATUS.values()) == [130, 143]
with hold_folder(folder, "training"):
    assert os.path.exists(".training.lock")
    write_json("a.json", [1])
    append_line("b.txt", "line")
    assert try_lock(folder) is not None  # no lock where a folder cannot be opened, and no error
assert sorted(os.listdir(folder)) == ["a.json", "b.txt"], os.listdir(folder)
with _ascii_path(folder) as path:
    assert os.path.samefile(path, folder) and path.isascii()
guard = SignalGuard()
guard.install()
with guard.deferred():
    signal.raise_signal(signal.SIGTERM)
assert guard.status == 143
try:
    signal.raise_signal(signal.SIGINT)
except SystemExit as leaving:
    print("left with", leaving.code)
"""


@pytest.mark.parametrize("msvcrt", [True, False])
def test_locks_files_and_signals(tmp_path, msvcrt):
    assert "left with 130" in finish(SMALL, msvcrt, tmp_path)


def test_msvcrt_locks_exclude_other_processes(tmp_path):
    """A holder is named; readers share, and a writer waits for them; a killed process holds nothing."""
    code = "from src.utils.locks import *\nlock = hold_folder('.', 'training')\nreader = try_lock('r', shared=True)\n"
    first = start(code + "print('ready', flush=True)\nimport time\ntime.sleep(60)", cwd=tmp_path)
    assert first.stdout.readline() == "ready\n", first.stderr.read()
    second = f"""
from src.utils.errors import UserError
from src.utils.locks import hold_folder, try_lock
try:
    hold_folder(".", "training")
except UserError as error:
    print("process {first.pid} on" in str(error), end=" ")
print(try_lock("r") is None, try_lock("r", shared=True) is not None)
"""
    try:
        assert finish(second, cwd=tmp_path).split() == ["True"] * 3
    finally:
        first.kill()
        first.communicate()
    assert finish(second, cwd=tmp_path).split() == ["False", "True"]  # not refused; the lock of a writer is free


def test_stale_parts_are_removed_by_age(tmp_path):
    code = """
import socket, time
from src.utils.output import write_json
for name, age in (("old", 2e5), ("new", 60)):
    path = f".part-{socket.gethostname()}-1-{name}"
    open(path, "w").close()
    os.utime(path, (time.time() - age,) * 2)
write_json("a.json", 1)
print(*(name.rsplit("-", 1)[-1] for name in sorted(os.listdir("."))))
"""
    assert finish(code, cwd=tmp_path).split() == ["new", "a.json"]
