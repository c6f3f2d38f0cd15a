import numpy as np
from mindspore import Tensor, nn

from src.models.layers import BatchNorm2d
from src.training.bn_recalibration import recalibrate


def test_averages_are_those_of_the_batches(cfg256):
    # the same batch every time: its mean and variance, independent of momentum and initial values
    batch = np.random.default_rng(0).normal(3, 2, (4, 2, 5, 5)).astype(np.float32)

    class Net(nn.Cell):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(2, momentum=0.997)

        def construct(self, x):
            return self.bn(x), x

    net = Net()
    before = {p.name: p.asnumpy().copy() for p in net.trainable_params()}
    assert recalibrate(net, iter([Tensor(batch)] * 5), 3) == 3
    np.testing.assert_allclose(net.bn.moving_mean.asnumpy(), batch.mean(axis=(0, 2, 3)), rtol=1e-4)
    # of 100 values; the two MindSpore versions divide by 99 and by 100
    np.testing.assert_allclose(net.bn.moving_variance.asnumpy(), batch.var(axis=(0, 2, 3)), rtol=1.1e-2)
    for parameter in net.trainable_params():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])


def test_no_batch_leaves_everything(cfg256):
    net = nn.BatchNorm2d(2)
    assert recalibrate(net, iter([]), 3) == 0
    assert (net.moving_variance.asnumpy() == 1).all()


def test_frozen_bn_keeps_its_statistics(cfg256):
    class Net(nn.Cell):
        def __init__(self):
            super().__init__()
            self.first, self.second = BatchNorm2d(2, momentum=0.9), BatchNorm2d(2, momentum=0.9)
            self.first.freeze()

        def construct(self, x):
            x = self.first(x)
            return self.second(x), x

    net, batch = Net(), np.random.default_rng(0).normal(3, 2, (4, 2, 5, 5)).astype(np.float32)
    assert recalibrate(net, iter([Tensor(batch)] * 5), 3) == 3
    assert (net.first.moving_mean.asnumpy() == 0).all() and (net.first.moving_variance.asnumpy() == 1).all()
    np.testing.assert_allclose(net.second.moving_mean.asnumpy(), batch.mean(axis=(0, 2, 3)), rtol=1e-4)


def test_every_batch_counts_the_same_whatever_the_momentum(cfg256):
    """With momentum 0.9 the first of 30 batches would have a weight of 0.005 in a moving average."""

    class Net(nn.Cell):
        def __init__(self):
            super().__init__()
            self.bn = BatchNorm2d(2, momentum=0.9)

        def construct(self, x):
            return self.bn(x), x

    rng, net = np.random.default_rng(0), Net()
    batches = [
        rng.normal(10 if number == 0 else 0, 1 + number, (4, 2, 5, 5)).astype(np.float32) for number in range(30)
    ]
    assert recalibrate(net, (Tensor(batch) for batch in batches), 30) == 30
    means = np.mean([batch.mean(axis=(0, 2, 3)) for batch in batches], axis=0)
    variances = np.mean([batch.var(axis=(0, 2, 3)) for batch in batches], axis=0)
    np.testing.assert_allclose(net.bn.moving_mean.asnumpy(), means, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(net.bn.moving_variance.asnumpy(), variances, rtol=1.1e-2)
