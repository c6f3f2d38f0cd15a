"""Communication between the processes of a run: one process, mpirun (mpi4py), or msrun (MindSpore's collectives).

`src.utils.device` selects the class by environment variables that the launcher sets, without importing anything.
"""

from __future__ import annotations

import os
import pickle
import time
from typing import Callable, List, Optional

import numpy as np

POLL_SECONDS = 0.05
# Bytes of gradients in one all-reduce. The first layers' gradients come last, and nothing is left to compute while
# theirs are reduced.
GROUP_BYTES, FIRST_LAYERS_BYTES = 32 << 20, 4 << 20


class Communicator:
    """Collectives of a run with one process: each returns its argument.

    rank, size: among all processes; local_rank, local_size: among those of this machine; averages_on_host: gradients
    are averaged by `all_reduce_mean_`, between two compiled graphs; make_grad_reducer: parameters -> Cell that
    averages gradients inside the graph, or None.
    """

    rank, size, local_rank, local_size = 0, 1, 0, 1
    averages_on_host = False
    make_grad_reducer: Optional[Callable] = None

    def barrier(self) -> None:
        """Block until every rank has called it, without a time limit."""

    def all_gather(self, value) -> List:
        """The values of all ranks in rank order, on every rank."""
        return [value]

    def gather(self, value) -> Optional[List]:
        """The values of all ranks in rank order on rank 0, None on the others."""
        return [value]

    def broadcast(self, value) -> object:
        """Rank 0's value, on every rank."""
        return value

    def broadcast_arrays(self, arrays: List[np.ndarray]) -> List[np.ndarray]:
        """Rank 0's float32 arrays, on every rank; all ranks pass the same shapes."""
        return arrays

    def all_reduce_max(self, number: int) -> int:
        """The largest of the ranks' integers; fast enough to call in every step."""
        return number

    def all_reduce_mean_(self, values: np.ndarray) -> None:
        """Replace a float32 array by its mean over the ranks."""

    def abort(self, status: int) -> None:
        """End every rank with this status; a no-op if the launcher ends the other ranks when this process exits."""


def fusion_splits(sizes: List[int]) -> List[int]:
    """Where the all-reduces of gradients are split: the index of the last gradient of each group but the last.

    Args:
        sizes: bytes of the gradients, in the network's order.
    """
    splits, filled, limit = [], 0, FIRST_LAYERS_BYTES
    for index, size in enumerate(sizes[:-1]):
        filled += size
        if filled + sizes[index + 1] > limit:
            splits.append(index)
            filled, limit = 0, GROUP_BYTES
    return splits


class MpiCommunicator(Communicator):
    """Collectives under mpirun. On a CPU they average gradients too; on other devices MindSpore does."""

    def __init__(self, on_cpu: bool):
        from mpi4py import MPI

        self._mpi, self._comm = MPI, MPI.COMM_WORLD
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.local_rank = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))
        self.local_size = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
        self.averages_on_host = on_cpu and self.size > 1

    def barrier(self) -> None:
        # MPI_Barrier busy-waits, and a conversion can take an hour
        request = self._comm.Ibarrier()
        while not request.Test():
            time.sleep(POLL_SECONDS)

    def all_gather(self, value) -> List:
        self.barrier()
        return self._comm.allgather(value)

    def gather(self, value) -> Optional[List]:
        self.barrier()
        return self._comm.gather(value, root=0)

    def broadcast(self, value) -> object:
        self.barrier()
        return self._comm.bcast(value, root=0)

    def broadcast_arrays(self, arrays: List[np.ndarray]) -> List[np.ndarray]:
        return self.broadcast(arrays if self.rank == 0 else None)

    def all_reduce_max(self, number: int) -> int:
        return self._comm.allreduce(number, op=self._mpi.MAX)

    def all_reduce_mean_(self, values: np.ndarray) -> None:
        self._comm.Allreduce(self._mpi.IN_PLACE, values)
        values /= np.float32(self.size)

    def abort(self, status: int) -> None:
        if self.size > 1:
            self._comm.Abort(status)


class MindSporeCommunicator(Communicator):
    """Collectives under msrun or a rank table, by MindSpore's operators; objects are sent as padded bytes."""

    def __init__(self):
        from mindspore.communication import get_group_size, get_rank

        self.rank, self.size = get_rank(), get_group_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("DEVICE_ID", self.rank)))

    def all_gather(self, value) -> List:
        packed = np.frombuffer(pickle.dumps(value), np.uint8)
        # two numbers, for float32 counts to 2^24 only; and bytes as float32, the type that every backend takes
        size = np.array([len(packed) >> 20, len(packed) & 0xFFFFF], np.float32)
        sizes = self._all_gather_floats(size).astype(np.int64).reshape(self.size, 2)
        lengths = (sizes[:, 0] << 20) + sizes[:, 1]
        # a graph is compiled for each length: powers of two keep them few
        padded = np.zeros(1 << int(lengths.max() - 1).bit_length(), np.float32)
        padded[: len(packed)] = packed
        rows = self._all_gather_floats(padded).reshape(self.size, -1)
        return [pickle.loads(row[:length].astype(np.uint8).tobytes()) for row, length in zip(rows, lengths)]

    def _all_gather_floats(self, values: np.ndarray) -> np.ndarray:
        import mindspore as ms
        from mindspore import ops

        return ops.AllGather()(ms.Tensor(values)).asnumpy()

    def all_reduce_max(self, number: int) -> int:
        return int(self._all_gather_floats(np.array([number], np.float32)).max())

    def broadcast_arrays(self, arrays: List[np.ndarray]) -> List[np.ndarray]:
        import mindspore as ms
        from mindspore import ops

        flat = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float32, copy=False)
        # the others contribute zeros, so the sum is rank 0's value to the last bit
        flat = ops.AllReduce()(ms.Tensor(flat if self.rank == 0 else np.zeros_like(flat))).asnumpy()
        ends = np.cumsum([array.size for array in arrays])
        return [part.reshape(array.shape) for part, array in zip(np.split(flat, ends[:-1]), arrays)]

    def barrier(self) -> None:
        self._all_gather_floats(np.zeros(1, np.float32))

    def gather(self, value) -> Optional[List]:
        values = self.all_gather(value)
        return values if self.rank == 0 else None

    def broadcast(self, value) -> object:
        return self.all_gather(value if self.rank == 0 else None)[0]
