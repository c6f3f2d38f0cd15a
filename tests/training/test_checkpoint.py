"""Checkpoints are complete or absent, damage is detected, and the state of a run is restored."""

import logging
import os
import random
import subprocess
import sys
import time

import mindspore as ms
import numpy as np
import pytest

from src.config import load_config
from src.models import checkpoint_file
from src.models.checkpoint_file import read_checkpoint
from src.training.checkpoint import Checkpoints, restore_run, save_checkpoint_atomically
from src.training.run_files import find_resume, list_checkpoints, prepare_folder
from src.training.state import RunState, from_bytes, restore_random_state, training_relevant_config
from src.utils.distributed import Communicator
from src.utils.errors import RunError, UserError
from tests.helpers.cells import Small
from tests.helpers.paths import ROOT


def values(cell):
    return {parameter.name: parameter.asnumpy().tolist() for parameter in cell.get_parameters()}


STATE = RunState(2, 3, 8, [1.5, 2.25, 1 / 3], 4.5, 0.25, 64, 1, {"lr": 0.05})


def test_everything_comes_back(tmp_path):
    path = str(tmp_path / "ckpt_0" / "ssd-3_3.ckpt")
    os.makedirs(tmp_path / "ckpt_0")
    save_checkpoint_atomically(Small(1.0), path, STATE)
    cell = Small(2.0)
    state, source = restore_run(cell, [path], RunState(steps_per_epoch=8, images=64, config={"lr": 0.05}))
    assert state == STATE and source == path and state.steps == 19
    want = values(Small(1.0))
    want["learning_rate"] = values(Small(2.0))["learning_rate"]  # the rates follow from the config of the run
    assert values(cell) == want
    assert os.listdir(tmp_path / "ckpt_0") == ["ssd-3_3.ckpt"]


def test_random_state_comes_back():
    np.random.seed(5), random.seed(6)
    packed = STATE.to_bytes()
    first = (np.random.rand(3).tolist(), random.random())
    assert from_bytes(packed) == STATE
    restore_random_state(packed)
    assert (np.random.rand(3).tolist(), random.random()) == first
    with pytest.raises(ValueError):
        from_bytes(packed[:-5])


def test_published_names_are_readable_without_us(tmp_path):
    save_checkpoint_atomically(Small(1.0), str(tmp_path / "a.ckpt"), STATE)
    entries = ms.load_checkpoint(str(tmp_path / "a.ckpt"))
    np.testing.assert_array_equal(entries["a.weight"].asnumpy(), Small(1.0).weight.asnumpy())
    assert {"a.weight", "moments.a", "global_step", "momentum", "learning_rate"} <= set(entries)


def test_every_damage_is_known(tmp_path):
    good = tmp_path / "good.ckpt"
    save_checkpoint_atomically(Small(1.0), str(good), STATE)
    data, rng, path = good.read_bytes(), random.Random(0), tmp_path / "bad.ckpt"
    names = read_checkpoint(str(good), "x")
    assert "a.weight" in names
    for number in range(120):
        at = rng.randrange(len(data))
        if number % 3 == 0:
            damaged = data[:at]
        elif number % 3 == 1:
            damaged = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        else:
            damaged = data[:at] + data[at + rng.randint(1, 50) :]
        path.write_bytes(damaged)
        try:
            entries = read_checkpoint(str(path), "x")
        except UserError as error:
            assert "bad.ckpt" in str(error)
            continue
        # what MindSpore ignores (its own version fields) may change; every value is what was saved
        for name, value in names.items():
            np.testing.assert_array_equal(entries[name].asnumpy(), value.asnumpy())


def test_cut_on_the_edge_of_an_entry(tmp_path):
    """Both MindSpore versions load such a file without a warning."""
    path = tmp_path / "complete.ckpt"
    save_checkpoint_atomically(Small(1.0), str(path), STATE)
    data = path.read_bytes()
    # the last entries are short: some of these cuts lie between two
    for end in range(len(data) - 200, len(data)):
        (tmp_path / "cut.ckpt").write_bytes(data[:end])
        with pytest.raises(UserError):
            read_checkpoint(str(tmp_path / "cut.ckpt"), "x")


