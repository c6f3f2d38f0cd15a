"""Values of parameters as NumPy arrays: read, set, and set for a while."""

from __future__ import annotations

import contextlib
from typing import Iterator, List, Sequence

import numpy as np
from mindspore import Parameter, Tensor


def get_values(parameters: Sequence[Parameter]) -> List[np.ndarray]:
    """A copy of the value of each parameter."""
    return [parameter.asnumpy().copy() for parameter in parameters]


def set_values(parameters: Sequence[Parameter], values: Sequence[np.ndarray]) -> None:
    """Set each parameter to an array of its type and shape."""
    for parameter, value in zip(parameters, values):
        parameter.set_data(Tensor(value))


@contextlib.contextmanager
def temporary_values(parameters: Sequence[Parameter], values: Sequence[np.ndarray]) -> Iterator[None]:
    """The parameters have these values inside the block, and those from before it afterwards."""
    before = get_values(parameters)
    set_values(parameters, values)
    try:
        yield
    finally:
        set_values(parameters, before)
