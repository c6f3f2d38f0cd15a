"""Names, shapes and forward pass of the network against the published ones."""

import numpy as np
import pytest
from mindspore import Tensor

from src.boxes.default_boxes import default_boxes
from src.config import load_config
from src.models.build import build_model
from src.models.fpn import UpsampleBilinear2x
from src.models.ssd import SSDInference
from src.training.step import build_train_step


@pytest.fixture(scope="module")
def inference(cfg256, load_reference_weights):
    network = SSDInference(build_model(cfg256), default_boxes((256, 256))[0], (0.1, 0.2))
    load_reference_weights(network)
    network.set_train(False)
    return network


def test_names_shapes_and_trainable_of_the_inference_network(inference, reference):
    got = [[p.name, list(p.shape), str(p.dtype), p.requires_grad] for p in inference.get_parameters()]
    assert len(got) == 476
    assert sorted(got) == sorted(reference("params.json")["eval_net"])


def test_names_of_a_training_checkpoint(cfg256, reference):
    step = build_train_step(build_model(cfg256), cfg256, np.zeros(30, np.float32))
    got = [[p.name, list(p.shape), str(p.dtype)] for p in step.get_parameters()]
    assert len(got) == 759
    assert sorted(row[:2] for row in got) == sorted(row[:2] for row in reference("params.json")["checkpoint"])


def test_published_forward_pass(inference, reference, images256):
    published = reference("forward.npz")
    pred_loc, logits = (output.asnumpy() for output in inference.network(Tensor(images256)))
    assert pred_loc.shape == (2, 8184, 4) and logits.shape == (2, 8184, 81)
    np.testing.assert_allclose(pred_loc[:, ::11], published["pred_loc_every11"], atol=1e-3)
    np.testing.assert_allclose(logits[:, ::77], published["pred_label_logits_every77"], atol=1e-3)
    boxes, scores = (output.asnumpy() for output in inference(Tensor(images256)))
    np.testing.assert_allclose(boxes[:, ::11], published["boxes_every11"], atol=1e-3)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_published_feature_maps(inference, reference, images256):
    published, extractor = reference("forward.npz"), inference.network.feature_extractor
    maps = [output.asnumpy() for output in extractor(Tensor(images256))]
    np.testing.assert_allclose([m.mean() for m in maps], published["fpn_mean"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose([m.std() for m in maps], published["fpn_std"], rtol=1e-3, atol=1e-3)
    c345 = [output.asnumpy() for output in extractor.resnet(Tensor(images256))]
    np.testing.assert_allclose([m.mean() for m in c345], published["resnet_mean"][2:], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose([m.std() for m in c345], published["resnet_std"][2:], rtol=1e-3, atol=1e-3)


def test_upsampling_follows_the_old_rule(cfg256):
    # source = destination / 2, the last row and column repeat
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
    want = np.zeros((1, 2, 6, 8), np.float32)
    for i in range(6):
        for j in range(8):
            y0, x0 = i // 2, j // 2
            y1, x1 = min(y0 + 1, 2), min(x0 + 1, 3)
            fy, fx = i / 2 - y0, j / 2 - x0
            want[..., i, j] = (1 - fy) * ((1 - fx) * x[..., y0, x0] + fx * x[..., y0, x1]) + fy * (
                (1 - fx) * x[..., y1, x0] + fx * x[..., y1, x1]
            )
    np.testing.assert_allclose(UpsampleBilinear2x()(Tensor(x)).asnumpy(), want, atol=1e-6)


def test_initial_weights(cfg256):
    parameters = {p.name: p.asnumpy() for p in build_model(cfg256).get_parameters()}
    weights = np.concatenate([value.ravel() for name, value in parameters.items() if name.endswith("weight")])
    assert abs(weights.std() - 0.02) < 0.002 and abs(weights.mean()) < 1e-4
    assert all((value == 0).all() for name, value in parameters.items() if name.endswith(("bias", "beta", "bn3.gamma")))
    assert (parameters["feature_extractor.resnet.bn1.gamma"] == 1).all()


@pytest.mark.parametrize("model_name, side", [("ssd_resnet50_fpn", 128), ("ssd300", 64)])
def test_class_prior_is_the_first_score_of_every_class(cfg256, model_name, side):
    """Without what the features add, each class scores 0.02 and the background 0.98, for every default box."""
    options = [f"--model_name={model_name}", f"--img_shape=[{side},{side}]", "--num_ssd_boxes=-1"]
    cfg = load_config([*options, "--device_target=CPU", "--use_float16=False", "--class_prior=0.02"])
    model = build_model(cfg)
    for parameter in model.get_parameters():
        if parameter.name.endswith(("cls_layers.0.weight", ".3.weight")):
            parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
    model.set_train(False)
    logits = model(Tensor(np.zeros((1, 3, side, side), np.float32)))[1].asnumpy()
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(scores[..., 0], 0.98, rtol=1e-5)
    np.testing.assert_allclose(scores[..., 1:], 0.02, rtol=1e-5)
