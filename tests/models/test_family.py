"""The other published networks against the figures in tests/reference/family: names, boxes, targets, maps, gradients,
three optimisation steps."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from src.boxes.default_boxes import build_default_boxes
from src.config import load_config
from src.data.transforms import encode_targets
from src.models.build import build_model
from src.models.ssd import SSDInference
from src.training.step import build_train_step
from tests import oracles

SIDES = {"ssd_mobilenet_v1_fpn": 256, "ssd300": 300, "ssd_mobilenet_v1": 300, "ssd_vgg16": 300}
# Bound of single elements of gradients, as a fraction of the tensor's largest. A few activations lie so near to an edge
# of ReLU6 that rounding decides on which side they are: noise of 2e-7 on the images moves elements of
# ssd_mobilenet_v1_fpn by up to 0.033 on one machine, and published MindSpore 1.10 differs as much between processors.
ELEMENTS = {"ssd_mobilenet_v1_fpn": 0.05, "ssd300": 0.15, "ssd_mobilenet_v1": 0.15, "ssd_vgg16": 2e-2}
# their gradients hardly depend on what lies before
EXACT = ("multi_box.multi_loc_layers.0.1.gamma", "multi_box.multi_cls_layers.2.3.bias", "multi_box.cls_layers.0.bias")


def subsample(value):
    flat = value.ravel()
    return flat[:: flat.size // 1500] if flat.size > 2000 else flat


@pytest.fixture(scope="module", params=SIDES)
def network(request, cfg256, reference):
    """(name, config in float32 on a CPU, loader of the network's figures)."""
    name = request.param
    side = SIDES[name]
    options = [f"--model_name={name}", "--device_target=CPU", "--use_float16=False", f"--img_shape=[{side}, {side}]"]
    return name, load_config(options), lambda file: reference(f"family/{name}/{file}")


def every(figures, start):
    """(rows, step) of the figure whose key is `start` and the step between its rows."""
    key = next(key for key in figures.files if key.startswith(start))
    return figures[key], int(key[len(start) :])


def test_default_boxes(network):
    _, cfg, figures = network
    defaults, want = build_default_boxes(cfg), figures("default_boxes.npz")
    assert len(defaults[0]) == want["count"] == cfg.num_ssd_boxes
    for boxes, name in zip(defaults, ("cyxhw", "yxyx")):
        rows, step = every(want, f"{name}_every")
        assert boxes.dtype == np.float32
        np.testing.assert_allclose(boxes[::step], rows, atol=1e-6)
        np.testing.assert_allclose(boxes.sum(axis=0, dtype=np.float64), want[f"{name}_sum"], rtol=1e-6)


def test_default_boxes_of_the_ascend_file(reference):
    cfg = load_config(["--config_path=config/ssd_vgg16_config.yaml"])
    want = reference("family/ssd_vgg16/default_boxes_ascend.npz")
    for boxes, name in zip(build_default_boxes(cfg), ("cyxhw", "yxyx")):
        rows, step = every(want, f"{name}_every")
        np.testing.assert_allclose(boxes[::step], rows, atol=1e-6)


def test_targets(network):
    _, cfg, figures = network
    defaults, want = build_default_boxes(cfg), figures("encode.npz")
    for k in range(6):
        loc, label, num_match = encode_targets(want[f"gt{k}"], *defaults, cfg.match_threshold, cfg.prior_scaling)
        matched = np.flatnonzero(label)
        np.testing.assert_array_equal(matched, want[f"idx{k}"])
        np.testing.assert_array_equal(label[matched], want[f"label{k}"])
        np.testing.assert_allclose(loc[matched], want[f"box{k}"], atol=1e-4)
        assert num_match == want[f"num{k}"].item() and not np.delete(loc, matched, axis=0).any()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_matching_looks_up_what_all_boxes_give(network, threshold):
    """The candidates of a grid against a slow loop over every default box, for boxes of all sizes and places."""
    _, cfg, _ = network
    defaults, rng = build_default_boxes(cfg), np.random.default_rng(7)
    for _ in range(2):
        size = np.exp(rng.uniform(np.log(0.01), 0, (rng.integers(1, 12), 2)))
        start = rng.uniform(0, 1 - size)
        # each ground truth has a label of its own
        gt = np.column_stack([start, start + size, np.arange(1, len(size) + 1)]).astype(np.float32)
        label = encode_targets(gt, *defaults, threshold, cfg.prior_scaling)[1]
        np.testing.assert_array_equal(label, oracles.encode(gt, *defaults, threshold, cfg.prior_scaling)[1])


def test_names_shapes_and_forward_pass(network, load_reference_weights):
    name, cfg, figures = network
    mindspore.set_seed(1)
    inference = SSDInference(build_model(cfg), build_default_boxes(cfg)[0], cfg.prior_scaling)
    got = [[p.name, list(p.shape), str(p.dtype), p.requires_grad] for p in inference.get_parameters()]
    assert got == figures("params.json")["eval_net"]
    load_reference_weights(inference)
    inference.set_train(False)
    side, want = SIDES[name], figures("forward.npz")
    images = Tensor(np.random.RandomState(7).normal(size=(2, 3, side, side)).astype(np.float32))
    maps = [level.asnumpy() for level in inference.network.features(images)]
    assert [list(level.shape) for level in maps] == want["feature_shapes"].tolist()
    np.testing.assert_allclose([level.mean() for level in maps], want["feature_mean"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose([level.std() for level in maps], want["feature_std"], rtol=1e-3, atol=1e-3)
    loc, logits = (output.asnumpy() for output in inference.network(images))
    boxes, scores = (output.asnumpy() for output in inference(images))
    for value, start in ((loc, "pred_loc_every"), (logits, "pred_label_logits_every"), (boxes, "boxes_every")):
        rows, step = every(want, start)
        np.testing.assert_allclose(value[:, ::step], rows, atol=1e-3 * np.abs(rows).max())
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_gradients_and_three_steps(network, load_reference_weights):
    name, cfg, figures = network
    want, params = figures("loss.npz"), figures("params.json")
    step = build_train_step(build_model(cfg), cfg, want["A/lr"])
    rows = [[p.name, list(p.shape)] for p in step.get_parameters() if p.name != "learning_rate"]
    # ours in the order of its updates
    assert sorted(rows) == sorted(row[:2] for row in params["checkpoint"] if row[0] != "learning_rate")
    weights = {p.name: p for p in step.update.parameters}
    assert len(weights) == params["trainable"]
    assert sum(int(np.prod(p.shape)) for p in weights.values()) == params["trainable_numbers"]
    assert len(step.update.others) == params["no_weight_decay"]
    load_reference_weights(step.forward)
    for _, cell in step.cells_and_names():
        if isinstance(cell, mindspore.nn.Dropout):  # the figures are without it
            cell.set_train(False)
    batch, count = _batch(cfg, want, SIDES[name])
    tensors = {p.name: p for p in step.forward.get_parameters()}
    before = {key: value.asnumpy().astype(np.float64) for key, value in tensors.items()}
    losses = []
    for number in range(3):
        parts, gradients = step.gradients(*batch)
        losses.append(float(parts.asnumpy().sum()))
        norm = float(step.update(*gradients).asnumpy())
        if number == 0:
            _check_gradients(want, dict(zip(weights, gradients)), norm, count, ELEMENTS[name])
            _check_first_step(want, tensors, before, ELEMENTS[name])
    np.testing.assert_allclose(losses[0], want[f"loss_bs{count}"], rtol=1e-5)
    np.testing.assert_allclose(losses, want["A/losses"], rtol=1e-3)
    change = [np.linalg.norm(tensors[key].asnumpy() - before[key]) for key in want["grad_param_names"].tolist()]
    np.testing.assert_allclose(change, want["A/change_norm_after3"], atol=2e-2 * want["A/change_norm_after3"].max())


def _batch(cfg, figures, side):
    """The figures' images and targets, and how many images there are."""
    defaults = build_default_boxes(cfg)
    count = sum(key.startswith("gt") for key in figures.files)
    truths = [figures[f"gt{k}"] for k in range(count)]
    targets = [encode_targets(gt, *defaults, cfg.match_threshold, cfg.prior_scaling) for gt in truths]
    loc, label, num_match = (np.stack(part) for part in zip(*targets))
    np.testing.assert_array_equal(num_match, figures["num_match"].ravel())
    image, row = figures["label_nonzero_idx"]
    np.testing.assert_array_equal(label[image, row], figures["label_nonzero"])
    np.testing.assert_allclose(loc[image, row], figures["loc_nonzero"], atol=1e-4)
    images = np.random.RandomState(7).normal(size=(count, 3, side, side)).astype(np.float32)
    return [Tensor(value) for value in (images, loc, label, num_match.astype(np.float32))], count


def _check_gradients(want, gradients, norm, count, tolerance):
    gradients = {key: value.asnumpy().astype(np.float64) for key, value in gradients.items()}
    names, norms = want["grad_param_names"].tolist(), want[f"grad_norm_per_param_bs{count}"]
    assert sorted(gradients) == sorted(names)
    np.testing.assert_allclose(norm, want[f"grad_global_norm_bs{count}"], rtol=1e-4)
    large = norms > 1e-3 * norms.max()
    np.testing.assert_allclose(
        np.array([np.linalg.norm(gradients[key]) for key in names])[large], norms[large], rtol=2e-2
    )
    start = f"grad_bs{count}/network."
    for key in (key for key in want.files if key.startswith(start)):
        short, figure = key[len(start) :], want[key]
        bound = (1e-4 if short in EXACT else tolerance) * np.abs(figure).max()
        np.testing.assert_allclose(subsample(gradients["network." + short]), figure, atol=bound, rtol=0, err_msg=key)


def _check_first_step(want, tensors, before, tolerance):
    for key in (key for key in want.files if key.startswith("A/after1/")):
        name = key[len("A/after1/") :]
        start, figure = subsample(before[name]), want[key]
        got, change = subsample(tensors[name].asnumpy()) - start, figure - start
        # the weight itself has seven digits
        bound = max(tolerance * np.abs(change).max(), 2 * np.spacing(np.float32(np.abs(figure).max())))
        np.testing.assert_allclose(got, change, atol=bound, rtol=0, err_msg=key)
