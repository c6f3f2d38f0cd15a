"""The training loop with a fake step: a run stopped at any step ends like an uninterrupted one; NaN reaches no file."""

import json
import os
import signal

import numpy as np
import pytest
from easydict import EasyDict
from mindspore import Parameter, Tensor, nn

from src.training.checkpoint import Checkpoints, restore_run
from src.training.run_files import cut_history, find_resume, prepare_folder
from src.training.scaled_step import MOST_IN_A_ROW, LossScale
from src.training.state import RunState
from src.training.trainer import Trainer
from src.utils.errors import RunError
from src.utils.output import OutputError
from src.utils.signals import SignalGuard

STEPS, EPOCHS, RATES = 3, 3, np.linspace(1, 0, 9).astype(np.float32)


class Data:
    """Batches whose image ids encode epoch and step."""

    steps = STEPS

    def epoch(self, epoch, first_step=0):
        for number in range(first_step, STEPS):
            yield (*[Tensor(np.zeros(1, np.float32))] * 4, Tensor(np.array([[10 * epoch + number]], np.int32)))


class Step(nn.Cell):
    """The loss is irregular in the number of the step; `bad` gives loss and norm of one step."""

    def __init__(self, bad=None, after_step=None):
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros(2, np.float32)), name="weight")
        self.global_step = Parameter(Tensor(np.zeros(1, np.int32)), name="global_step")
        self.bad, self.after_step = bad or {}, after_step or {}
        self.average = None

    def __call__(self, *batch):
        done = int(self.global_step.asnumpy()[0]) + 1
        self.global_step.set_data(Tensor(np.array([done], np.int32)))
        self.weight.set_data(Tensor(self.weight.asnumpy() * 3 + np.float32(0.1 * done)))
        loss, norm = self.bad.get(done, (1 / (done + 0.3), 2.0))
        self.after_step.get(done, lambda: None)()
        return Tensor(np.array([0.75 * loss, 0.25 * loss, norm], np.float32))


