"""scripts/launch.py: options, the positional arguments of the published scripts, and unexpected words."""

import os
import signal
import subprocess
import sys
import time

import pytest

from scripts import launch
from tests.helpers.paths import ROOT

GPU = os.path.join(ROOT, "config", "ssd_resnet50_fpn_config_gpu.yaml")
ASCEND = GPU.replace("_gpu", "_ascend")
CPU = GPU.replace("_gpu", "_cpu")


def words(*argv):
    """The command line of the program, with its launcher."""
    return launch.command(*launch.parse(argv))


def options(*argv):
    return [word for word in words(*argv) if word.startswith("--") and "=" in word]


def test_published_distributed_training():
    line = words("train", "8", "60", "0.05", "coco", GPU)
    assert line[:4] == ["mpirun", "-allow-run-as-root", "-n", "8"]
    assert line[line.index(os.path.join(ROOT, "train.py")) + 1 :] == [
        "--run_distribute=True",
        "--device_num=8",
        "--device_target=GPU",
        f"--config_path={GPU}",
        "--epoch_size=60",
        "--lr=0.05",
        "--dataset=coco",
    ]
    line = words("train", "8", "500", "0.2", "coco", "hccl_8p.json", ASCEND, "x.ckpt", "200", "--output_path=a b")
    assert line[0] == "msrun" and line[-3:] == [
        "--pre_trained=x.ckpt",
        "--pre_trained_epoch_size=200",
        "--output_path=a b",
    ]
    assert "--device_target=Ascend" in line and "hccl_8p.json" not in line


def test_published_training_and_evaluation_on_one_device():
    assert options("train", "--standalone", "1", "60", ".05", "voc", GPU) == [
        "--device_target=GPU",
        f"--config_path={GPU}",
        "--device_id=1",
        "--epoch_size=60",
        "--lr=.05",
        "--dataset=voc",
    ]
    assert options("eval", "coco", "x.ckpt", "0", CPU) == [
        "--device_target=CPU",
        f"--config_path={CPU}",
        "--dataset=coco",
        "--checkpoint_file_path=x.ckpt",
        "--device_id=0",
    ]


def test_the_target_is_the_one_given_or_that_of_the_configuration():
    # the network's own file
    assert not [word for word in options("train", "--model_name=ssd300") if word.startswith("--config_path")]
    assert options("eval", "--device_target=cpu")[:2] == ["--device_target=CPU", f"--config_path={CPU}"]
    assert options("eval", "--config_path", CPU)[0] == "--device_target=CPU"
    assert options("eval", "--config_path", CPU, "--device_target", "ascend")[0] == "--device_target=Ascend"
    assert options("eval", "--config_path=/no/such.yaml")[0] == options("eval")[0] == "--device_target=GPU"
    assert options("eval", "--config_path=config/ssd_resnet50_fpn_config_cpu.yaml")[0] == "--device_target=CPU"


@pytest.mark.parametrize(
    "script, argv, expected",
    [
        ("run_distribute_train.sh", ["2"], ["DEVICE_NUM EPOCH_SIZE", "scripts/run_distribute_train.sh --device_num=2"]),
        ("run_distribute_train.sh", ["8", "60", "0.05", "coco"], ["--epoch_size=60 --lr=0.05 --dataset=coco"]),
        ("run_distribute_train.sh", ["8", "coco", "60", "0.05", GPU], ["'coco' is not a valid EPOCH_SIZE"]),
        ("run_distribute_train.sh", ["--lr=0.1", "2"], ["'2' does not belong to an option"]),
        ("run_distribute_train.sh", ["--lr", "0.1", "2"], ["'2' does not belong to an option"]),
        ("run_distribute_train.sh", ["--device_num=0"], ["--device_num must be at least 1"]),
        ("run_standalone_train.sh", ["0"], ["DEVICE_ID EPOCH_SIZE", "--device_id=0"]),
        ("run_eval.sh", ["coco", "x.ckpt"], ["CHECKPOINT_FILE_PATH", "--dataset=coco --checkpoint_file_path=x.ckpt"]),
        ("run_eval.sh", ["--device_target=tpu"], ["device_target", "GPU"]),
    ],
)  # fmt: skip
def test_other_words_are_one_line(script, argv, expected):
    environment = dict(os.environ, VENV=os.path.dirname(os.path.dirname(sys.executable)))
    done = subprocess.run(
        ["bash", os.path.join(ROOT, "scripts", script), *argv], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2 and done.stdout == "", done.stdout
    assert len(done.stderr.splitlines()) == 1 and all(part in done.stderr for part in expected), done.stderr


MPIRUN = """#!/usr/bin/env python3
import signal, sys, time
def leave(*_):
    for number in range(10):
        print("saving", number, flush=True)
        time.sleep(0.05)
    open("saved", "w").close()
    sys.exit(143)
signal.signal(signal.SIGUSR1, leave)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
print("ready", flush=True)
time.sleep(60)
"""


def launched(folder, hangup=signal.SIG_DFL):
    """A process that follows a fake mpirun, which saves at USR1 as the ranks do; it has started.

    hangup: its SIGHUP handler, independent of that of the tests.
    """
    (folder / "mpirun").write_text(MPIRUN)
    (folder / "mpirun").chmod(0o755)
    environment = dict(os.environ, PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
    program = "import os, sys, launch; sys.exit(launch.follow(['mpirun'], dict(os.environ)))"
    run = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        env=dict(environment, PYTHONPATH=os.path.join(ROOT, "scripts")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
    )
    assert run.stdout.readline() == "ready\n"
    return run


def test_a_closed_terminal_lets_the_ranks_save(tmp_path):
    """The output has no reader any more, and shell and kernel both send SIGHUP."""
    run = launched(tmp_path)
    run.stdout.close()
    run.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    run.send_signal(signal.SIGHUP)
    assert run.wait(30) == 129 and run.stderr.read() == "" and (tmp_path / "saved").exists()


def test_nohup_keeps_the_launcher_from_stopping(tmp_path):
    run = launched(tmp_path, signal.SIG_IGN)
    run.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert run.poll() is None and not (tmp_path / "saved").exists()
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 143 and (tmp_path / "saved").exists()
