"""How `scripts/rehearsal.py` runs a program: under limits, with a full page cache, watched until it ends."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from typing import IO, Callable, Dict, Iterator, List, NamedTuple, Optional

OPEN_FILES = 256
SAMPLE_SECONDS = 0.1
SILENT_SECONDS = 20 * 60  # a program that writes nothing for so long hangs
NO_HOME = "/proc/1/none"  # exists nowhere and cannot be made, not even by root
STARVED = 512 << 20  # the page cache is full where less than this is free
_BLOCK, _ROUNDS = 8 << 20, 4


class Finished(NamedTuple):
    """How a stage ended.

    status: of its first process, 128 + signal where a signal ended it; peak_mb: of its largest process; largest: that
    process's command line; output: all that it printed.
    """

    status: int
    seconds: float
    peak_mb: float
    largest: str
    output: str


def limited_environment(**more: str) -> Dict[str, str]:
    """The environment of a stage: no home, nothing that names a cache elsewhere."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "MPLCONFIGDIR"))}
    return dict(environment, HOME=NO_HOME, PYTHONUNBUFFERED="1", **more)


def read_only_mount(folder: str) -> List[str]:
    """Words that start a command with `folder` mounted read-only for it alone, [] where this user cannot do that."""
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
    """The second best for a read-only folder: it does not bind root."""
    for top, _, _ in os.walk(folder):
        os.chmod(top, 0o555)


def give_write_permission(folder: str) -> None:
    """Undo `take_write_permission`."""
    for top, _, _ in os.walk(folder):
        os.chmod(top, 0o755)


def listing(folder: str) -> List[tuple]:
    """Name, size and time of everything below a folder: two equal ones show that nothing was written."""
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
    """Fill the page cache with a sparse file that is read, and keep it full within the block; gives the bytes that are
    free at its start (MemFree). The file takes no room on the disk; at the end it is removed, and its pages with it."""
    path, over = os.path.join(folder, "page_cache"), threading.Event()
    keeper = None
    try:
        with open(path, "w+b", buffering=0) as handle:
            # page by page: of what is read ahead in large pieces some kernels drop GBs at once, and memory stays free
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            block = bytearray(_BLOCK)
            for _ in range(_ROUNDS):  # other programs give memory back meanwhile
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
    """Read as much of the sparse file as there is memory free; False where little is."""
    wanted = memory_info()["MemFree"] - STARVED // 2
    if wanted < STARVED // 2:
        return False
    handle.truncate(handle.tell() + wanted)
    while handle.readinto(block):
        pass
    return True


def _keep_full(handle: IO, block: bytearray, over: threading.Event) -> None:
    while not over.wait(0.2):
        _read_more(handle, block)


def members(session: int) -> List[int]:
    """The processes of a session and all that they started."""
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
    """The most memory that a process has held (VmHWM), 0 where it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as handle:
        found = re.search(r"VmHWM:\s+(\d+) kB", handle.read())
        return 1024 * int(found.group(1)) if found else 0
    return 0


def command_line(pid: int) -> str:
    """The words of a process that say what it is."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as handle:
        words = [os.path.basename(word) for word in handle.read().decode(errors="replace").split("\0")]
        return " ".join(words[:2])
    return "?"


def _limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read()


def _end(process: subprocess.Popen) -> None:
    """End every process of a stage."""
    for pid in members(process.pid):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    if process.poll() is None:
        process.wait()


def _collect(process: subprocess.Popen) -> int:
    """Note the end of a process; then the most memory that it or a child that it waited for has held, in bytes."""
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if pid == 0:
        return 0
    process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    # what the samples miss between the last of them and the end; a process starts with the figure of its parent
    peak = 1024 * usage.ru_maxrss
    return peak if peak > peak_bytes(os.getpid()) else 0


def run(
    words: List[str], cwd: str, log: str, environment: Dict[str, str], stop_when: Optional[Callable] = None
) -> Finished:
    """Run a command to its end in a session of its own.

    Args:
        log: file of its output.
        stop_when: the output so far -> True when the command gets a SIGTERM (once).

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
                    handle.write(f"rehearsal: ended, as it wrote nothing for {SILENT_SECONDS // 60} minutes\n")
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
    """Room on the disk of a folder, which need not exist yet."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free
