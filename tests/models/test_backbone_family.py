"""Backbone checkpoints of the other four networks: converted from torchvision, and published ones; which parameter is
loaded from which entry."""

import logging

import numpy as np
import pytest
from mindspore import Tensor, nn

from src.config import load_config
from src.models.backbone_convert import ARCHITECTURES, convert_state_dict
from src.models.build import build_model
from src.models.checkpoint_file import read_checkpoint, write_checkpoint
from src.models.mobilenet_v2 import SSDMobileNetV2
from src.models.vgg16 import SSDVGG16
from src.models.weights import load_backbone, load_network
from src.utils.errors import UserError
from tests.helpers import torchvision
from tests.helpers.programs import run

# numbers of the convolutions in a VGG16 classifier without and with BN; in torchvision `features` has the same
LAYERS = {
    False: (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    True: (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40),
}


@pytest.fixture(autouse=True)
def log(caplog, cfg256):
    """The log; MindSpore is set up."""
    caplog.set_level(logging.INFO, "ssd")
    return caplog


@pytest.fixture(scope="module")
def states():
    return {
        "MobileNetV2": torchvision.mobilenet_v2_state(),
        "VGG16": torchvision.vgg16_state(False),
        "VGG16-BN": torchvision.vgg16_state(True),
    }


def values(model):
    return {p.name: p.asnumpy().copy() for p in model.get_parameters()}


def write(path, entries):
    write_checkpoint(str(path), entries.items())
    return str(path)


def vgg16(has_bn=False, file_has_bn=False):
    return SSDVGG16(nn.Cell(), has_bn, file_has_bn, 19)


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "MobileNetV2",
            [
                "260 parameters, all that the MobileNetV2 backbone has",
                "54 of 314 entries were not used: 52 num_batches_tracked, classifier.1.weight, classifier.1.bias",
                "BN: gamma scaled for eps 1e-3",
                "--model_name=ssd300 (and --backbone_padding=symmetric for weights of PyTorch)",
            ],
        ),
        (
            "VGG16",
            [
                "13 parameters, all that the VGG16 backbone has",
                "6 of 32 entries were not used: classifier.0.weight, ",
                "13 more were not used: biases of the convolutions, which",
                "--model_name=ssd_vgg16 --pretrain_vgg_bn=False",
            ],
        ),
        (
            "VGG16-BN",
            [
                "13 parameters, all that the VGG16-BN backbone has",
                "19 of 97 entries were not used: 13 num_batches_tracked, classifier.0.weight, ",
                "65 more were not used: biases and BN of the convolutions, which",
                "--model_name=ssd_vgg16 --pretrain_vgg_bn=True",
            ],
        ),
    ],
)
def test_the_script_says_what_becomes_of_every_entry(states, tmp_path, name, words):
    source, target = tmp_path / "weights.npz", tmp_path / "weights.ckpt"
    np.savez(source, **states[name])
    options = ["--fold_eps"] if name == "MobileNetV2" else []
    done = run("scripts/convert_backbone.py", "--input", source, "--output", target, *options)
    assert done.returncode == 0, done.stderr
    for text in words:
        assert text in done.stdout
    want = convert_state_dict(states[name], "x", bool(options)).parameters
    got = read_checkpoint(str(target), "x")
    assert list(got) == list(want)
    for key in want:
        np.testing.assert_array_equal(got[key].asnumpy(), want[key])
    if name == "VGG16":
        refused = run("scripts/convert_backbone.py", "--input", source, "--output", target, "--fold_eps")
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "--fold_eps" in refused.stderr


def test_names_are_those_of_the_classifiers(states, reference):
    """MobileNetV2: every parameter of the published backbone but the second expansion; VGG16: the table's numbers."""
    shapes = {architecture.name: architecture.shapes for architecture in ARCHITECTURES}
    rows = {name: tuple(shape) for name, shape, *_ in reference("family/ssd300/params.json")["eval_net"]}
    published = {}
    for name, shape in rows.items():
        part, _, rest = name.partition("network.backbone.")[2].partition(".")
        if part in ("features_1", "features_2"):
            number, _, rest = rest.partition(".")
            published[f"features.{int(number) + 14 * (part == 'features_2')}.{rest}"] = shape
    assert shapes["MobileNetV2"] == published
    for has_bn, name in ((False, "VGG16"), (True, "VGG16-BN")):
        assert list(shapes[name]) == [f"layers.{number}.weight" for number in LAYERS[has_bn]]
        converted = convert_state_dict(states[name], "x").parameters
        for key, value in converted.items():
            np.testing.assert_array_equal(value, states[name][key.replace("layers", "features")])


