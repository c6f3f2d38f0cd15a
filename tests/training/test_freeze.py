"""Layers frozen by `freeze_layer` do not change, BN included."""

import mindspore
import numpy as np
import pytest
from easydict import EasyDict
from mindspore import Tensor

from src.models.build import build_model, freeze
from src.models.layers import BatchNorm2d
from src.training.step import build_train_step

PREFIX = "network.feature_extractor.resnet."


@pytest.fixture(scope="module")
def cfg128(cfg256):
    return EasyDict(cfg256, img_shape=[128, 128], feature_size=[16, 8, 4, 2, 1], num_ssd_boxes=2046)


def batch(seed):
    rng = np.random.default_rng(seed)
    label = np.zeros((2, 2046), np.int32)
    label[:, ::300] = 3
    images = rng.normal(0.3, 1.5, (2, 3, 128, 128)).astype(np.float32)
    return [Tensor(part) for part in (images, np.zeros((2, 2046, 4), np.float32), label, np.full(2, 7, np.float32))]


def randomise(model):
    """Running statistics unlike those of any batch, and gammas that do not suppress the blocks."""
    rng = np.random.default_rng(5)
    for parameter in model.get_parameters():
        value = {
            "moving_mean": lambda p: rng.normal(0, 0.2, p.shape),
            "moving_variance": lambda p: rng.uniform(0.5, 2, p.shape),
            "gamma": lambda p: rng.uniform(0.5, 1, p.shape),
        }.get(parameter.name.rsplit(".", 1)[-1])
        if value:
            parameter.set_data(Tensor(value(parameter).astype(np.float32)))


@pytest.mark.parametrize("half", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_frozen_backbone_is_frozen(cfg128, half):
    cfg = EasyDict(cfg128, use_float16=half)
    mindspore.set_seed(1)
    model = build_model(cfg)
    randomise(model)
    freeze(model, "backbone")
    step = build_train_step(model, cfg, np.full(4, 0.05, np.float32))
    backbone = model.feature_extractor.resnet
    before = {p.name: p.asnumpy().copy() for p in model.get_parameters()}
    # the same in training and in evaluation, independent of the rest of the batch
    images = batch(0)[0]
    training = [part.asnumpy() for part in backbone(images)]
    alone = [part.asnumpy() for part in backbone(images[:1])]
    backbone.set_train(False)
    evaluation = [part.asnumpy() for part in backbone(images)]
    step.set_train()
    for one, other, first in zip(training, evaluation, alone):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(first[0], one[0], rtol=2e-2 if half else 1e-4, atol=1e-2 if half else 1e-4)
    for seed in range(2):
        step(*batch(seed))
    moved = set()
    for parameter in model.get_parameters():
        if not np.array_equal(parameter.asnumpy(), before[parameter.name]):
            moved.add(parameter.name)
    assert not any(name.startswith(PREFIX) for name in moved)
    assert {name for name in before if "moving" in name and not name.startswith(PREFIX)} <= moved
    assert not any(name.startswith("moments." + PREFIX) for name in (p.name for p in step.get_parameters()))


def test_which_bn_is_frozen(cfg128):
    def frozen(layer):
        model = build_model(cfg128)
        freeze(model, layer)
        return {name for name, cell in model.cells_and_names() if isinstance(cell, BatchNorm2d) and cell.frozen}

    resnet = "feature_extractor.resnet."
    assert frozen(None) == set()
    assert all(name.startswith(resnet) for name in frozen("backbone")) and len(frozen("backbone")) == 53
    assert frozen([resnet + "conv1", resnet + "bn1"]) == {resnet + "bn1"}
    # only its gamma: it is still trained, and so are its statistics
    assert frozen([resnet + "bn1.gamma"]) == set()
    # together the prefixes cover all layers
    assert frozen(["network." + resnet + "bn1.gamma", resnet + "bn1.beta", resnet + "bn1.mov"]) == {resnet + "bn1"}


def test_gradients_pass_through_frozen_bn(cfg128):
    """Layers before frozen ones are trained through them, with the running statistics."""
    model = build_model(cfg128)
    randomise(model)
    freeze(model, ["feature_extractor.resnet.layer2", "feature_extractor.resnet.bn1"])
    step = build_train_step(model, cfg128, np.full(2, 0.05, np.float32))
    before = {p.name: p.asnumpy().copy() for p in model.get_parameters() if p.name.startswith(PREFIX)}
    step(*batch(0))
    still = {p.name for p in model.get_parameters() if np.array_equal(p.asnumpy(), before.get(p.name))}
    assert still == {name for name in before if name.startswith((PREFIX + "layer2", PREFIX + "bn1."))}
