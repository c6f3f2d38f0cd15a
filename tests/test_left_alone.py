"""An unattended training: its terminal closes, the reader of its log ends, another run wants its folder."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.distributed.processes import SMALL_HEAD, has_mpirun, mpirun
from tests.distributed.processes import Run as RanksRun
from tests.helpers.paths import QUICKSTART_CONFIG, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("left_alone")
    words = [os.path.join(ROOT, "scripts", "draw_shapes.py"), "--output", str(folder / "shapes"), "--image_size", "128"]
    subprocess.run([sys.executable, *words, "--train", "8", "--val", "2"], check=True, stdout=subprocess.PIPE)
    pipe = no_reader()  # the first conversion, whose log is not read: complete nevertheless
    done = subprocess.run(training(folder, folder, "--only_create_dataset=True"), stdout=pipe, stderr=pipe)
    os.close(pipe)
    assert done.returncode == 0
    return folder


def no_reader():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def training(data, output, *more):
    words = [
        sys.executable,
        os.path.join(ROOT, "train.py"),
        f"--config_path={QUICKSTART_CONFIG}",
        f"--data_path={data}",
    ]
    words += ["--coco_root=shapes", f"--mindrecord_dir={data / 'records'}", "--batch_size=2", *SMALL_HEAD]
    words += ["--feature_extractor_base_param=", "--bn_recalibration_steps=0", f"--output_path={output}"]
    return [*words, "--warmup_epochs=0", "--epoch_size=1", *more]


def default_hangup():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_for(output, text="first step"):
    end = time.time() + 240
    while not (output / "log_0.txt").exists() or text not in (output / "log_0.txt").read_text():
        assert time.time() < end, f"'{text}' did not come"
        time.sleep(0.05)


def history(output):
    rows = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


def test_closed_terminal_lost_reader_and_a_second_run(data, tmp_path):
    # the reader of both streams ends after the first line, the training does not
    undisturbed = tmp_path / "undisturbed"
    first = subprocess.Popen(training(data, undisturbed), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    first.stdout.readline()
    first.stdout.close()
    wait_for(undisturbed)
    for more in ((), ("--resume",)):  # meanwhile, a second run into its folder
        before = (undisturbed / "log_0.txt").read_text()
        second = subprocess.run(training(data, undisturbed, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert first.poll() is None, "ended too early for this test"
        error = second.stderr.decode().splitlines()
        assert second.returncode == 2 and len(error) == 1
        assert f"{undisturbed} is in use by another training (process {first.pid} on " in error[0]
        assert (undisturbed / "log_0.txt").read_text().startswith(before)
    assert first.wait(timeout=240) == 0
    names = {"ckpt_0", "config.yaml", "curves.png", "history.jsonl", "log_0.txt", "run.json"}
    assert set(os.listdir(undisturbed)) == names and os.listdir(undisturbed / "ckpt_0") == ["ssd-1_4.ckpt"]
    assert len(json.loads((undisturbed / "run.json").read_text())) == 1
    log = (undisturbed / "log_0.txt").read_text()
    assert "the program continues" in log and "epoch 1/1: loss" in log and log.count("first step") == 1

    # when a terminal closes, kernel and shell both send SIGHUP
    output = tmp_path / "hangup"
    run = subprocess.Popen(training(data, output), stdout=subprocess.DEVNULL, preexec_fn=default_hangup)
    wait_for(output)
    run.send_signal(signal.SIGHUP)
    run.send_signal(signal.SIGHUP)
    assert run.wait(timeout=240) == 129
    (saved,) = os.listdir(output / "ckpt_0")
    assert saved.startswith("ssd-1_")
    done = subprocess.run(training(data, output, "--resume"), stdout=subprocess.PIPE)
    assert done.returncode == 0 and b"resumed: epoch 1" in done.stdout or saved == "ssd-1_4.ckpt"
    assert history(output) == history(undisturbed)
    last = [(folder / "ckpt_0" / "ssd-1_4.ckpt").read_bytes() for folder in (output, undisturbed)]
    assert last[0] == last[1]


def test_a_hangup_before_the_first_step(data, tmp_path):
    run = subprocess.Popen(training(data, tmp_path), stdout=subprocess.DEVNULL, preexec_fn=default_hangup)
    wait_for(tmp_path, "up to date")
    run.send_signal(signal.SIGHUP)
    assert run.wait(timeout=60) in (129,)
    assert set(os.listdir(tmp_path)) <= {"log_0.txt", "ckpt_0", "run.json", "config.yaml"}


@pytest.mark.skipif(not has_mpirun(), reason="no mpirun next to this Python")
def test_ranks_are_refused_together(data, tmp_path):
    (tmp_path / "out").mkdir()
    code = f"from src.utils.locks import hold_folder; lock = hold_folder({str(tmp_path / 'out')!r}, 'training'); "
    words = [sys.executable, "-c", code + "print(flush=True); import time; time.sleep(200)"]
    holder = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    holder.stdout.readline()
    try:
        words = training(data, tmp_path / "out", "--run_distribute=True", "--device_num=2")
        run = RanksRun(mpirun(2, *words), tmp_path)
        run.process.wait(timeout=120)
        assert run.end() == 2, run.output()
        assert run.output().count(f"error: rank 0: output_path: {tmp_path / 'out'} is in use") == 1
        assert os.listdir(tmp_path / "out") == [".training.lock"]
    finally:
        holder.kill()
        holder.wait()