def test_published_names_pass(states):
    """A MindSpore file has the names of the result, VGG16's biases and BN too."""
    plain = convert_state_dict(states["MobileNetV2"], "x").parameters
    published = {"network.backbone." + name: value for name, value in plain.items()}
    published["head.head.1.weight"] = np.zeros((1000, 1280))
    again = convert_state_dict(published, "x")
    assert again.unused == ["head.head.1.weight"]
    assert all((again.parameters[name] == plain[name]).all() for name in plain)
    vgg = convert_state_dict(states["VGG16-BN"], "x").parameters
    bn = {f"layers.1.{kind}": np.ones(64) for kind in ("gamma", "beta", "moving_mean", "moving_variance")}
    result = convert_state_dict({**vgg, **bn, "layers.0.bias": np.ones(64), "classifier.6.bias": np.ones(9)}, "x")
    assert (len(result.unread), result.unused) == (5, ["classifier.6.bias"])


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("MobileNetV2", lambda s: s.pop("features.7.conv.3.running_var"), "1 of 260 parameters missing, first feat"),
        (
            "MobileNetV2",
            lambda s: s.update({"features.19.0.weight": np.zeros(1)}),
            "1 extra parameters, first features.",
        ),
        (
            "MobileNetV2",
            lambda s: s.update({"features.0.0.weight": np.zeros((48, 3, 3, 3))}),
            "features.0.features.0.weight has shape (48, 3, 3, 3), MobileNetV2's is (32, 3, 3, 3)",
        ),
        (
            "MobileNetV2",
            lambda s: s.update({"features.18.features.1.gamma": np.zeros(1280)}),
            "two entries become features.18.features.1.gamma",
        ),
        (
            "VGG16",
            lambda s: s.pop("features.28.weight"),
            "x.npz is not a VGG16: 1 of 13 parameters missing, first layers.28",
        ),
        (
            "VGG16",
            lambda s: s.update({"features.30.weight": np.zeros(1)}),
            "x.npz is not a VGG16: it has 1 extra parameters",
        ),
        ("VGG16-BN", lambda s: s.pop("features.40.weight"), "is not a VGG16-BN: 1 of 13 parameters missing"),
        ("VGG16-BN", lambda s: s.update({"features.0.weight": np.full((64, 3, 3, 3), np.inf)}), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(states, name, change, words):
    state = dict(states[name])
    change(state)
    with pytest.raises(UserError) as error:
        convert_state_dict(state, "x.npz")
    assert words in str(error.value)


def test_other_files_are_refused():
    for state, words in (
        ({}, "none of its 0 parameter names belongs to ResNet50, MobileNetV2, VGG16, VGG16-BN$"),
        ({"blocks.0.weight": np.zeros(1)}, "its 1 parameter names belongs to .*; the first is blocks.0.weight"),
        ({"network.0.0.weight": np.zeros((32, 3, 3, 3))}, "MobileNetV1, which feature_extractor_base_param reads"),
    ):
        with pytest.raises(UserError, match=words):
            convert_state_dict(state, "x.npz")


def compare(features, wanted):
    for feature, want in zip(features, wanted):
        assert feature.shape == want.shape
        assert 0.01 < want.std() < 1e3
        # float32 sums in another order
        assert np.abs(feature.asnumpy() - want).max() / want.std() < 2e-3


def test_features_of_mobilenet_v2_equal_torchvisions(states, tmp_path, log):
    """With symmetric padding and folded eps, on a size of which "same" padding gives others."""
    path = write(tmp_path / "a.ckpt", convert_state_dict(states["MobileNetV2"], "x", fold_eps=True).parameters)
    network = SSDMobileNetV2(nn.Cell(), [], symmetric=True).set_train(False)
    load_backbone(network, path)
    assert "265 of 265 parameters loaded" in log.text and "0 left out, 0 missing" in log.text
    image = np.random.default_rng(1).normal(size=(1, 3, 64, 64)).astype(np.float32)
    compare(network.backbone(Tensor(image)), torchvision.mobilenet_v2_features(states["MobileNetV2"], image))


@pytest.mark.parametrize("has_bn", [False, True])
def test_features_of_vgg16(states, tmp_path, has_bn):
    """40 pixels make an odd map, whose last row the pooling keeps."""
    state = states["VGG16-BN" if has_bn else "VGG16"]
    path = write(tmp_path / "a.ckpt", convert_state_dict(state, "x").parameters)
    network = vgg16(file_has_bn=has_bn).set_train(False)
    load_backbone(network, path)
    image = np.random.default_rng(1).normal(size=(1, 3, 40, 40)).astype(np.float32)
    compare(network.backbone(Tensor(image)), torchvision.vgg16_features(state, has_bn, image))


@pytest.fixture(scope="module")
def vgg16_files(tmp_path_factory):
    """Published VGG16 files without and with BN, whose number k convolution is full of k + 1."""
    paths, folder = {}, tmp_path_factory.mktemp("vgg16")
    for has_bn, name in ((False, "VGG16"), (True, "VGG16-BN")):
        shapes = next(architecture.shapes for architecture in ARCHITECTURES if architecture.name == name)
        entries = {key: np.full(shape, k + 1, np.float32) for k, (key, shape) in enumerate(shapes.items())}
        entries["layers.0.bias"] = np.ones(64, np.float32)
        entries["classifier.0.weight"] = np.ones((2, 2), np.float32)
        entries.update({"layers.1.gamma": np.full(64, 9, np.float32)} if has_bn else {})
        paths[has_bn] = write(folder / f"{name}.ckpt", entries)
    return paths


@pytest.mark.parametrize("has_bn", [False, True])
@pytest.mark.parametrize("file_has_bn", [False, True])
def test_both_numberings_of_vgg16(vgg16_files, log, has_bn, file_has_bn):
    """`pretrain_vgg_bn` is about the file, `ssd_vgg_bn` about the network; BN of the file is not read."""
    model = vgg16(has_bn, file_has_bn)
    before = values(model)
    load_backbone(model, vgg16_files[file_has_bn])
    after, places = values(model), (0, 3, 6) if has_bn else (0, 2, 4)
    names = [f"backbone.b{b}.{place}.weight" for b, n in enumerate((2, 2, 3, 3, 3), 1) for place in places[:n]]
    for k, name in enumerate(names):
        assert (after.pop(name) == k + 1).all()
    for name, value in after.items():
        np.testing.assert_array_equal(value, before[name])
    left_out, missing = 3 if file_has_bn else 2, 52 if has_bn else 0
    assert f"13 of {13 + missing} parameters loaded" in log.text
    assert f"{left_out} left out, {missing} missing" in log.text and "layers.0.bias (64,) in the file" in log.text


@pytest.mark.parametrize("file_has_bn", [False, True])
def test_the_other_numbering_is_refused(vgg16_files, file_has_bn):
    model = vgg16(file_has_bn=not file_has_bn)
    before = values(model)
    with pytest.raises(UserError, match=r"backbone\.b2\.[02]\.weight has shape .*does pretrain_vgg_bn say whether"):
        load_backbone(model, vgg16_files[file_has_bn])
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name])