def test_the_newest_intact_one_is_used(tmp_path):
    folder = Checkpoints(prepare_folder(str(tmp_path), 0), 5)
    paths = [
        folder.save(Small(1.0), RunState(epochs=1, steps_per_epoch=8)),
        folder.save(Small(2.0), RunState(epochs=1, epoch_step=5, steps_per_epoch=8)),
        folder.save(Small(3.0), RunState(epochs=11, steps_per_epoch=8)),
    ]
    assert [os.path.basename(path) for path in paths] == ["ssd-1_8.ckpt", "ssd-2_5.ckpt", "ssd-11_8.ckpt"]
    assert list_checkpoints(folder.folder) == paths
    assert find_resume("auto", str(tmp_path)) == paths[::-1]
    os.truncate(paths[2], os.path.getsize(paths[2]) // 2)
    cell = Small()
    now = RunState(steps_per_epoch=8)
    state, source = restore_run(cell, find_resume("auto", str(tmp_path)), now)
    assert state.epoch_step == 5 and source == paths[1]
    assert values(cell)["moments.a"] == [2.0] * 7
    for path in paths[:2]:
        os.truncate(path, 100)
    with pytest.raises(UserError, match="ssd-11_8.ckpt is damaged|ssd-1_8.ckpt is damaged"):
        restore_run(Small(), find_resume("auto", str(tmp_path)), now)
    assert restore_run(Small(), [], now) == (now, "")


def test_the_oldest_go(tmp_path):
    folder = Checkpoints(prepare_folder(str(tmp_path), 0), 2)
    for epoch in (1, 2, 3):
        folder.save(Small(), RunState(epochs=epoch, steps_per_epoch=4))
    assert sorted(os.listdir(tmp_path / "ckpt_0")) == ["ssd-2_4.ckpt", "ssd-3_4.ckpt"]


def test_a_full_disk(tmp_path, monkeypatch):
    folder = Checkpoints(prepare_folder(str(tmp_path), 0), 5)
    good = folder.save(Small(), RunState(epochs=1, steps_per_epoch=4))

    def full(name, array):
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_file, "entry_parts", full)
    with pytest.raises(RunError, match=r"No space left on device.*\d+ bytes are needed, \d+ are free.*--resume"):
        folder.save(Small(), RunState(epochs=2, steps_per_epoch=4))
    assert list_checkpoints(folder.folder) == [good] and os.listdir(folder.folder) == ["ssd-1_4.ckpt"]


def run_config(*more):
    return training_relevant_config(load_config(["--device_target=CPU", *more]))


def test_what_changed_is_logged_or_an_error(tmp_path, log_lines):
    folder = Checkpoints(prepare_folder(str(tmp_path), 0), 5)
    end = folder.save(Small(), RunState(epochs=1, steps_per_epoch=8, images=64, config=run_config()))
    middle = folder.save(Small(), RunState(epochs=1, epoch_step=2, steps_per_epoch=8, images=64, config=run_config()))
    same = RunState(steps_per_epoch=8, images=64, config=run_config("--resume", "--output_path=/x", "--summary=True"))
    assert restore_run(Small(), [middle], same)[0].epoch_step == 2
    other = RunState(steps_per_epoch=4, images=64, config=run_config("--batch_size=32", "--lr=0.1"))
    with pytest.raises(UserError, match="middle of epoch 2.*batch_size 16 -> 32"):
        restore_run(Small(), [middle], other)
    assert restore_run(Small(), [end], other)[0].epochs == 1
    (line,) = log_lines(logging.WARNING)
    assert "batch_size 16 -> 32" in line and "lr 0.05 -> 0.1" in line
    with pytest.raises(UserError, match="ranks 1 -> 2"):
        restore_run(Small(), [middle], RunState(steps_per_epoch=8, images=64, size=2, config=run_config()))


