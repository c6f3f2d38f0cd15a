"""Loss, gradients and three optimisation steps against the published values, and properties of the loss."""

import mindspore
import numpy as np
import pytest
from easydict import EasyDict
from mindspore import Tensor, ops

from src.boxes.coder import BoxCoder
from src.boxes.default_boxes import default_boxes
from src.data.transforms import encode_targets
from src.loss import MultiBoxLoss
from src.models.build import build_model
from src.training.step import ModelWithLoss, build_train_step
from tests import oracles


def subsample(value: np.ndarray) -> np.ndarray:
    flat = value.ravel()
    return flat[:: flat.size // 1500] if flat.size > 2000 else flat


@pytest.fixture(scope="module")
def batch(reference, images256):
    published, defaults = reference("loss.npz"), default_boxes((256, 256))
    targets = [encode_targets(published[f"gt{k}"], *defaults, 0.5, (0.1, 0.2)) for k in (0, 1)]
    loc, label, num_match = (np.stack(part) for part in zip(*targets))
    np.testing.assert_array_equal(num_match, published["num_match"].ravel())
    image, row = published["label_nonzero_idx"]
    np.testing.assert_array_equal(label[image, row], published["label_nonzero"])
    np.testing.assert_allclose(loc[image, row], published["loc_nonzero"], atol=1e-4)
    return [Tensor(value) for value in (images256, loc, label, num_match.astype(np.float32))]


@pytest.mark.slow
def test_half_precision(cfg256, images256, batch):
    """The result is close to float32, and neither parameters nor the next network are changed to float16."""
    steps, sides = {}, {}
    for half in (True, False):
        mindspore.set_seed(3)
        model = build_model(EasyDict(cfg256, use_float16=half))
        step = build_train_step(model, EasyDict(cfg256, use_float16=half), np.full(2, 0.01, np.float32))
        steps[half] = [step(*batch).asnumpy() for _ in range(2)]
        parameters = list(step.get_parameters())
        assert {p.dtype for p in parameters if p.name != "global_step"} == {mindspore.float32}
        model.set_train(False)
        sides[half] = [part.asnumpy() for part in model(Tensor(images256))]
    for half, full in zip(sides[True], sides[False]):
        assert half.dtype == np.float32 and not np.array_equal(half, full)
        np.testing.assert_allclose(half, full, atol=0.02 * np.abs(full).max())
    np.testing.assert_allclose(steps[True][0], steps[False][0], rtol=0.01)
    np.testing.assert_allclose(steps[True][1][:2], steps[False][1][:2], rtol=0.01)


def test_published_loss_and_gradients(cfg256, load_reference_weights, reference, batch):
    published = reference("loss.npz")
    forward = ModelWithLoss(build_model(cfg256), MultiBoxLoss())
    forward.set_train()
    load_reference_weights(forward)
    parameters = forward.trainable_params()
    gradients = ops.GradOperation(get_by_list=True)(forward, parameters)(*batch)
    gradients = {p.name: g.asnumpy().astype(np.float64) for p, g in zip(parameters, gradients)}
    assert sorted(gradients) == sorted(published["grad_param_names"].tolist())
    norms = np.array([np.linalg.norm(gradients[name]) for name in published["grad_param_names"].tolist()])
    want = published["grad_norm_per_param_bs2"]
    np.testing.assert_allclose(np.sqrt((norms**2).sum()), published["grad_global_norm_bs2"], rtol=1e-3)
    np.testing.assert_allclose(norms, want, rtol=1e-2, atol=1e-5 * want.max())
    for key in published.files:
        if key.startswith("grad_bs2/"):
            got, expected = subsample(gradients[key[len("grad_bs2/") :]]), published[key]
            np.testing.assert_allclose(got, expected, atol=1e-2 * np.abs(expected).max(), rtol=0)


def test_published_three_steps(cfg256, load_reference_weights, reference, batch):
    published, run = reference("loss.npz"), "A_globalnorm_scale1"
    step = build_train_step(build_model(cfg256), cfg256, published[f"{run}/lr"])
    load_reference_weights(step.forward)
    parameters = {p.name: p for p in step.forward.get_parameters()}
    keys = {key: key[len(f"{run}/after1/") :] for key in published.files if key.startswith(f"{run}/after1/")}
    before = {name: subsample(parameters[name].asnumpy()) for name in keys.values()}
    ulp = {name: np.spacing(np.abs(value)).max() for name, value in before.items()}
    before = {name: value.astype(np.float64) for name, value in before.items()}
    losses = [step(*batch).asnumpy()[:2].sum()]
    for key, name in keys.items():
        got, want = subsample(parameters[name].asnumpy()) - before[name], published[key] - before[name]
        # a change of 1e-3 in weights of size 1 has two digits less than a gradient in float32, and a change
        # below 1e-6 is only a few times the float32 spacing of the weight
        np.testing.assert_allclose(got, want, atol=max(2e-2 * np.abs(want).max(), ulp[name]), rtol=0)
    losses += [step(*batch).asnumpy()[:2].sum() for _ in range(2)]
    np.testing.assert_allclose(losses[0], published["loss_bs2"], rtol=1e-4)
    np.testing.assert_allclose(losses, published[f"{run}/losses"], rtol=1e-4)


def random_case(seed, batch=2, rows=30, classes=5):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, (batch, rows)) * (rng.random((batch, rows)) < 0.3)
    return (
        rng.normal(0, 2, (batch, rows, 4)).astype(np.float32),
        rng.normal(0, 3, (batch, rows, classes)).astype(np.float32),
        rng.normal(0, 2, (batch, rows, 4)).astype(np.float32),
        label.astype(np.int32),
        (label > 0).sum(axis=1).astype(np.float32),
    )


