"""Runs the programs of `scripts/rehearsal.py` with limited resources or a full page cache, and measures them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from typing import IO, Callable, Dict, Iterator, List, NamedTuple, Optional

OPEN_FILES = 256
SAMPLE_SECONDS = 0.1
SILENT_SECONDS = 20 * 60  # a program that prints nothing for this long is considered hung
NO_HOME = "/proc/1/none"  # does not exist, and not even root can create it
STARVED = 512 << 20  # the page cache counts as full if fewer bytes are free
_BLOCK, _ROUNDS = 8 << 20, 4


class Finished(NamedTuple):
    """The result of a stage.

    status: exit status of its first process, 128 + signal if a signal ended it; peak_mb: peak of memory of its largest
    process; largest: command line of that process; output: everything it printed.
    """

    status: int
    seconds: float
    peak_mb: float
    largest: str
    output: str


def limited_environment(**more: str) -> Dict[str, str]:
    """The environment of a stage: no home directory, and no variables that name cache folders."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "MPLCONFIGDIR"))}
    return dict(environment, HOME=NO_HOME, PYTHONUNBUFFERED="1", **more)


def read_only_mount(folder: str) -> List[str]:
    """A prefix for command lines that mounts `folder` read-only for this command only; [] if the user may not do it."""
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    for flags in (["-m"], ["-r", "-m"]):
        words = ["unshare", *flags, "--propagation", "private", "sh", "-c", script, folder]
        with contextlib.suppress(OSError):
            done = subprocess.run([*words, "touch", os.path.join(folder, ".probe")], stderr=subprocess.PIPE)
            if done.returncode and b"Read-only" in done.stderr:
                return words
    with contextlib.suppress(OSError):
        os.remove(os.path.join(folder, ".probe"))
    return []


def take_write_permission(folder: str) -> None:
    """Remove write permission below a folder: the fallback without a read-only mount, without effect on root."""
    for top, _, _ in os.walk(folder):
        os.chmod(top, 0o555)


def give_write_permission(folder: str) -> None:
    """Undo `take_write_permission`."""
    for top, _, _ in os.walk(folder):
        os.chmod(top, 0o755)


def listing(folder: str) -> List[tuple]:
    """Name, size and time of everything below a folder; equal listings show that nothing was written."""
    found = []
    for top, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names) + folders:
            path = os.path.join(top, name)
            stat = os.lstat(path)
            found.append((path, stat.st_size, stat.st_mtime_ns))
    return found


def memory_info() -> Dict[str, int]:
    """/proc/meminfo in bytes."""
    with open("/proc/meminfo", encoding="ascii") as handle:
        return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in handle}


@contextlib.contextmanager
def full_page_cache(folder: str) -> Iterator[int]:
    """Fill the page cache by reading a sparse file, and keep it full inside the block; yields the bytes that are free
    at its start (MemFree). The file takes no disk space; at the end it is removed, and its pages with it."""
    path, over = os.path.join(folder, "page_cache"), threading.Event()
    keeper = None
    try:
        with open(path, "w+b", buffering=0) as handle:
            # page by page: some kernels drop GBs of read-ahead pages at once, and memory would stay free
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            block = bytearray(_BLOCK)
            for _ in range(_ROUNDS):  # other programs free memory in the meantime
                if not _read_more(handle, block):
                    break
            keeper = threading.Thread(target=_keep_full, args=(handle, block, over), daemon=True)
            keeper.start()
            yield memory_info()["MemFree"]
            over.set()
            keeper.join()
    finally:
        over.set()
        with contextlib.suppress(OSError):
            os.remove(path)


def _read_more(handle: IO, block: bytearray) -> bool:
    """Extend and read the sparse file by the size of the free memory; False if little memory is free."""
    free = memory_info()["MemFree"] - STARVED // 2
    if free < STARVED // 2:
        return False
    handle.truncate(handle.tell() + free)
    while handle.readinto(block):
        pass
    return True


def _keep_full(handle: IO, block: bytearray, over: threading.Event) -> None:
    while not over.wait(0.2):
        _read_more(handle, block)


def members(session: int) -> List[int]:
    """The processes of a session and all their descendants."""
    parents, found = {}, {session}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat", encoding="utf-8") as handle:
                fields = handle.read().rsplit(")", 1)[1].split()
                parents[int(name)] = int(fields[1])
                if int(fields[3]) == session:
                    found.add(int(name))
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found and pid not in found}
        found |= more
        grown = bool(more)
    return sorted(found & set(parents))


def peak_bytes(pid: int) -> int:
    """Peak of memory of a process (VmHWM), 0 if it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as handle:
        found = re.search(r"VmHWM:\s+(\d+) kB", handle.read())
        return 1024 * int(found.group(1)) if found else 0
    return 0


def command_line(pid: int) -> str:
    """The first two words of the command line of a process, without folders."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as handle:
        words = [os.path.basename(word) for word in handle.read().decode(errors="replace").split("\0")]
        return " ".join(words[:2])
    return "?"


def _limit() -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read()


def _end(process: subprocess.Popen) -> None:
    """Kill all processes of a stage."""
    for pid in members(process.pid):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    if process.poll() is None:
        process.wait()


def _collect(process: subprocess.Popen) -> int:
    """Check whether a process has ended and set its return code.

    Returns:
        Once it has ended: peak of memory in bytes of the process and the children that it waited for, else 0.
    """
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if pid == 0:
        return 0
    process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    # covers the time after the last sample; not usable if it is the peak inherited from this process
    peak = 1024 * usage.ru_maxrss
    return peak if peak > peak_bytes(os.getpid()) else 0


def run(
    words: List[str], cwd: str, log: str, environment: Dict[str, str], stop_when: Optional[Callable] = None
) -> Finished:
    """Run a command to its end in a new session.

    Args:
        log: file for its output.
        stop_when: output so far -> whether to send a SIGTERM (only once).

    Raises:
        OSError: the command cannot be started.
    """
    start, peaks, names, stopped, exact = time.time(), {}, {}, False, 0
    with open(log, "wb") as handle:
        process = subprocess.Popen(
            words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=handle, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=_limit,
        )  # fmt: skip
    silent_since, size = time.time(), 0
    try:
        while process.returncode is None:
            for pid in members(process.pid):
                peak = peak_bytes(pid)
                if peak > peaks.get(pid, 0):
                    peaks[pid], names[pid] = peak, command_line(pid)
            if os.path.getsize(log) != size:
                silent_since, size = time.time(), os.path.getsize(log)
                if stop_when is not None and not stopped and stop_when(_read(log)):
                    stopped = True
                    process.send_signal(signal.SIGTERM)
            if time.time() - silent_since > SILENT_SECONDS:
                _end(process)
                with open(log, "a", encoding="utf-8") as handle:
                    handle.write(f"rehearsal: killed, because it printed nothing for {SILENT_SECONDS // 60} minutes\n")
                break
            time.sleep(SAMPLE_SECONDS)
            exact = _collect(process)
    finally:
        _end(process)
    largest = max(peaks, key=peaks.get) if peaks else 0
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    peak = max(peaks.get(largest, 0), exact)
    return Finished(status, time.time() - start, peak / 1e6, names.get(largest, ""), _read(log))


def free_bytes(folder: str) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free
