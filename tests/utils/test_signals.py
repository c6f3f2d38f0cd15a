"""SIGTERM and Ctrl-C: deferred or immediate, and with which exit status."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from mindspore import Tensor, nn

from src.utils.signals import STATUS, SignalGuard
from tests.helpers.paths import ROOT


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in STATUS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    made = SignalGuard()
    made.install()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR2, 130), (signal.SIGHUP, 129)]
)
def test_at_once_or_later(stop, number, status):
    with pytest.raises(SystemExit) as left:
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert left.value.code == status
    stop.status = 0
    with stop.deferred():
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert stop.status == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handlers_are_kept(stop, number):
    with stop.deferred():
        time.sleep(0.1)
        ctypes.CDLL(None).signal(int(number), 1)  # as MindSpore's graphs do, behind Python's back
        time.sleep(0.1)
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert stop.status == STATUS[number]


def test_ctrl_c_around_a_graph(cfg256, stop):
    net, one = nn.Dense(2, 2), Tensor(np.ones((2, 2), np.float32))
    with stop.deferred():
        for _ in range(3):
            net(one).asnumpy()
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            assert stop.status == 130
            stop.status = 0


def test_a_second_signal_ends_the_process():
    code = (
        "import os, signal\nfrom src.utils.signals import SignalGuard\nstop = SignalGuard()\nstop.install()\n"
        "with stop.deferred():\n os.kill(os.getpid(), signal.SIGTERM)\n print('waits', flush=True)\n"
        " os.kill(os.getpid(), signal.SIGINT)\n print('not reached')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (130, b"waits\n"), done.stderr


def test_nohup_is_respected(stop):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop.install()
    with stop.deferred():
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
    assert stop.status == 0


@pytest.mark.parametrize("first, status", [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_shell_and_kernel_send_a_hangup_both(stop, first, status):
    with stop.deferred():
        for number in (first, signal.SIGHUP, signal.SIGHUP):
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        assert stop.status == status


def test_a_signal_inside_a_print_without_a_reader():
    code = (
        "import os, signal, sys\nfrom src.utils.signals import SignalGuard\nSignalGuard().install()\n"
        "class Slow:\n def write(self, text):\n  os.kill(os.getpid(), signal.SIGHUP)\n"
        "reading, writing = os.pipe()\nos.close(reading)\nos.dup2(writing, 2)\nprint('x', file=Slow())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, preexec_fn=_default_hangup)
    assert done.returncode == 129


def _default_hangup():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
