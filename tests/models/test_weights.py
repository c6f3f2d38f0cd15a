"""Checkpoints of several origins into the network: what is loaded, left out, refused."""

import logging

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.errors import UserError
from src.models.build import build_model
from src.models.weights import BACKBONE, load_backbone, load_network

PREDICTORS = [f"network.multi_box.{kind}_layers.0.{part}" for kind in ("cls", "loc") for part in ("weight", "bias")]


def write(path, entries):
    ms.save_checkpoint([{"name": name, "data": Tensor(value)} for name, value in entries.items()], str(path))
    return str(path)


def values(model):
    return {p.name: p.asnumpy().copy() for p in model.get_parameters()}


@pytest.fixture(scope="module")
def model(cfg256):
    return build_model(cfg256)


@pytest.mark.parametrize("prefix", ["", "resnet.", "backbone.", "network.", "network." + BACKBONE])
def test_backbone_names_may_start_anywhere(model, tmp_path, caplog, prefix):
    before = values(model)
    wanted = {
        name: np.full(value.shape, 0.5, np.float32) for name, value in before.items() if name.startswith(BACKBONE)
    }
    entries = {prefix + name[len(BACKBONE) :]: value for name, value in wanted.items()}
    entries["end_point.weight"] = np.zeros((10, 10), np.float32)
    entries.pop(prefix + "bn1.gamma")
    logging.getLogger("ssd").propagate = True
    with caplog.at_level(logging.INFO, "ssd"):
        load_backbone(model, write(tmp_path / "resnet50.ckpt", entries))
    after = values(model)
    for name, value in before.items():
        loaded = name.startswith(BACKBONE) and name != BACKBONE + "bn1.gamma"
        np.testing.assert_array_equal(after[name], wanted[name] if loaded else value)
    assert f"{len(wanted) - 1} of {len(wanted)} parameters loaded" in caplog.text and "bn1.gamma" in caplog.text
    for parameter in model.get_parameters():
        parameter.set_data(Tensor(before[parameter.name]))


def test_other_number_of_classes(model, tmp_path):
    entries = {"network." + name: value + 1 for name, value in values(model).items()}
    entries["network.multi_box.cls_layers.0.weight"] = np.zeros((18, 256, 3, 3), np.float32)
    path, before = write(tmp_path / "three.ckpt", entries), values(model)
    with pytest.raises(UserError, match=r"cls_layers.0.weight has shape \(18, 256, 3, 3\).*\(486, 256, 3, 3\)"):
        load_network(model, path, "pre_trained")
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name])  # nothing was loaded by half
    load_network(model, path, "pre_trained", PREDICTORS)
    for name, value in values(model).items():
        left_out = "network." + name in PREDICTORS
        np.testing.assert_array_equal(value, before[name] if left_out else before[name] + 1)


def test_a_foreign_checkpoint_is_refused(model, tmp_path):
    path = write(tmp_path / "foreign.ckpt", {"other.weight": np.zeros(3, np.float32)})
    for load in (lambda: load_network(model, path, "pre_trained"), lambda: load_backbone(model, path)):
        with pytest.raises(UserError, match="no parameter"):
            load()
