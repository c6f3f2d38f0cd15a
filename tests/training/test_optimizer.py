"""docs/reference.md, "Optimiser", in float64; and the published optimiser if nothing is clipped."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from src.models.build import build_model
from src.training import optimizer
from src.training.optimizer import AdamW, Momentum, has_weight_decay

pytestmark = pytest.mark.usefixtures("cfg256")  # which sets the device

SHAPES = {"a.weight": (4, 3, 3, 3), "a.bias": (4,), "b.gamma": (4,), "b.beta": (4,), "c.weight": (2, 4, 1, 1)}
RATES = np.array([0.1, 0.03, 0.2, 0.05], np.float32)


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def parameters_of(values):
    return [Parameter(Tensor(value), name=name) for name, value in values.items()]


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
@pytest.mark.parametrize("size", [0.01, 5.0], ids=["below the norm of 1", "clipped"])
def test_clipped_steps_equal_the_specification(loss_scale, size):
    parameters = parameters_of(weights())
    update = Momentum(parameters, 4e-4, RATES, 0.9, loss_scale, clip_global_norm=True)
    want = {name: value.astype(np.float64) for name, value in weights().items()}
    buffers = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step, rate in enumerate(RATES):
        gradients = {name: size * value.astype(np.float64) for name, value in weights(step + 1).items()}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        scaled = {name: Tensor((loss_scale * gradient).astype(np.float32)) for name, gradient in gradients.items()}
        got = update(*(scaled[parameter.name] for parameter in update.parameters))
        assert float(got.asnumpy()) == pytest.approx(norm, rel=1e-6)
        for name, gradient in gradients.items():
            decay = 0 if name.startswith("b.") else 4e-4
            buffers[name] = 0.9 * buffers[name] + gradient / max(norm, 1) + decay * want[name]
            want[name] = want[name] - float(rate) * buffers[name]
    for parameter, moment in zip(update.parameters, update.moments):
        assert moment.name == f"moments.{parameter.name}"
        np.testing.assert_allclose(parameter.asnumpy(), want[parameter.name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moment.asnumpy(), buffers[parameter.name], rtol=1e-5, atol=1e-6)
    assert update.global_step.asnumpy().tolist() == [len(RATES)]


@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("size", [0.01, 5.0], ids=["below the norm of 1", "above"])
def test_adamw_equals_the_paper(size, clips):
    """Algorithm 2 of arXiv:1711.05101 in float64, with Adam's update in the form at the end of section 2 of
    arXiv:1412.6980: epsilon is added before the bias correction."""
    update = AdamW(parameters_of(weights()), 0.05, RATES, 1024.0, clip_global_norm=clips)
    want = {name: value.astype(np.float64) for name, value in weights().items()}
    mean, square = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    for step, rate in enumerate(RATES.astype(np.float64)):
        gradients = {name: size * value.astype(np.float64) for name, value in weights(step + 1).items()}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        scaled = {name: Tensor((1024 * gradient).astype(np.float32)) for name, gradient in gradients.items()}
        got = update(*(scaled[parameter.name] for parameter in update.parameters))
        assert float(got.asnumpy()) == pytest.approx(norm, rel=1e-6)
        for name, gradient in gradients.items():
            gradient = gradient / max(norm, 1) if clips else gradient
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.999 * square[name] + 0.001 * gradient**2
            correction = np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            decay = 0 if name.startswith("b.") else 0.05
            change = correction * mean[name] / (np.sqrt(square[name]) + 1e-8)
            want[name] = want[name] - rate * (change + decay * want[name])
    for parameter, moment, second in zip(update.parameters, update.moments, update.squares):
        assert (moment.name, second.name) == (f"moment1.{parameter.name}", f"moment2.{parameter.name}")
        np.testing.assert_allclose(parameter.asnumpy(), want[parameter.name], rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(moment.asnumpy(), mean[parameter.name], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(second.asnumpy(), square[parameter.name], rtol=1e-4, atol=1e-8)
    assert update.global_step.asnumpy().tolist() == [len(RATES)]


def test_groups_change_no_bit(monkeypatch):
    """Updates of groups of parameters in turn, or of all at once."""
    results = []
    for limit, count in ((1 << 20, 1), (450, 2), (1, 3)):  # a.weight has 432 bytes, c.weight 32, a.bias 16
        monkeypatch.setattr(optimizer, "GROUP_BYTES", limit)
        update = Momentum(parameters_of(weights()), 4e-4, RATES, 0.9, 1024.0, clip_global_norm=True)
        assert len(update.groups) == count
        for step in range(2):
            gradients = {name: Tensor(1024 * value) for name, value in weights(step + 1).items()}
            update(*(gradients[parameter.name] for parameter in update.parameters))
        results.append([p.asnumpy().tobytes() for p in (*update.parameters, *update.moments, update.global_step)])
    assert results[0] == results[1] == results[2]


def test_groups_hold_every_parameter_once():
    limit = optimizer.GROUP_BYTES
    assert optimizer._groups([]) == ()
    assert optimizer._groups([4]) == ((0, 1),)
    assert optimizer._groups([limit, 1, 2, 3 * limit, 5]) == ((0, 1), (1, 3), (3, 4), (4, 5))


def test_without_clipping_it_is_the_published_optimiser():
    ours, theirs = parameters_of(weights()), parameters_of(weights())
    update = Momentum(ours, 4e-4, RATES, 0.9, 1024.0, clip_global_norm=False)
    groups = [
        {"params": [p for p in theirs if not p.name.startswith("b.")], "weight_decay": 4e-4},
        {"params": [p for p in theirs if p.name.startswith("b.")], "weight_decay": 0.0},
        {"order_params": theirs},
    ]
    published = nn.Momentum(groups, Tensor(RATES), 0.9, loss_scale=1024.0)
    for step in range(len(RATES)):
        gradients = {name: Tensor(1024 * value) for name, value in weights(step + 1).items()}
        update(*(gradients[parameter.name] for parameter in update.parameters))
        published(tuple(gradients.values()))
    for got, want in zip(ours, theirs):
        np.testing.assert_allclose(got.asnumpy(), want.asnumpy(), rtol=1e-6, atol=1e-7)
    names = {parameter.name for parameter in update.get_parameters()}
    assert names == {parameter.name for parameter in published.get_parameters()}


@pytest.mark.parametrize("names", [["a.weight", "c.weight"], ["a.bias", "b.gamma"], ["b.beta"]])
def test_only_kernels_or_only_vectors_are_trained(names):
    values = {name: value for name, value in weights().items() if name in names}
    update = Momentum(parameters_of(values), 4e-4, RATES, 0.9, 1.0, clip_global_norm=True)
    norm = update(*(Tensor(values[parameter.name]) for parameter in update.parameters))
    assert float(norm.asnumpy()) == pytest.approx(np.sqrt(sum((v**2).sum() for v in values.values())), rel=1e-6)


def test_weight_decay_spares_bn_only(cfg256):
    parameters = build_model(cfg256).trainable_params()
    spared = [p.name for p in parameters if not has_weight_decay(p.name)]
    decayed = [p.name for p in parameters if has_weight_decay(p.name)]
    assert all(name.endswith(("weight", "bias")) for name in decayed)
    assert all(name.endswith(("gamma", "beta")) for name in spared)
    assert len(decayed) + len(spared) == 280
