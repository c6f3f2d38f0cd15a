"""SIGTERM and Ctrl-C: what waits, what ends at once, and with which status."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from mindspore import Tensor, nn

from src.stop import STATUS, Stop
from tests.conftest import ROOT


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in STATUS}
    made = Stop()
    made.install()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR2, 130)])
def test_at_once_or_later(stop, number, status):
    with pytest.raises(SystemExit) as left:
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert left.value.code == status
    stop.status = 0
    with stop.held():
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert stop.status == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handlers_are_kept(stop, number):
    with stop.held():
        time.sleep(0.1)
        ctypes.CDLL(None).signal(int(number), 1)  # as MindSpore's graphs do, behind Python's back
        time.sleep(0.1)
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert stop.status == STATUS[number]


def test_ctrl_c_around_a_graph(cfg256, stop):
    net, one = nn.Dense(2, 2), Tensor(np.ones((2, 2), np.float32))
    with stop.held():
        for _ in range(3):
            net(one).asnumpy()
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            assert stop.status == 130
            stop.status = 0


def test_a_second_signal_ends_the_process():
    code = (
        "import os, signal\nfrom src.stop import Stop\nstop = Stop()\nstop.install()\n"
        "with stop.held():\n os.kill(os.getpid(), signal.SIGTERM)\n print('waits', flush=True)\n"
        " os.kill(os.getpid(), signal.SIGINT)\n print('not reached')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (130, b"waits\n"), done.stderr
