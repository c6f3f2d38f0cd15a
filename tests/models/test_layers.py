"""Our layers against those of MindSpore."""

import numpy as np
import pytest
from mindspore import Tensor, nn

from src.models.layers import BatchNorm2d, Chain


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_mindspores(cfg256, training):
    ours, theirs = BatchNorm2d(4, eps=1e-3, momentum=0.9), nn.BatchNorm2d(4, eps=1e-3, momentum=0.9)
    x = Tensor(np.random.default_rng(3).normal(1, 2, (2, 4, 5, 5)).astype(np.float32))
    for cell in (ours, theirs):
        cell.set_train(training)
    np.testing.assert_array_equal(ours(x).asnumpy(), theirs(x).asnumpy())
    for got, want in zip(ours.get_parameters(), theirs.get_parameters()):
        np.testing.assert_array_equal(got.asnumpy(), want.asnumpy())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_chain_is_mindspores_sequence(cfg256, count):
    def cells():
        return [nn.Conv2d(3, 3, 3), BatchNorm2d(3), nn.ReLU6(), nn.Conv2d(3, 3, 1), nn.ReLU()][:count]

    ours, theirs = Chain(cells()), nn.SequentialCell(cells())
    for got, want in zip(ours.get_parameters(), theirs.get_parameters()):
        assert got.name == want.name
        want.set_data(got)
    assert len(ours) == len(theirs) == count
    for training in (True, False):
        x = Tensor(np.random.default_rng(training).normal(1, 2, (2, 3, 5, 5)).astype(np.float32))
        for cell in (ours, theirs):
            cell.set_train(training)
        np.testing.assert_array_equal(ours(x).asnumpy(), theirs(x).asnumpy())
    for got, want in zip(ours.get_parameters(), theirs.get_parameters()):
        np.testing.assert_array_equal(got.asnumpy(), want.asnumpy())
