"""A rank of a small run for the tests: `worker.py WHAT FOLDER`, started by mpirun or msrun."""

import os
import sys
import time

import numpy as np

from src.config import load_config
from src.utils.device import init_device, prepare_environment
from src.utils.errors import UserError, run_main

# so small that rounding errors do not grow: with 0.05 they grew a hundredfold per step
STEPS, RATE = 3, 0.005


def config(ranks):
    return load_config(
        [
            "--device_target=CPU",
            "--img_shape=[128, 128]",
            "--num_classes=4",
            "--classes=['background', 'a', 'b', 'c']",
            f"--run_distribute={ranks > 1}",
            f"--device_num={ranks}",
        ]
    )


def batch(rank, step, matches=True):
    """The inputs of a rank for a step: images, gt_loc, gt_label, num_match."""
    rng = np.random.default_rng([rank, step])
    label = (rng.random((2, 2046)) < 0.01) * rng.integers(1, 4, (2, 2046)) * matches
    loc = rng.normal(size=(2, 2046, 4)) * (label > 0)[..., None]
    # another number of matches on each rank: the mean is over ranks, not over matches
    label[:, : 1000 * rank] = 0
    count = (label > 0).sum(1, keepdims=True)
    images = rng.normal(size=(2, 3, 128, 128))
    return images.astype(np.float32), loc.astype(np.float32), label.astype(np.int32), count.astype(np.float32)


def train(folder, matches):
    """Do STEPS steps and write all parameters and moments to FOLDER/rank_N.npz."""
    from mindspore import Tensor

    from src.models.build import build_model
    from src.training.step import build_train_step

    cfg = config(2)
    prepare_environment()
    comm = init_device(cfg)
    step = build_train_step(build_model(cfg), cfg, np.full(STEPS, RATE, np.float32), comm)
    metrics = [
        step(*map(Tensor, batch(comm.rank, number, matches or comm.rank == 0))).asnumpy() for number in range(STEPS)
    ]
    losses = [values[:2].sum() for values in metrics]
    values = {parameter.name: parameter.asnumpy() for parameter in step.get_parameters()}
    np.savez(os.path.join(folder, f"rank_{comm.rank}.npz"), losses=losses, norm=metrics[-1][2], **values)
    comm.barrier()


def fail(how):
    prepare_environment()
    comm = init_device(config(2))
    if comm.rank == 1:
        if how == "bug":
            raise ValueError("something broke")
        if how == "exit":
            sys.exit(3)
        raise UserError("the user did this")
    comm.barrier()
    time.sleep(600)


def exchange(folder):
    """Check every collective operation. FOLDER/done_N then names the communicator of the rank."""
    comm = init_device(config(int(os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ["MS_WORKER_NUM"])))
    value = {"rank": comm.rank, "text": "x" * (10 * comm.rank)}
    everything = [{"rank": r, "text": "x" * (10 * r)} for r in range(comm.size)]
    assert comm.all_gather(value) == everything
    assert comm.gather(value) == (everything if comm.rank == 0 else None)
    assert comm.broadcast(value) == everything[0]
    (array,) = comm.broadcast_arrays([np.full((2, 3), comm.rank + 1, np.float32)])
    np.testing.assert_array_equal(array, np.ones((2, 3), np.float32))
    assert comm.all_reduce_max(10 + comm.rank) == 10 + comm.size - 1
    if comm.averages_on_host:  # else MindSpore averages inside the graph
        mean = np.full(5, comm.rank, np.float32)
        comm.all_reduce_mean_(mean)
        np.testing.assert_allclose(mean, (comm.size - 1) / 2)
    # rank 0 arrives late: the others must not leave the barrier before it
    if comm.rank == 0:
        time.sleep(2)
        open(os.path.join(folder, "late"), "w").close()
    comm.barrier()
    assert os.path.exists(os.path.join(folder, "late"))
    with open(os.path.join(folder, f"done_{comm.rank}"), "w") as handle:
        handle.write(type(comm).__name__)


def main(argv):
    what, folder = argv
    if what in ("train", "no_match"):
        train(folder, what == "train")
    elif what == "exchange":
        exchange(folder)
    else:
        fail(what)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
