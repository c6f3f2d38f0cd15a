"""Start runs of several processes, find all their processes, and check that they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid

from tests.helpers.paths import ROOT

BIN = os.path.dirname(sys.executable)
MARK = "SSD_TEST_RUN"
GONE_SECONDS = 30
# half of a short run is compilation, and half of the compilation is the head of four levels
SMALL_HEAD = ["--num_addition_layers=1", "--extras_out_channels=[64, 64, 64, 64, 64]"]


def has_mpirun() -> bool:
    """mpirun of the environment that runs the tests (installed by requirements.txt on x86-64 Linux)."""
    return os.path.exists(os.path.join(BIN, "mpirun"))


def mpirun(ranks: int, *words: str) -> list:
    """The start of the published command line, followed by more arguments."""
    start = ["mpirun", "-allow-run-as-root", "-n", str(ranks), "--output-filename", "log_output"]
    return [*start, "--merge-stderr-to-stdout", *words]


class Run:
    """A command and all its descendants, which are marked by an environment variable."""

    def __init__(self, words, cwd, **environment):
        self.mark = uuid.uuid4().hex
        self.log = os.path.join(str(cwd), f"output_{self.mark}.txt")
        environment = dict(
            os.environ,
            PATH=BIN + os.pathsep + os.environ["PATH"],
            PYTHONPATH=ROOT,
            GLOG_v="4",
            OMPI_MCA_rmaps_base_oversubscribe="1",
            **{MARK: self.mark},
            **environment,
        )
        self.start = time.time()
        with open(self.log, "wb") as handle:
            self.process = subprocess.Popen(words, cwd=cwd, env=environment, stdout=handle, stderr=subprocess.STDOUT)

    def output(self) -> str:
        with open(self.log, encoding="utf-8", errors="replace") as handle:
            return handle.read()

    def members(self) -> dict:
        """pid -> environment of every living process of this run."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as handle:
                    content = handle.read()
                with open(f"/proc/{pid}/stat") as handle:
                    state = handle.read().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if f"{MARK}={self.mark}".encode() in content and state != "Z":
                found[int(pid)] = dict(
                    part.split("=", 1) for part in content.decode(errors="replace").split("\0") if "=" in part
                )
        return found

    def rank(self, number: int) -> int:
        """The pid of a rank."""
        ranks = {pid for pid, env in self.members().items() if env.get("OMPI_COMM_WORLD_RANK") == str(number)}
        return min(ranks)  # data workers of a rank have higher pids

    def wait_for(self, condition, seconds: float = 240) -> None:
        """Wait until `condition()` is true; fails if the run ends first."""
        end = time.time() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output()[-3000:]}"
            assert time.time() < end, f"waited {seconds} s:\n{self.output()[-3000:]}"
            time.sleep(0.02)

    def wait_for_text(self, text: str) -> None:
        self.wait_for(lambda: text in self.output())

    def end(self, seconds: float = GONE_SECONDS) -> int:
        """Wait up to `seconds` until all processes of the run have ended; returns the exit status."""
        end = time.time() + seconds
        try:
            status = self.process.wait(timeout=seconds)
            while self.members() and time.time() < end:
                time.sleep(0.1)
            left = self.members()
            assert not left, f"{len(left)} processes are left:\n{self.output()[-3000:]}"
            return status
        finally:
            self.clean()

    def clean(self) -> None:
        """Kill the remaining processes, so that a failed test leaves none."""
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