def config(name, *options):
    return load_config([f"--model_name={name}", "--device_target=CPU", "--use_float16=False", *options])


@pytest.mark.parametrize("name", ["ssd_mobilenet_v1_fpn", "ssd_mobilenet_v1"])
def test_a_mobilenet_v1_classifier(tmp_path, log, reference, name):
    """The published file as it is; `fc` is left over, a missing name is said."""
    prefix = "feature_extractor.mobilenet_v1."
    rows = reference(f"family/{name}/params.json")["eval_net"]
    rows = [(row[0].partition(prefix)[2], row[1]) for row in rows if prefix in row[0]]
    entries = {key: np.full(shape, k + 1, np.float32) for k, (key, shape) in enumerate(rows)}
    entries.update({"fc.weight": np.ones((3, 1024), np.float32), "fc.bias": np.ones(3, np.float32)})
    assert len(rows) == 135
    model = build_model(config(name))
    load_backbone(model, write(tmp_path / "a.ckpt", entries))
    assert "135 of 135 parameters loaded" in log.text and "2 left out, 0 missing" in log.text
    assert "fc.weight (3, 1024) in the file" in log.text
    for key, value in values(model).items():
        assert not key.startswith(prefix) or (value == entries[key[len(prefix) :]]).all()
    log.clear()
    model, gone = build_model(config(name)), "network.26.1.gamma"
    before = values(model)
    load_backbone(model, write(tmp_path / "a.ckpt", {key: entries[key] for key in entries if key != gone}))
    assert "134 of 135 parameters loaded" in log.text and "2 left out, 1 missing" in log.text
    assert f"not in the file: {prefix}{gone}" in log.text
    for key, value in values(model).items():
        loaded = key.startswith(prefix) and key != prefix + gone
        np.testing.assert_array_equal(value, entries[key[len(prefix) :]] if loaded else before[key])


