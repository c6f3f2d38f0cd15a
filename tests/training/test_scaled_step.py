"""Steps in float16: an overflow changes only the scale and the position in the schedule, on every rank."""

import mindspore
import numpy as np
import pytest
from easydict import EasyDict
from mindspore import Tensor

from src.models.build import build_model
from src.training.scaled_step import GROWS_AFTER, LossScale, ScaledTrainStep
from src.training.step import build_train_step
from src.utils.distributed import Communicator

RATES = np.array([0.01, 0.02, 0.03, 0.04], np.float32)


def test_the_scale_halves_and_grows_again():
    scale = LossScale(1024)
    scale.stepped(True)
    scale.stepped(True)
    assert scale.state == [256, 0, 2]
    for _ in range(GROWS_AFTER - 1):
        scale.stepped(False)
    assert scale.state == [256, GROWS_AFTER - 1, 0]
    resumed = LossScale(1024)
    resumed.restore(scale.state)
    for one in (scale, resumed):
        one.stepped(False)
        assert one.state == [512, 0, 0]
    for _ in range(3 * GROWS_AFTER):
        scale.stepped(False)
    assert scale.value == 1024  # never above where it started
    for _ in range(15):
        scale.stepped(True)
    assert scale.state == [1, 0, 15]
    small = LossScale(0.5)
    small.stepped(True)
    assert small.value == 0.5
    small.restore([4096, 7, 0])
    assert small.state == [0.5, 7, 0]


class OneOfTwo(Communicator):
    """Rank 0 of two on a CPU; overflow and gradients of the other rank are given."""

    size, averages_on_host = 2, True

    def __init__(self, other_overflows=False):
        self.other_overflows = other_overflows

    def broadcast_arrays(self, arrays):
        return arrays

    def all_reduce_max(self, number):
        return max(number, int(self.other_overflows))

    def all_reduce_mean_(self, values):
        """The other rank has the same values."""


def build(cfg, comm=Communicator(), loss_scale=1.0, half=True):
    mindspore.set_seed(3)
    cfg = EasyDict(cfg, use_float16=half, img_shape=[128, 128], num_addition_layers=1, extras_out_channels=[32] * 5)
    cfg = EasyDict(cfg, device_target="GPU", loss_scale=loss_scale)  # on a CPU the scale is 1
    return build_train_step(build_model(cfg), cfg, RATES, comm)


@pytest.fixture(scope="module")
def batch(cfg256):
    rng, rows = np.random.default_rng(1), 6 * (256 + 64 + 16 + 4 + 1)
    label = (rng.random((2, rows)) < 0.02) * rng.integers(1, 81, (2, rows))
    arrays = rng.normal(size=(2, 3, 128, 128)), rng.normal(size=(2, rows, 4)), label, (label > 0).sum(1)
    kinds = np.float32, np.float32, np.int32, np.float32
    return [Tensor(array.astype(kind)) for array, kind in zip(arrays, kinds)]


def values(step):
    return {parameter.name: parameter.asnumpy().copy() for parameter in step.get_parameters()}


def differ(first, second):
    return {name for name in first if not np.array_equal(first[name], second[name])}


@pytest.mark.slow
def test_an_overflow_changes_nothing(cfg256, batch):
    step = build(cfg256, loss_scale=2.0**40)
    assert isinstance(step, ScaledTrainStep)
    before = values(step)
    assert "moments.network.multi_box.cls_layers.0.weight" in before and "global_step" in before
    for overflows in (1, 2, 3):
        classification, boxes, norm = step(*batch).asnumpy()
        assert step.overflowed and np.isfinite(classification + boxes) and not np.isfinite(norm)  # of the gradient
        assert differ(values(step), before) == {"global_step"} and step.update.global_step.asnumpy() == [overflows]
    assert step.scale.state == [2.0**37, 0, 3]

    # with a scale that fits, the step equals that of a run without overflows at this learning rate
    step.scale.value = 64.0
    step(*batch)
    assert not step.overflowed and step.scale.state == [64, 1, 0]
    other = build(cfg256, loss_scale=64.0)
    other.update.global_step.set_data(Tensor(np.array([3], np.int32)))
    other(*batch)
    assert differ(values(step), values(other)) == set() and len(differ(values(step), before)) > 150

    # in float32, norm and update are those of the plain step
    full = build(cfg256, loss_scale=64.0, half=False)
    other = build(cfg256, loss_scale=64.0)
    (*losses, norm), (*full_losses, full_norm) = other(*batch).asnumpy(), full(*batch).asnumpy()
    np.testing.assert_allclose(losses, full_losses, rtol=0.01)
    np.testing.assert_allclose(norm, full_norm, rtol=0.02)

    # an overflow in the forward pass: the statistics are restored too
    step, before = other, values(other)
    images = Tensor(np.full((2, 3, 128, 128), np.inf, np.float32))
    step(images, *batch[1:])
    assert step.overflowed and differ(values(step), before) == {"global_step"}


@pytest.mark.slow
def test_ranks_leave_out_the_same_steps(cfg256, batch):
    alone, pair = build(cfg256, loss_scale=64.0), build(cfg256, OneOfTwo(), loss_scale=64.0)
    np.testing.assert_array_equal(alone(*batch).asnumpy(), pair(*batch).asnumpy())
    assert not (alone.overflowed or pair.overflowed) and differ(values(alone), values(pair)) == set()
    before, pair._comm.other_overflows = values(pair), True
    pair(*batch)  # fine here, but not on the other rank
    assert pair.overflowed and differ(values(pair), before) == {"global_step"} and pair.scale.state == [32, 0, 1]