@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (1.5, 0.6)])
def test_loss_equals_float64(cfg256, gamma, alpha):
    case = random_case(3)
    got = float(MultiBoxLoss(5, gamma, alpha)(*map(Tensor, case)).asnumpy())
    assert got == pytest.approx(oracles.loss(*case, gamma=gamma, alpha=alpha), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 5.0])
def test_focal_of_saturated_logits(cfg256, gamma):
    """Values and gradients against float64 where the float32 probability is 0 or 1: finite, with the limit 0."""
    x = np.array([0, 1e-3, 0.5, 3, 10, 16, 18, 30, 88, 90, 104, 1e3, 1e4])
    x = np.float32(np.concatenate([-x[::-1], x]))
    logits = np.stack([x, x], axis=-1)[None]  # each is a one once and a zero once
    labels, loss = np.zeros((1, len(x)), np.int32), MultiBoxLoss(2, gamma, 0.25)
    case = (np.zeros((1, len(x), 4), np.float32), logits, np.zeros((1, len(x), 4), np.float32), labels, np.ones(1))
    value = loss.focal(Tensor(logits), Tensor(labels)).asnumpy()
    gradient = ops.GradOperation(get_all=True)(loss)(*(Tensor(np.asarray(part, part.dtype)) for part in case))[1]
    sign = np.array([1.0, -1.0])
    z, alpha = logits.astype(np.float64) * sign, np.array([0.25, 0.75])
    # -log p_t, -log(1 - p_t) and their exponentials
    right, wrong = np.logaddexp(0, -z), np.logaddexp(0, z)
    power = np.exp(-gamma * wrong)
    np.testing.assert_allclose(value, alpha * power * right, rtol=2e-5, atol=1e-6)
    slope = -alpha * power * (gamma * np.exp(-right) * right + np.exp(-wrong)) * sign
    assert np.isfinite(gradient.asnumpy()).all()
    np.testing.assert_allclose(gradient.asnumpy(), slope, rtol=2e-5, atol=1e-6)


def test_giou_loss_equals_corners_in_pixels(cfg256):
    """Against GIoU of decoded boxes, corner by corner: the default boxes must not matter."""
    loc, logits, gt_loc, label, num = random_case(6)
    defaults = np.random.default_rng(7).uniform(20, 90, (loc.shape[1], 4))
    want = np.zeros(label.shape)
    for image, row in np.argwhere(label > 0):
        first, second = (BoxCoder((0.1, 0.2)).decode(side[image, row], defaults[row]) for side in (loc, gt_loc))
        want[image, row] = 2 * (1 - oracles.giou(first, second))
    loss = MultiBoxLoss(5, 2.0, 0.25, "giou", (0.1, 0.2))
    classification, boxes = loss.parts(*map(Tensor, (loc, logits, gt_loc, label, num))).asnumpy()
    plain = MultiBoxLoss(5).parts(*map(Tensor, (loc, logits, gt_loc, label, num))).asnumpy()
    assert boxes == pytest.approx(want.sum() / num.sum(), rel=1e-5) and classification == plain[0]
    assert float(loss.giou(Tensor(gt_loc), Tensor(gt_loc)).asnumpy().max()) == pytest.approx(0, abs=1e-5)
    wild = Tensor(np.full_like(loc, 1e4))
    assert np.isfinite(loss.giou(wild, Tensor(gt_loc)).asnumpy()).all()


def test_loss_of_copies_and_without_a_match(cfg256):
    case, loss = random_case(4), MultiBoxLoss(5)
    once = float(loss(*map(Tensor, case)).asnumpy())
    twice = float(loss(*(Tensor(np.concatenate([part, part])) for part in case)).asnumpy())
    assert twice == pytest.approx(once, rel=1e-5)
    nothing = (*case[:3], np.zeros_like(case[3]), np.zeros_like(case[4]))
    assert float(loss(*map(Tensor, nothing)).asnumpy()) == pytest.approx(oracles.loss(*nothing), rel=1e-5)


def test_loss_gradient_equals_finite_differences(cfg256):
    loc, logits, gt_loc, label, num = random_case(5, batch=1, rows=4, classes=3)
    loss = MultiBoxLoss(3)
    grads = ops.GradOperation(get_all=True)(loss)(*map(Tensor, (loc, logits, gt_loc, label, num)))
    for which, value in ((0, loc), (1, logits)):
        numeric = np.zeros(value.shape)
        for index in np.ndindex(value.shape):
            sides = []
            for sign in (1, -1):
                moved = value.astype(np.float64)
                moved[index] += sign * 1e-5
                args = (moved, logits) if which == 0 else (loc, moved)
                sides.append(oracles.loss(*args, gt_loc, label, num))
            numeric[index] = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(grads[which].asnumpy(), numeric, atol=1e-4)