@pytest.fixture(autouse=True)
def handlers():
    """Restore the signal handlers after a test."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def config(folder, **more):
    values = {"epoch_size": EPOCHS, "batch_size": 2, "output_path": str(folder), "summary": False}
    values["bn_recalibration_steps"] = 0
    values.update(eval_start_epoch=1, eval_interval=1, save_best_ckpt=True, save_checkpoint_epochs=1)
    return EasyDict(dict(values, **more))


def run(folder, step, stop=None, evaluate=None, **more):
    """Start a run, or resume the one in the folder."""
    state, source = RunState(steps_per_epoch=STEPS), ""
    state, source = restore_run(step, find_resume("auto", str(folder)), state)
    checkpoints = Checkpoints(prepare_folder(str(folder), 0, source), 9)
    cut_history(str(folder), state.epochs)
    trainer = Trainer(step, Data(), RATES, config(folder, **more), checkpoints, evaluate, stop=stop or SignalGuard())
    return trainer.run(state)


def history(folder):
    with open(folder / "history.jsonl", encoding="utf-8") as lines:
        return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]


def maps(*values):
    """An evaluation that returns the given values one after the other."""
    left = iter(values)
    return lambda should_stop: next(left)


def test_what_a_run_leaves(tmp_path):
    assert run(tmp_path, Step(), evaluate=maps(0.1, 0.3, 0.2)).best_map == 0.3
    names = sorted(path.name for path in (tmp_path / "ckpt_0").iterdir())
    assert names == ["best_map.ckpt", "ssd-1_3.ckpt", "ssd-2_3.ckpt", "ssd-3_3.ckpt"]
    best = Step()
    state, _ = restore_run(best, [str(tmp_path / "ckpt_0" / "best_map.ckpt")], RunState(steps_per_epoch=STEPS))
    assert (state.epochs, state.best_map, int(best.global_step.asnumpy()[0])) == (2, 0.3, 6)
    assert [line["mAP"] for line in history(tmp_path)] == [0.1, 0.3, 0.2]
    assert [line["lr"] for line in history(tmp_path)] == [0.75, 0.375, 0.0]
    first, loss = history(tmp_path)[0], np.mean([1 / 1.3, 1 / 2.3, 1 / 3.3])
    losses = [first[name] for name in ("loss", "loss_class", "loss_box")]
    np.testing.assert_allclose(losses, [loss, 0.75 * loss, 0.25 * loss], rtol=1e-6)


@pytest.mark.parametrize("at", range(1, 10))
@pytest.mark.parametrize("saved_every", [1, 3])
def test_stopped_at_any_step(tmp_path, at, saved_every):
    for name in ("cut", "full"):
        (tmp_path / name).mkdir()
    full, stop = Step(), SignalGuard()
    run(tmp_path / "full", full, save_checkpoint_epochs=saved_every)
    step = Step(after_step={at: lambda: signal.raise_signal(signal.SIGTERM)})
    with pytest.raises(SystemExit) as left:
        run(tmp_path / "cut", step, stop, save_checkpoint_epochs=saved_every)
    assert left.value.code == 143
    epoch, number = (at - 1) // STEPS + 1, (at - 1) % STEPS + 1
    assert (tmp_path / "cut" / "ckpt_0" / f"ssd-{epoch}_{number}.ckpt").exists()
    step = Step()
    run(tmp_path / "cut", step, save_checkpoint_epochs=saved_every)
    np.testing.assert_array_equal(step.weight.asnumpy(), full.weight.asnumpy())
    assert history(tmp_path / "cut") == history(tmp_path / "full")
    last = [(tmp_path / name / "ckpt_0" / "ssd-3_3.ckpt").read_bytes() for name in ("cut", "full")]
    assert last[0] == last[1]


def test_stopped_in_an_evaluation(tmp_path):
    values = maps(0.1, None)

    def evaluate(should_stop):
        value = values(should_stop)
        if value is None:
            signal.raise_signal(signal.SIGINT)
            assert should_stop()
        return value

    with pytest.raises(SystemExit) as left:
        run(tmp_path, Step(), evaluate=evaluate)
    assert left.value.code == 130 and len(history(tmp_path)) == 1
    step = Step()
    run(tmp_path, step, evaluate=maps(0.3, 0.2))
    assert int(step.global_step.asnumpy()[0]) == 9 and [line["mAP"] for line in history(tmp_path)] == [0.1, 0.3, 0.2]


@pytest.mark.parametrize("values", [(np.nan, 2.0), (np.inf, 2.0), (1.0, np.nan), (1.0, np.inf)])
def test_not_finite_reaches_no_file(tmp_path, values):
    with pytest.raises(RunError) as error:
        run(tmp_path, Step(bad={5: values}))
    for word in (
        f"loss is {values[0]}",
        f"norm {values[1]}",
        "epoch 2, step 2",
        "rate 0.5,",
        "images [11]",
        f"the last good checkpoint is {tmp_path / 'ckpt_0' / 'ssd-1_3.ckpt'}",
    ):
        assert word in str(error.value)
    assert [path.name for path in (tmp_path / "ckpt_0").iterdir()] == ["ssd-1_3.ckpt"] and len(history(tmp_path)) == 1
    step = Step()
    run(tmp_path, step)
    assert np.isfinite(step.weight.asnumpy()).all() and len(history(tmp_path)) == 3


def test_every_step_is_in_training_mode(tmp_path):
    seen = []
    step = Step(after_step={number: lambda: seen.append(step.training) for number in range(1, 10)})
    step.set_train(False)  # as building an evaluation of the same weights does

    def evaluate(_):
        step.set_train(False)
        return 0.1

    run(tmp_path, step, evaluate=evaluate)
    assert seen == [True] * STEPS * EPOCHS


@pytest.mark.parametrize("start, want", [("fresh", "no checkpoint has been saved"), ("best", "is {}/best_map.ckpt")])
def test_a_last_good_checkpoint_is_named_only_where_there_is_one(tmp_path, start, want):
    step, more = Step(bad={1 if start == "fresh" else 5: (np.nan, 2.0)}), {}
    if start == "best":  # ssd-1_3.ckpt is not saved, the best one is
        more = {"evaluate": maps(0.1, 0.2), "save_checkpoint_epochs": 9}
    with pytest.raises(RunError) as error:
        run(tmp_path, step, **more)
    assert want.format(tmp_path / "ckpt_0") in str(error.value)
    assert ("last good checkpoint" in str(error.value)) == (start == "best")


class HalfStep(Step):
    """A float16 step that skips the steps of `overflows`, as `ScaledTrainStep` does."""

    def __init__(self, overflows=(), **more):
        super().__init__(**more)
        self.overflows, self.overflowed, self.scale = set(overflows), False, LossScale(1024)

    def __call__(self, *batch):
        weight, done = self.weight.asnumpy().copy(), int(self.global_step.asnumpy()[0]) + 1
        self.overflowed = done in self.overflows
        self.bad = {done: (np.nan, np.inf)} if self.overflowed else {}
        loss = super().__call__(*batch)
        if self.overflowed:
            self.weight.set_data(Tensor(weight))
        self.scale.stepped(self.overflowed)
        return loss


@pytest.mark.parametrize("at", [2, 5, 6])
def test_overflows_are_left_out_and_resumed_exactly(tmp_path, at):
    for name in ("cut", "uncut"):
        (tmp_path / name).mkdir()
    uncut, overflows = HalfStep([2, 4, 5, 6]), [2, 4, 5, 6]  # the second epoch has no good step
    run(tmp_path / "uncut", uncut)
    assert uncut.scale.state == [64, 3, 0] and uncut.global_step.asnumpy() == [9]
    rows = history(tmp_path / "uncut")
    np.testing.assert_allclose(rows[0]["loss"], (1 / 1.3 + 1 / 3.3) / 2, rtol=1e-6)
    assert rows[1]["loss"] is None and (tmp_path / "uncut" / "curves.png").exists()
    weight = np.float32(0)
    for done in (1, 3, 7, 8, 9):
        weight = np.float32(weight * 3 + np.float32(0.1 * done))
    np.testing.assert_allclose(uncut.weight.asnumpy(), weight, rtol=1e-6)

    with pytest.raises(SystemExit):
        run(tmp_path / "cut", HalfStep(overflows, after_step={at: lambda: signal.raise_signal(signal.SIGTERM)}))
    step = HalfStep(overflows)
    run(tmp_path / "cut", step)
    assert step.scale.state == uncut.scale.state and history(tmp_path / "cut") == rows
    last = [(tmp_path / name / "ckpt_0" / "ssd-3_3.ckpt").read_bytes() for name in ("cut", "uncut")]
    assert last[0] == last[1]


def test_many_overflows_in_a_row_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("src.training.trainer.MOST_IN_A_ROW", 4)
    with pytest.raises(RunError) as error:
        run(tmp_path, HalfStep([2, 4, 5, 6, 7]))
    assert MOST_IN_A_ROW == 20
    for word in ("loss is nan", "norm inf", "epoch 3, step 1", "images [20]", "4th step in a row", "scale down to 32"):
        assert word in str(error.value)
    assert "ssd-2_3.ckpt" in str(error.value) and len(history(tmp_path)) == 2


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    """A run continues without curves and TensorBoard, but ends if the history cannot be written, before a later
    checkpoint is saved."""
    lost, failing = {}, set()

    def append(path, data):
        if any(word in path for word in failing):
            raise OutputError(f"cannot write {path}: No space left on device")
        with open(path, "ab") as handle:
            handle.write(data)

    def draw(history_path, path):
        if "curves" in failing:
            raise OutputError(f"cannot write {path}: No space left on device")
        (tmp_path / "curves.png").write_text("curves")

    monkeypatch.setattr("src.utils.output.append_bytes", append)
    monkeypatch.setattr("src.training.summary.append_bytes", append)
    monkeypatch.setattr("src.training.trainer.draw_curves", draw)
    monkeypatch.setattr("src.utils.errors._lost", lost)
    fails_at = {2: ["events", "curves"], 8: ["history"]}
    step = Step(after_step={at: lambda names=names: failing.update(names) for at, names in fails_at.items()})
    with pytest.raises(OutputError, match="history.jsonl"):
        run(tmp_path, step, summary=True)
    assert sorted(path.name for path in (tmp_path / "ckpt_0").iterdir()) == ["ssd-1_3.ckpt", "ssd-2_3.ckpt"]
    assert len(history(tmp_path)) == 2 and not (tmp_path / "curves.png").exists()
    assert sorted(os.path.basename(path).split(".")[0] for path in lost) == ["curves", "events"]
    failing.clear()
    run(tmp_path, Step(), summary=True)
    assert len(history(tmp_path)) == 3 and not any("curves" in path for path in lost)


def test_tensorboard_records_are_those_of_tensorboardx(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter

    run(tmp_path, Step(), evaluate=maps(0.1, 0.3, 0.2), summary=True)
    (written,) = (tmp_path / "summary").iterdir()
    data, start, events = written.read_bytes(), 0, []
    while start < len(data):
        length = int.from_bytes(data[start : start + 8], "little")
        events.append(Event.FromString(data[start + 12 : start + 12 + length]))
        start += length + 16
    again = RecordWriter(str(tmp_path / "again"))
    for event in events:
        again.write(event.SerializeToString())
    again.close()
    assert (tmp_path / "again").read_bytes() == data and events[0].file_version == "brain.Event:2"
    scalars = {(event.step, value.tag): value.simple_value for event in events for value in event.summary.value}
    assert len(scalars) == 9 * 5 + 3 and scalars[6, "mAP"] == pytest.approx(0.3)
    assert scalars[4, "loss_class"] == pytest.approx(0.75 / 4.3) and scalars[4, "learning_rate"] == RATES[3]
