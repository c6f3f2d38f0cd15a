"""Our layers against those of MindSpore."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.config import load_config
from src.models.build import build_model
from src.models.layers import BatchNorm2d, init_weights


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_mindspores(cfg256, training):
    ours, theirs = BatchNorm2d(4, eps=1e-3, momentum=0.9), nn.BatchNorm2d(4, eps=1e-3, momentum=0.9)
    x = Tensor(np.random.default_rng(3).normal(1, 2, (2, 4, 5, 5)).astype(np.float32))
    for cell in (ours, theirs):
        cell.set_train(training)
    np.testing.assert_array_equal(ours(x).asnumpy(), theirs(x).asnumpy())
    for got, want in zip(ours.get_parameters(), theirs.get_parameters()):
        np.testing.assert_array_equal(got.asnumpy(), want.asnumpy())


def test_weights_drawn_in_threads_are_those_drawn_one_by_one(cfg256):
    network = nn.SequentialCell(
        [nn.Conv2d(3, 4, 3), BatchNorm2d(4), nn.Conv2d(4, 5, 1, has_bias=True), nn.Conv2d(5, 2, 3)]
    )
    mindspore.set_seed(11)
    init_weights(network)
    mindspore.set_seed(cfg256.seed)
    weights = [parameter for parameter in network.trainable_params() if parameter.name.endswith("weight")]
    assert len(weights) == 3
    for number, weight in enumerate(weights):
        want = np.random.default_rng([11, number]).standard_normal(weight.shape, np.float32) * np.float32(0.02)
        np.testing.assert_array_equal(weight.asnumpy(), want)


def test_he_weights_have_the_spread_of_their_inputs(cfg256):
    """sqrt(2 / inputs) for full, depthwise and 1x1 convolutions, 0.02 for the predictors."""
    cfg = load_config(["--model_name=ssd_mobilenet_v1_fpn", "--initializer=he", "--device_target=CPU"])
    cfg.use_float16 = False
    weights = {parameter.name: parameter.asnumpy() for parameter in build_model(cfg).get_parameters()}
    for name, inputs in (
        ("feature_extractor.mobilenet_v1.network.25.0.weight", 9),
        ("feature_extractor.mobilenet_v1.network.26.0.weight", 1024),
        ("multi_box.addition_layer_cls.0.0.features.0.weight", 256 * 9),
    ):
        (value,) = [weight for key, weight in weights.items() if key.endswith(name)]
        assert value.std() == pytest.approx((2 / inputs) ** 0.5, rel=0.03), name
    (predictor,) = [weight for key, weight in weights.items() if key.endswith("multi_box.cls_layers.0.weight")]
    assert predictor.std() == pytest.approx(0.02, rel=0.03)
