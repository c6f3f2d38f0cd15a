"""`match_class_names`: a network for other classes starts with the predictors of those that it shares by name."""

import logging

import numpy as np
import pytest
from mindspore import Tensor

from src.config import load_config
from src.models.build import build_model
from src.models.weights import load_network
from src.training.checkpoint import save_checkpoint_atomically
from src.training.state import RunState, training_relevant_config
from src.utils.errors import UserError

THERE = ["background", "kite", "sports ball", "stop sign"]
HERE = ["background", "dog", "stop sign", "kite", "cat"]


def config(model_name, classes):
    side = 128 if "fpn" in model_name else 64
    options = [f"--model_name={model_name}", f"--img_shape=[{side},{side}]", "--device_target=CPU"]
    options += ["--num_ssd_boxes=-1", "--use_float16=False", "--num_addition_layers=1"]
    return load_config([*options, f"--num_classes={len(classes)}", f"--classes={classes}"])


def scores(model, image):
    model.set_train(False)
    return [output.asnumpy() for output in model(Tensor(image))]


@pytest.mark.parametrize("model_name", ["ssd_resnet50_fpn", "ssd300"])
def test_shared_classes_score_as_before(cfg256, tmp_path, log_lines, model_name):
    """Logits of shared classes and box offsets are those of the other network; new classes keep their fresh weights."""
    old_cfg, cfg = config(model_name, THERE), config(model_name, HERE)
    old, new = build_model(old_cfg), build_model(cfg)
    rng = np.random.default_rng(0)
    for parameter in old.get_parameters():  # fresh biases are all 0
        if parameter.name.endswith(".bias"):
            parameter.set_data(Tensor(rng.normal(size=parameter.shape).astype(np.float32)))
    path = str(tmp_path / "old.ckpt")
    save_checkpoint_atomically(old, path, RunState(config=training_relevant_config(old_cfg)))
    image = rng.normal(size=(1, 3, *cfg.img_shape)).astype(np.float32)
    load_network(new, path, "pre_trained", classes=HERE, match_names=True)
    (loc, label), (old_loc, old_label) = scores(new, image), scores(old, image)
    np.testing.assert_array_equal(loc, old_loc)
    for index, name in enumerate(HERE):
        if name in THERE:
            np.testing.assert_allclose(label[..., index], old_label[..., THERE.index(name)], rtol=1e-5, atol=1e-5)
        else:
            assert np.abs(label[..., index]).max() < np.abs(old_label).max()  # its bias is 0
    assert "predictors of 3 of 5 classes loaded by name; new classes: dog, cat" in "\n".join(log_lines(logging.INFO))


def test_what_cannot_be_matched_is_one_line(cfg256, tmp_path):
    path = str(tmp_path / "old.ckpt")
    old_cfg = config("ssd_resnet50_fpn", THERE)
    save_checkpoint_atomically(build_model(old_cfg), path, RunState())
    new = build_model(config("ssd_resnet50_fpn", HERE))
    with pytest.raises(UserError, match="match_class_names: .*old.ckpt holds no class names; use --filter_weight=True"):
        load_network(new, path, "pre_trained", classes=HERE, match_names=True)
    save_checkpoint_atomically(build_model(old_cfg), path, RunState(config=training_relevant_config(old_cfg)))
    more = load_config(
        ["--anchor_octaves=3", "--img_shape=[128,128]", "--device_target=CPU", "--num_addition_layers=1"]
    )
    with pytest.raises(UserError, match="is not for 9 default boxes per cell"):
        load_network(build_model(more), path, "pre_trained", classes=more.classes, match_names=True)
