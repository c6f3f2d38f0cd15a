"""EMA of the weights: its law in float64, its use in evaluation, and its way through a checkpoint."""

import logging

import numpy as np
import pytest
from easydict import EasyDict
from mindspore import Parameter, Tensor, nn

from src.models.build import build_model
from src.models.checkpoint_file import read_checkpoint
from src.models.weights import load_network
from src.training.checkpoint import save_checkpoint_atomically
from src.training.state import RunState
from src.training.step import build_train_step
from src.training.weight_average import WeightAverage

pytestmark = pytest.mark.usefixtures("cfg256")  # which sets the device


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.arange(6, dtype=np.float32).reshape(2, 3)), name="weight")
        self.moving_mean = Parameter(Tensor(np.ones(2, np.float32)), name="moving_mean", requires_grad=False)


def test_average_follows_its_law():
    net = Net()
    average = WeightAverage(net, 0.7)
    want = [parameter.asnumpy().astype(np.float64) for parameter in average.live]
    rng = np.random.default_rng(0)
    decays = [1 / 10, 2 / 11, 3 / 12, 4 / 13, 0.7]  # (1 + t) / (10 + t), at most 0.7
    for step, decay in zip([0, 1, 2, 3, 50], decays):
        for index, parameter in enumerate(average.live):
            value = rng.normal(size=parameter.shape).astype(np.float32)
            parameter.set_data(Tensor(value))
            want[index] = decay * want[index] + (1 - decay) * value
        average.stepped(step)
    assert [parameter.name for parameter in average.averages] == ["ema.weight", "ema.moving_mean"]
    for got, expected in zip(average.averages, want):
        np.testing.assert_allclose(got.asnumpy(), expected, rtol=1e-6, atol=1e-7)


def test_in_use_swaps_and_keeps_changes():
    net = Net()
    average = WeightAverage(net, 0.9)
    live = [parameter.asnumpy().copy() for parameter in average.live]
    for parameter in average.averages:
        parameter.set_data(Tensor(np.full(parameter.shape, 7, np.float32)))
    with average.in_use():
        assert (net.weight.asnumpy() == 7).all() and (net.moving_mean.asnumpy() == 7).all()
        net.moving_mean.set_data(Tensor(np.full(2, 5, np.float32)))  # as BN re-estimation does
    for parameter, value in zip(average.live, live):
        np.testing.assert_array_equal(parameter.asnumpy(), value)
    assert [float(part.asnumpy().max()) for part in average.averages] == [7, 5]


def test_checkpoint_gives_the_averages(cfg256, tmp_path, caplog):
    """A run saves both; what is evaluated and exported are the averages, under the weights' names."""
    cfg = EasyDict(cfg256, ema_decay=0.9)
    model = build_model(cfg)
    step = build_train_step(model, cfg, np.full(2, 0.01, np.float32))
    weight = next(p for p in model.get_parameters() if p.name.endswith("multi_box.cls_layers.0.bias"))
    average = next(p for p in step.average.averages if p.name == "ema." + weight.name)
    assert len(step.average.averages) == len(list(model.get_parameters())) == 476
    average.set_data(Tensor(np.full(average.shape, 3, np.float32)))
    path = str(tmp_path / "both.ckpt")
    save_checkpoint_atomically(step, path, RunState())
    entries = read_checkpoint(path, "path")  # MindSpore refuses large files while the page cache is full
    assert (entries["ema." + weight.name].asnumpy() == 3).all() and not (entries[weight.name].asnumpy() == 3).any()
    fresh = build_model(cfg256)
    with caplog.at_level(logging.INFO):
        load_network(fresh, path, "checkpoint_file_path", strict=True)
    (bias,) = [p for p in fresh.get_parameters() if p.name.endswith("multi_box.cls_layers.0.bias")]
    assert (bias.asnumpy() == 3).all()
    assert "averaged weights" in caplog.text and "476 of 476" in caplog.text
    assert build_train_step(fresh, cfg256, np.full(2, 0.01, np.float32)).average is None
