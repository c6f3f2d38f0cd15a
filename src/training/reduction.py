"""The mean of the gradients over the processes: in the graph, or on the host between two graphs."""

from __future__ import annotations

from typing import Callable, List

import numpy as np
from mindspore import ParameterTuple, Tensor, nn

from src.utils.distributed import Communicator


class NetworkOrderReducer(nn.Cell):
    """(gradients in the order of `parameters`) -> their averages over the devices, in the order of the optimiser.

    In backpropagation the first layers' gradients are the last. All-reduces of fused groups start early only if a group
    holds layers that follow each other, so the gradients are reduced in the order in which the network has its
    parameters (Li et al. 2020, arXiv:2006.15704, section 3.2.3).

    Args:
        in_network: the trainable parameters in the network's order. The attribute `parameters` is a tuple of them.
        in_update: the same parameters in the optimiser's order.
        make_reducer: see `Communicator.make_grad_reducer`.
    """

    def __init__(self, in_network: list, in_update: ParameterTuple, make_reducer):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(in_network)
        positions = {parameter.name: position for position, parameter in enumerate(in_network)}
        self.order = tuple(positions[parameter.name] for parameter in in_update)
        self.reducer = make_reducer(self.parameters)

    def construct(self, gradients):
        averaged = self.reducer(gradients)
        ordered = ()
        for position in self.order:
            ordered += (averaged[position],)
        return ordered


def averaged_on_host(values: List[Tensor], comm: Communicator) -> List[np.ndarray]:
    """The means of float32 tensors over the ranks, in their shapes."""
    # one flat array: one large all-reduce is faster than a hundred small ones
    flat = np.concatenate([value.asnumpy().reshape(-1) for value in values]).astype(np.float32, copy=False)
    comm.all_reduce_mean_(flat)
    ends = np.cumsum([value.size for value in values])
    return [part.reshape(value.shape) for part, value in zip(np.split(flat, ends[:-1]), values)]
