"""Set-up of the device: environment, target, launcher, seeds."""

from __future__ import annotations

import contextlib
import os
from typing import Optional

from src.utils.distributed import Communicator, MindSporeCommunicator, MpiCommunicator, fusion_splits
from src.utils.errors import UserError, set_ranks
from src.utils.log import LOGGER

# set by mpirun, by msrun, by Ascend's rank table
_SIZES = ("OMPI_COMM_WORLD_SIZE", "MS_WORKER_NUM", "RANK_SIZE")


def launched_size() -> Optional[int]:
    """The number of processes started by a launcher, None without a launcher."""
    for name in _SIZES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return None


def prepare_environment() -> None:
    """Set environment variables that MindSpore reads at start-up. Called by the entry scripts before any computation.

    oneDNN inside MindSpore 2.10 has no fast 3x3 kernel for AVX-512 machines and falls back to a reference
    kernel a hundred times slower; limited to AVX2 it is fast. A value set by the user is kept.
    """
    _share_cores()
    # hide MindSpore's warnings (deprecations, fusion, memory pools), which a user cannot act on; errors stay
    os.environ.setdefault("GLOG_v", "3")
    import cv2

    cv2.setNumThreads(1)  # the input pipeline already uses one thread per core
    if "ONEDNN_MAX_CPU_ISA" in os.environ or "DNNL_MAX_CPU_ISA" in os.environ:
        return
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    LOGGER.info(
        "ONEDNN_MAX_CPU_ISA=AVX2 set: without it MindSpore's convolutions are very slow on AVX-512 "
        "processors; set the variable yourself to override this"
    )


def _share_cores() -> None:
    """Bind each process to its share of all cores: mpirun binds each of two processes to a single core."""
    local_size = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "0"))
    if not local_size or "OMPI_MCA_hwloc_base_binding_policy" in os.environ or not hasattr(os, "sched_setaffinity"):
        return
    # the process may use more cores than it was bound to: request all of them and see which are granted
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        cores = sorted(os.sched_getaffinity(0))
        share = len(cores) // local_size
        if share:
            first = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")) * share
            os.sched_setaffinity(0, cores[first : first + share])


def check_launch(cfg) -> None:
    """Check that the launcher, `run_distribute` and `device_num` agree, by the environment alone.

    Raises:
        UserError: with both numbers, or the command to use.
    """
    size = launched_size()
    if cfg.run_distribute and size is None:
        raise UserError(
            f"run_distribute: start it with a launcher: mpirun -allow-run-as-root -n {cfg.device_num} "
            f"python3 train.py --run_distribute=True --device_num={cfg.device_num} ..."
        )
    if cfg.run_distribute and size != cfg.device_num:
        raise UserError(
            f"device_num is {cfg.device_num}, but the launcher started {size} processes; make both the same number"
        )
    if not cfg.run_distribute and size is not None and size > 1:
        raise UserError(
            f"the launcher started {size} processes, but run_distribute is False: each would write the same files; "
            f"add --run_distribute=True --device_num={size}"
        )


def init_device(cfg) -> Communicator:
    """Set graph mode, device and seeds, and connect the processes of the run if `run_distribute` is set.

    Raises:
        UserError: this MindSpore does not support the device, or the launcher does not fit (`check_launch`).
    """
    check_launch(cfg)
    with_mpi = cfg.run_distribute and "OMPI_COMM_WORLD_SIZE" in os.environ
    comm = _mpi_ranks(cfg) if with_mpi else Communicator()
    set_ranks(comm)
    if cfg.device_target == "CPU":
        # 2.10's faster type inference slows down the rest of the compiler: a fifth more time for our training step
        os.environ.setdefault("MS_DEV_BOOST_INFER", "0")
    import mindspore as ms

    from src.utils.compat import set_device_target

    device_id = _device_number(cfg)
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
    if cfg.run_distribute and not comm.averages_on_host and cfg.device_num > 1:
        comm = _init_collectives(cfg, comm if with_mpi else None)
        set_ranks(comm)
    return comm


def _device_number(cfg) -> int:
    """The launcher's local rank, else DEVICE_ID of the environment, else `device_id`."""
    text = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", os.environ.get("DEVICE_ID", str(cfg.device_id)))
    try:
        return int(text)
    except ValueError:
        raise UserError(f"DEVICE_ID in the environment is {text!r}, not a device number; unset it") from None


def _mpi_ranks(cfg) -> MpiCommunicator:
    try:
        return MpiCommunicator(on_cpu=cfg.device_target == "CPU")
    except (ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"run_distribute: mpi4py cannot be used ({reason}); pip install -r requirements.txt") from None


def _init_collectives(cfg, comm: Optional[Communicator]) -> Communicator:
    """Set up MindSpore's data parallelism (NCCL, HCCL, or the CPU backend under msrun)."""
    import mindspore as ms
    from mindspore import nn
    from mindspore.communication import init

    try:
        init()
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"run_distribute: MindSpore's communication does not start on {cfg.device_target} ({first}); are NCCL or "
            f"HCCL and Open MPI's libraries on LD_LIBRARY_PATH?"
        ) from error
    comm = comm or MindSporeCommunicator()
    ms.set_auto_parallel_context(
        parallel_mode="data_parallel",
        gradients_mean=True,
        device_num=comm.size,
        all_reduce_fusion_config=list(cfg.all_reduce_fusion_config),
    )

    def make_grad_reducer(parameters):
        if not cfg.all_reduce_fusion_config:
            splits = fusion_splits([parameter.size * parameter.itemsize for parameter in parameters])
            ms.set_auto_parallel_context(all_reduce_fusion_config=splits)
        return nn.DistributedGradReducer(parameters, True, comm.size)

    comm.make_grad_reducer = make_grad_reducer
    return comm
