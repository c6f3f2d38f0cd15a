"""Loading checkpoints of several origins: which entries are loaded, left out, or an error."""

import logging

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.models.build import build_model, freeze
from src.models.weights import load_backbone, load_network
from src.utils.errors import UserError

BACKBONE = "feature_extractor.resnet."
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
def test_backbone_names_may_start_anywhere(model, tmp_path, log_lines, prefix):
    before = values(model)
    expected = {
        name: np.full(value.shape, 0.5, np.float32) for name, value in before.items() if name.startswith(BACKBONE)
    }
    entries = {prefix + name[len(BACKBONE) :]: value for name, value in expected.items()}
    entries["end_point.weight"] = np.zeros((10, 10), np.float32)
    entries.pop(prefix + "bn1.gamma")
    load_backbone(model, write(tmp_path / "resnet50.ckpt", entries))
    terminal = "\n".join(log_lines(logging.INFO))
    after = values(model)
    for name, value in before.items():
        loaded = name.startswith(BACKBONE) and name != BACKBONE + "bn1.gamma"
        np.testing.assert_array_equal(after[name], expected[name] if loaded else value)
    assert f"{len(expected) - 1} of {len(expected)} parameters loaded" in terminal and "bn1.gamma" in terminal
    for parameter in model.get_parameters():
        parameter.set_data(Tensor(before[parameter.name]))


def test_other_number_of_classes(model, tmp_path):
    entries = {"network." + name: value + 1 for name, value in values(model).items()}
    entries["network.multi_box.cls_layers.0.weight"] = np.zeros((18, 256, 3, 3), np.float32)
    path, before = write(tmp_path / "three.ckpt", entries), values(model)
    shapes = r"cls_layers.0.weight has shape \(18, 256, 3, 3\).*\(486, 256, 3, 3\).*"
    with pytest.raises(UserError, match=shapes + "--filter_weight=True leaves the predictors out"):
        load_network(model, path, "pre_trained")
    # evaluation and export need the predictors, and cannot leave them out
    for key in ("checkpoint_file_path", "model"):
        with pytest.raises(UserError, match=shapes + r"use the configuration.*\(--config_path\)") as raised:
            load_network(model, path, key, strict=True)
        assert "filter_weight" not in str(raised.value)
    with pytest.raises(UserError, match="add network.multi_box.cls_layers.0.weight to checkpoint_filter_list"):
        load_network(model, path, "pre_trained", ["loc_layers"])
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name])  # nothing was loaded partially
    load_network(model, path, "pre_trained", PREDICTORS)
    for name, value in values(model).items():
        left_out = "network." + name in PREDICTORS
        np.testing.assert_array_equal(value, before[name] if left_out else before[name] + 1)


def test_what_is_logged(model, tmp_path, log_lines):
    """Counts and first names on the terminal, all names in the file (DEBUG)."""
    entries = {"network." + name: value for name, value in values(model).items()}
    entries["network.multi_box.cls_layers.0.weight"] = np.zeros((18, 256, 3, 3), np.float32)
    entries["moments.network.multi_box.cls_layers.0.weight"] = np.zeros((18, 256, 3, 3), np.float32)
    entries["global_step"] = np.zeros(1, np.int32)
    entries["end_point.bias"] = np.zeros(10, np.float32)
    missing = [name for name in entries if ".fpn." in name]
    for name in missing:
        entries.pop(name)
    load_network(model, write(tmp_path / "three.ckpt", entries), "pre_trained", PREDICTORS)
    everything, terminal = "\n".join(log_lines()), "\n".join(log_lines(logging.INFO))
    assert "multi_box.cls_layers.0.weight (18, 256, 3, 3) in the file, (486, 256, 3, 3) in the network" in terminal
    assert "end_point.bias (10,) in the file" in terminal
    for usual in ("moments.network.multi_box.cls_layers.0.weight", "global_step"):
        assert usual in everything and usual not in terminal
    count = len(values(model))
    assert f"{count - 4 - len(missing)} of {count} parameters loaded" in terminal
    assert f"7 left out, {4 + len(missing)} missing" in terminal
    for name in missing:
        assert name[len("network.") :] in everything
    assert len(terminal) < 1500


