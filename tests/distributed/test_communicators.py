"""Two and three real ranks: equal parameters, mean gradients, every collective operation, clear errors."""

import os

import numpy as np
import pytest

from src.config import load_config
from src.utils.device import check_launch
from src.utils.distributed import Communicator
from src.utils.errors import UserError
from tests.distributed import worker
from tests.distributed.processes import Run, has_mpirun, mpirun

pytestmark = pytest.mark.skipif(
    not has_mpirun(), reason="no mpirun next to this Python (Open MPI is x86-64 Linux only)"
)


def run_worker(what, folder, ranks=2):
    return Run(mpirun(ranks, "python3", "-m", "tests.distributed.worker", what, str(folder)), folder)


def expected():
    """The parameters after worker.STEPS steps: the update in NumPy with the mean of both ranks' gradients."""
    from mindspore import Tensor

    from src.models.build import build_model
    from src.training.step import build_train_step

    cfg = worker.config(1)
    step = build_train_step(build_model(cfg), cfg, np.full(worker.STEPS, worker.RATE, np.float32))
    weights = step.gradients.weights
    moments = [np.zeros(weight.shape) for weight in weights]
    losses = []
    for number in range(worker.STEPS):
        parts = [step.gradients(*map(Tensor, worker.batch(rank, number))) for rank in range(2)]
        losses.append(np.mean([float(loss.asnumpy().sum()) for loss, _ in parts]))
        mean = [(a.asnumpy().astype(np.float64) + b.asnumpy()) / 2 for a, b in zip(parts[0][1], parts[1][1])]
        norm = np.sqrt(sum((g**2).sum() for g in mean))
        for place, (weight, gradient) in enumerate(zip(weights, mean)):
            value = weight.asnumpy().astype(np.float64)
            decay = 0.0 if weight.name.endswith(("gamma", "beta")) else cfg.weight_decay
            moments[place] = 0.9 * moments[place] + gradient / max(norm, 1) + decay * value
            weight.set_data(Tensor((value - worker.RATE * moments[place]).astype(np.float32)))
    return {weight.name: weight.asnumpy() for weight in weights}, losses, norm


@pytest.mark.slow
def test_three_steps_equal_the_mean_of_both_gradients(cfg256, tmp_path):
    run = run_worker("train", tmp_path)
    run.wait_for(lambda: (tmp_path / "rank_0.npz").exists() and (tmp_path / "rank_1.npz").exists())
    assert run.end() == 0, run.output()
    first, second = (np.load(tmp_path / f"rank_{rank}.npz") for rank in range(2))
    differ = [name for name in first.files if not np.array_equal(first[name], second[name])]
    # BN takes its statistics from the shard of its rank; everything else is the same, to the last bit
    assert differ and all(name.endswith(("moving_mean", "moving_variance")) for name in differ)
    weights, losses, norm = expected()
    # float32 convolutions on one core and on two add in another order, and differences grow from step to step
    np.testing.assert_allclose(first["losses"], losses, rtol=5e-5)
    # 1.10 sums squares of millions of float32 one after the other
    np.testing.assert_allclose(first["norm"], norm, rtol=5e-3)
    for name, value in weights.items():
        np.testing.assert_allclose(first[name], value, rtol=0, atol=0.005 * worker.RATE, err_msg=name)


@pytest.mark.slow
def test_a_rank_without_a_match(tmp_path):
    run = run_worker("no_match", tmp_path)
    run.wait_for(lambda: (tmp_path / "rank_0.npz").exists() and (tmp_path / "rank_1.npz").exists())
    assert run.end() == 0, run.output()
    assert np.isfinite(np.load(tmp_path / "rank_1.npz")["losses"]).all()


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_exchange(tmp_path, ranks):
    run = run_worker("exchange", tmp_path, ranks)
    assert run.end(60) == 0, run.output()
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("done")) == [
        f"done_{r}" for r in range(ranks)
    ]


@pytest.mark.parametrize(
    "how, status, line",
    [
        ("bug", 1, "error: rank 1: ValueError: something broke"),
        ("user", 2, "error: rank 1: the user did this"),
        ("exit", 3, ""),
    ],
)
def test_a_rank_that_fails_ends_all(tmp_path, how, status, line):
    run = run_worker(how, tmp_path)
    assert run.end(60) == status, run.output()
    assert line in run.output()


def cfg(*options):
    return load_config(["--device_target=CPU", *options])


@pytest.mark.parametrize(
    "environment, options, words",
    [
        ({}, ["--run_distribute=True", "--device_num=8"], "mpirun -allow-run-as-root -n 8 python3 train.py"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ["--run_distribute=True", "--device_num=8"], "device_num is 8.*started 2"),
        ({"MS_WORKER_NUM": "4"}, ["--run_distribute=True", "--device_num=2"], "device_num is 2.*started 4"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, [], "started 2 processes, but run_distribute is False"),
    ],
)
def test_launcher_and_config_contradict(monkeypatch, environment, options, words):
    for name in ("OMPI_COMM_WORLD_SIZE", "MS_WORKER_NUM", "RANK_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        check_launch(cfg(*options))


def test_one_process_under_a_launcher_is_no_contradiction(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    check_launch(cfg())
    check_launch(cfg("--run_distribute=True", "--device_num=1"))
    comm = Communicator()
    assert comm.all_gather(5) == [5] and comm.gather(5) == [5] and comm.broadcast(5) == 5 and comm.size == 1
