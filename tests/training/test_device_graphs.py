"""What a GPU or Ascend gets to execute, as far as the compiler shows it without one: casts, order of all-reduces."""

import numpy as np
import pytest
from easydict import EasyDict
from mindspore import Tensor, nn

import src.models.build
from src.loss import MultiBoxLoss
from src.models.build import build_model
from src.training.optimizer import Momentum
from src.training.reduction import NetworkOrderReducer, averaged_on_host
from src.training.scaled_step import _Gradients
from src.training.step import ModelWithLoss, TrainStep, build_train_step
from src.utils.device import fusion_splits
from src.utils.distributed import Communicator
from tests.helpers.graphs import operators

RATES = np.full(2, 0.01, np.float32)
CASTS_OF_PUBLISHED_STEP = 254  # counted in the graph of the published scripts, with float16


def inputs(side=128, rows=2046):
    shapes = ((2, side, side, 3), np.uint8), ((2, rows, 4), np.float32), ((2, rows), np.int32), ((2,), np.float32)
    return [Tensor(np.zeros(shape, kind)) for shape, kind in shapes]


@pytest.mark.slow
def test_casts_of_a_float16_step_are_those_of_the_published_one(cfg256, monkeypatch):
    monkeypatch.setattr(src.models.build.mindspore, "get_context", lambda key: "GPU")
    model = build_model(EasyDict(cfg256, use_float16=True, img_shape=[128, 128]))
    monkeypatch.undo()
    forward = ModelWithLoss(model, MultiBoxLoss())
    update = Momentum(forward.trainable_params(), 1e-4, RATES, 0.9, 1.0, False)
    gradients = _Gradients(forward, update, None)
    gradients.set_train()
    counts = operators(gradients, *inputs(), Tensor(np.ones(2, np.float32)), Tensor(np.float32(1)))
    assert counts["BatchNormGrad"] == counts["BatchNorm"] == 98
    assert counts["Conv2DBackpropFilter"] == 53 + 8 + 5 * 10  # ResNet50, FPN, five levels share ten of the head
    # twice for each kernel and bias of a convolution: to float16, and its gradient to float32
    assert counts["Cast"] <= 1.02 * CASTS_OF_PUBLISHED_STEP


class Recorder(nn.Cell):
    """In place of MindSpore's reducer: multiplies the gradient of parameter k by k + 1."""

    def __init__(self, parameters):
        super().__init__()
        self.names = [parameter.name for parameter in parameters]

    def construct(self, gradients):
        scaled = ()
        for number in range(len(gradients)):
            scaled += (gradients[number] * (number + 1),)
        return scaled


def test_gradients_are_reduced_in_the_order_of_the_network():
    """And each one arrives at its parameter: against the formula of SGD."""
    model = nn.SequentialCell([nn.Conv2d(3, 4, 3, has_bias=True), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, has_bias=True)])
    in_network = [parameter.name for parameter in model.trainable_params()]
    update = Momentum(model.trainable_params(), 0.0, RATES, 0.0, 1.0, False)
    reducer = NetworkOrderReducer(model.trainable_params(), update.parameters, Recorder)
    assert reducer.reducer.names == in_network == [parameter.name for parameter in reducer.parameters]
    assert in_network != [parameter.name for parameter in update.parameters]
    gradients = tuple(Tensor(np.full(parameter.shape, 1.0, np.float32)) for parameter in reducer.parameters)
    for parameter, gradient in zip(update.parameters, reducer(gradients)):
        expected = in_network.index(parameter.name) + 1
        np.testing.assert_array_equal(gradient.asnumpy(), np.full(parameter.shape, expected, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_a_step_with_a_reducer_updates_as_one_without(cfg256, half):
    import mindspore

    class Same(nn.Cell):
        def __init__(self, parameters):
            super().__init__()

        def construct(self, gradients):
            return gradients

    class Devices(Communicator):
        make_grad_reducer = Same

    cfg = EasyDict(cfg256, img_shape=[128, 128], num_addition_layers=1, extras_out_channels=[32] * 5, use_float16=half)
    steps = []
    rng, batch = np.random.default_rng(0), inputs()
    batch[0] = Tensor(rng.integers(0, 255, batch[0].shape, dtype=np.uint8))
    for comm in (Communicator(), Devices()):
        mindspore.set_seed(5)
        steps.append(build_train_step(build_model(cfg), cfg, RATES, comm))
    assert isinstance(steps[1], TrainStep) != half and steps[1].gradients.weights is not steps[1].update.parameters
    np.testing.assert_array_equal(*(step(*batch).asnumpy() for step in steps))
    for first, second in zip(*(step.get_parameters() for step in steps)):
        np.testing.assert_array_equal(first.asnumpy(), second.asnumpy(), err_msg=first.name)


def test_means_on_the_host():
    class Two(Communicator):
        """The other rank has zeros."""

        def all_reduce_mean_(self, values):
            values /= 2

    values = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(5), np.ones((1, 2, 2), np.float32)]
    for mean, value in zip(averaged_on_host([Tensor(value) for value in values], Two()), values):
        np.testing.assert_array_equal(mean, value / 2)


def test_fused_groups_by_bytes():
    """The group of the first layers, whose gradients come last, is small; each other one holds at most 32 MiB."""
    mib = 1 << 20
    assert fusion_splits([1 * mib] * 10) == [3]
    assert fusion_splits([6 * mib, 1 * mib, 40 * mib, 20 * mib, 12 * mib, 1 * mib]) == [0, 1, 2, 4]
    assert fusion_splits([5]) == []