def test_any_prefix(model, tmp_path, log_lines):
    before = values(model)
    entries = {"trainer.net." + name: value + 1 for name, value in before.items()}
    load_network(model, write(tmp_path / "prefix.ckpt", entries), "pre_trained")
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name] + 1)
    assert any("below 'trainer.net.'" in line for line in log_lines())


def test_all_are_needed(model, tmp_path):
    entries, before = {name: value + 1 for name, value in values(model).items()}, values(model)
    entries.pop("multi_box.cls_layers.0.bias")
    path = write(tmp_path / "lacks.ckpt", entries)
    with pytest.raises(UserError, match="lacks 1 of the network's .* first multi_box.cls_layers.0.bias"):
        load_network(model, path, "checkpoint_file_path", strict=True)
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_freeze(cfg256):
    model = build_model(cfg256)
    names = [p.name for p in model.trainable_params()]
    freeze(model, None)
    assert [p.name for p in model.trainable_params()] == names
    freeze(model, ["multi_box.cls_layers", "feature_extractor.fpn."])
    starts = ("multi_box.cls_layers", "feature_extractor.fpn.")
    assert [p.name for p in model.trainable_params()] == [name for name in names if not name.startswith(starts)]
    freeze(model, "backbone")
    left = [p.name for p in model.trainable_params()]
    assert left and not any(name.startswith((*starts, BACKBONE)) for name in left)
    with pytest.raises(UserError, match="freeze_layer: .*multibox"):
        freeze(model, ["multibox"])


def test_a_foreign_checkpoint_is_refused(model, tmp_path):
    path = write(tmp_path / "foreign.ckpt", {"other.weight": np.zeros(3, np.float32)})
    for load in (lambda: load_network(model, path, "pre_trained"), lambda: load_backbone(model, path)):
        with pytest.raises(UserError, match="no parameter"):
            load()


@pytest.mark.parametrize(
    "entries, left_out",
    [
        (["network.multi_box"], "multi_box."),
        (["multi_box"], "multi_box."),
        (["cls_layers"], "multi_box.cls_layers."),
        (
            ["fpn_convs_list.1", "loc_layers.0.bias"],
            ("feature_extractor.fpn.fpn_convs_list.1.", "multi_box.loc_layers.0.b"),
        ),
        (["network.feature_extractor.res"], "feature_extractor.resnet."),
    ],
)
@pytest.mark.parametrize("prefix", ["network.", ""])
def test_filter_list_entries_are_parts_of_names(model, tmp_path, log_lines, entries, left_out, prefix):
    """As published: what contains an entry is not loaded."""
    before = values(model)
    path = write(tmp_path / "a.ckpt", {prefix + name: value + 1 for name, value in before.items()})
    load_network(model, path, "pre_trained", entries)
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name] if name.startswith(left_out) else before[name] + 1)
    assert log_lines() and not any("checkpoint_filter_list" in line for line in log_lines())


def test_an_entry_that_matches_nothing_is_named(model, tmp_path, log_lines):
    path = write(tmp_path / "a.ckpt", {"network." + name: value for name, value in values(model).items()})
    load_network(model, path, "pre_trained", [*PREDICTORS, "multibox", "moments"])
    lines = log_lines(logging.WARNING)
    named = [line for line in lines if line.startswith("checkpoint_filter_list: no name in")]
    assert len(named) == 2 and "contains 'multibox'" in named[0] and "contains 'moments'" in named[1]
    with pytest.raises(UserError, match="checkpoint_filter_list: .* leaves out all"):
        load_network(model, path, "pre_trained", ["network."])
