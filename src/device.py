"""Where a run computes: target, rank, size, seeds."""

from __future__ import annotations

import os
import time

from src.errors import UserError
from src.log import LOGGER

_LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "MS_ROLE", "RANK_TABLE_FILE")


def prepare_environment() -> None:
    """Environment that MindSpore reads at start-up. Called by the entry scripts before anything computes.

    oneDNN inside MindSpore 2.10 has no fast 3x3 kernel for AVX-512 machines and falls back to a reference
    kernel a hundred times slower; limited to AVX2 it is fast. A user's own value wins.
    """
    if "ONEDNN_MAX_CPU_ISA" in os.environ or "DNNL_MAX_CPU_ISA" in os.environ:
        return
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    LOGGER.info(
        "ONEDNN_MAX_CPU_ISA=AVX2 set: without it MindSpore's convolutions are very slow on AVX-512 "
        "processors; a value of your own wins"
    )


def init_device(cfg) -> tuple:
    """Graph mode on `device_target`, seeds, and data parallel when `run_distribute` is set.

    Returns:
        (rank, size, build_reducer): `build_reducer(parameters)` gives the Cell that averages gradients over
        the devices; it is None on one device.

    Raises:
        UserError: this MindSpore has no such device, or no launcher started the run.
    """
    if cfg.run_distribute and not any(name in os.environ for name in _LAUNCHERS):
        raise UserError(
            f"run_distribute: start it with a launcher: mpirun -allow-run-as-root -n {cfg.device_num} "
            f"python3 train.py --run_distribute=True --device_num={cfg.device_num} ..."
        )
    if cfg.run_distribute and cfg.device_target == "CPU":
        raise UserError("run_distribute: data parallel on CPU is not supported yet; use --run_distribute=False")

    import mindspore as ms
    from mindspore import nn

    from src.compat import set_device_target

    device_id = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", os.environ.get("DEVICE_ID", cfg.device_id)))
    try:
        ms.set_context(mode=ms.GRAPH_MODE)
        set_device_target(cfg.device_target, None if cfg.run_distribute and cfg.device_target == "GPU" else device_id)
    except (ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"device_target: MindSpore {ms.__version__} cannot use '{cfg.device_target}' here ({first}); "
            f"try --device_target=CPU"
        ) from error
    ms.set_seed(cfg.seed)
    ms.dataset.config.set_seed(cfg.seed)
    if not cfg.run_distribute:
        return 0, 1, None

    from mindspore.communication.management import get_group_size, get_rank, init

    init()
    rank, size = get_rank(), get_group_size()
    if size != cfg.device_num:
        raise UserError(f"device_num is {cfg.device_num}, but the launcher started {size} processes")
    ms.set_auto_parallel_context(
        parallel_mode="data_parallel",
        gradients_mean=True,
        device_num=size,
        all_reduce_fusion_config=list(cfg.all_reduce_fusion_config),
    )
    return rank, size, lambda parameters: nn.DistributedGradReducer(parameters, True, size)


def wait_for_all() -> None:
    """Return when every rank has come here; a single process returns at once.

    MPI's own barrier spins a core, and a conversion can take an hour: poll instead.
    """
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        from mpi4py import MPI

        request = MPI.COMM_WORLD.Ibarrier()
        while not request.Test():
            time.sleep(0.05)
    elif os.environ.get("MS_ROLE") == "MS_WORKER":
        import mindspore as ms
        from mindspore import ops

        ops.AllReduce()(ms.Tensor([1.0], ms.float32)).asnumpy()
