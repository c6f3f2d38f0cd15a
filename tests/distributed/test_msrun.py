"""Two CPU workers under msrun: every collective operation of `MindSporeCommunicator`."""

import os
import socket

import pytest

from tests.distributed import worker
from tests.distributed.processes import BIN, Run

RANKS = 2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists(os.path.join(BIN, "msrun")), reason="no msrun (it comes with MindSpore 2)")
def test_every_exchange(tmp_path):
    words = ["msrun", f"--worker_num={RANKS}", f"--local_worker_num={RANKS}", f"--master_port={free_port()}"]
    words += [f"--log_dir={tmp_path / 'log'}", "--join=True", worker.__file__, "exchange", str(tmp_path)]
    run = Run(words, tmp_path)
    status = run.end(180)
    logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted((tmp_path / "log").glob("*.log")))
    assert status == 0, run.output() + logs
    done = {path.name: path.read_text() for path in tmp_path.glob("done_*")}
    assert done == {f"done_{rank}": "MindSporeCommunicator" for rank in range(RANKS)}, logs