def test_a_mobilenet_v2_classifier(states, tmp_path, log):
    """The expansion of block 14 is loaded twice; the second list continues the numbers of the first."""
    entries = convert_state_dict(states["MobileNetV2"], "x").parameters
    model = SSDMobileNetV2(nn.Cell(), [], symmetric=False)
    gone = "features.14.conv.0.features.1.gamma"
    part = {"backbone." + key: value for key, value in entries.items() if key != gone}
    load_backbone(model, write(tmp_path / "a.ckpt", part))
    assert "263 of 265 parameters loaded" in log.text and "0 left out, 2 missing" in log.text
    got = values(model)
    second = "backbone.features_2.0.conv.0.features.1.gamma", "backbone.expand_layer_conv_13.features.1.gamma"
    assert all(name in log.text and (got[name] == 1).all() for name in second)
    for kind in ("0.weight", "1.beta", "1.moving_mean", "1.moving_variance"):
        want = entries[f"features.14.conv.0.features.{kind}"]
        for place in ("expand_layer_conv_13", "features_2.0.conv.0"):
            np.testing.assert_array_equal(got[f"backbone.{place}.features.{kind}"], want)
    for ours, name in (("features_1.13.conv.3.beta", "features.13.conv.3.beta"), ("features_1.1.conv.1.weight",) * 2):
        np.testing.assert_array_equal(got["backbone." + ours], entries[name.replace("features_1", "features")])
    last = "features.0.weight"
    np.testing.assert_array_equal(got["backbone.features_2.4." + last], entries["features.18." + last])


def test_filter_list_leaves_out_all_predictors(tmp_path, log):
    """The list of the published file, with another number of classes."""
    large = build_model(config("ssd300"))
    entries = {"network." + name: value + 1 for name, value in values(large).items()}
    moments = {f"moments.{p.name}": np.ones(p.shape, np.float32) for p in large.trainable_params()}
    cfg = config("ssd300", "--classes=[background, cat, dog]", "--num_classes=3")
    assert cfg.checkpoint_filter_list == ["multi_loc_layers", "multi_cls_layers"]
    model = build_model(cfg)
    before = values(model)
    load_network(
        model,
        write(tmp_path / "a.ckpt", {**entries, **moments}),
        "pre_trained",
        cfg.checkpoint_filter_list,
        classes=cfg.classes,
    )
    predictors = [name for name in before if name.startswith(("multi_box.multi_loc_", "multi_box.multi_cls_"))]
    assert len(before) == 409 and len(predictors) == 84
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name] if name in predictors else entries["network." + name])
    assert "325 of 409 parameters loaded" in log.text and f"{84 + len(moments)} left out, 84 missing" in log.text
    with pytest.raises(UserError, match="multi_box.multi_cls_layers.* has shape .*--filter_weight=True"):
        load_network(model, str(tmp_path / "a.ckpt"), "pre_trained", classes=cfg.classes)