def test_a_key_that_the_saved_run_did_not_know_stands_for_its_default(tmp_path, log_lines):
    """A checkpoint of version 1.3.0 has no `optimizer`, and the published one is what it was trained with."""
    older = {key: value for key, value in run_config().items() if key not in ("optimizer", "box_loss")}
    path = Checkpoints(prepare_folder(str(tmp_path), 0), 5).save(Small(), RunState(1, steps_per_epoch=8, config=older))
    restore_run(Small(), [path], RunState(steps_per_epoch=8, config=run_config()))
    assert log_lines(logging.WARNING) == []
    restore_run(Small(), [path], RunState(steps_per_epoch=8, config=run_config("--box_loss=giou")))
    (line,) = log_lines(logging.WARNING)
    assert "box_loss smooth_l1 -> giou" in line


def test_another_rank_reads_its_file(tmp_path):
    for rank in (0, 1):
        Checkpoints(prepare_folder(str(tmp_path), rank), 5).save(Small(rank), RunState(epochs=1, steps_per_epoch=8))

    class Second(Communicator):
        rank, size = 1, 2

    cell = Small(9)
    restore_run(cell, find_resume("auto", str(tmp_path)), RunState(steps_per_epoch=8, size=1), Second())
    assert values(cell)["moments.a"] == [1.0] * 7
    # a new rank uses rank 0's file; a rank whose file is missing does not
    Second.rank = 2
    restore_run(cell, find_resume("auto", str(tmp_path)), RunState(steps_per_epoch=8, size=3), Second())
    assert values(cell)["moments.a"] == [0.0] * 7
    Checkpoints(prepare_folder(str(tmp_path), 0), 5).save(Small(), RunState(epochs=1, steps_per_epoch=8, size=3))
    with pytest.raises(UserError, match="no such checkpoint: .*ckpt_2/ssd-1_8.ckpt"):
        restore_run(cell, find_resume("auto", str(tmp_path)), RunState(steps_per_epoch=8, size=3), Second())


def test_weights_alone_are_no_run(tmp_path):
    ms.save_checkpoint(Small(), str(tmp_path / "ssd-1_1.ckpt"))
    with pytest.raises(UserError, match="is not a complete training checkpoint.*--pre_trained"):
        restore_run(Small(), [str(tmp_path / "ssd-1_1.ckpt")], RunState())
    with pytest.raises(UserError, match="no such checkpoint: .*nothing.ckpt"):
        find_resume(str(tmp_path / "nothing.ckpt"), str(tmp_path))


KILLED = """
import src, sys, numpy as np
from src.training.checkpoint import Checkpoints
from src.training.run_files import prepare_folder
from src.training.state import RunState
from tests.helpers.cells import Small
folder = Checkpoints(prepare_folder(sys.argv[1], 0, sys.argv[1] + "/ckpt_0/best_map.ckpt"), 5)
cell = Small()
print("saving", flush=True)
number = 0
while True:
    number += 1
    cell.moment.set_data(__import__("mindspore").Tensor(np.full(7, number, np.float32)))
    folder.save_best(cell, RunState(epochs=number, steps_per_epoch=1))
"""


def test_best_map_is_complete_whenever_it_is_killed(tmp_path):
    kills, rng = int(os.environ.get("KILLS", "3")), random.Random(1)
    environment = dict(os.environ, PYTHONPATH=ROOT, GLOG_v="4")
    for _ in range(kills):
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert run.stdout.readline() == "saving\n"
        while not (tmp_path / "ckpt_0" / "best_map.ckpt").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        run.kill()
        run.wait()
        cell = Small()
        state, _ = restore_run(cell, [str(tmp_path / "ckpt_0" / "best_map.ckpt")], RunState(steps_per_epoch=1))
        assert values(cell)["moments.a"] == [state.epochs] * 7
