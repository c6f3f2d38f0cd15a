"""torchvision's ResNet50 weights: every parameter accounted for, and C3..C5 equal an independent forward pass."""

import os

import numpy as np
import pytest
from mindspore import Tensor

from src.models.backbone_convert import ARCHITECTURES, convert_state_dict
from src.models.fpn import FeatureExtractor
from src.models.resnet import ResNet50
from src.models.ssd import SSD
from src.models.weights import load_backbone
from src.utils.errors import UserError
from tests.disks import small_disk
from tests.helpers.programs import run
from tests.helpers.torchvision import resnet50_features, resnet50_state


def script(*words):
    return run("scripts/convert_backbone.py", *words)


def test_names_are_the_networks(reference):
    start = "network.feature_extractor.resnet."
    rows = reference("params.json")
    text = str(rows)
    ours = ARCHITECTURES[0].shapes
    assert len(ours) == 265 and all(start + name in text for name in ours)
    assert text.count("'" + start) + text.count('"' + start) >= 265


@pytest.fixture(scope="module")
def converted(tmp_path_factory, cfg256):
    """The checkpoint that the script makes of a torchvision state dict, and the state dict."""
    folder = tmp_path_factory.mktemp("backbone")
    state = resnet50_state()
    np.savez(folder / "resnet50.npz", **state)
    done = script("--input", folder / "resnet50.npz", "--output", folder / "resnet50.ckpt", "--fold_eps")
    assert done.returncode == 0, done.stderr
    assert "265 parameters" in done.stdout
    assert "55 of 320 entries were not used" in done.stdout and "fc.weight" in done.stdout
    return folder / "resnet50.ckpt", state


class Backbone(SSD):
    """The backbone with its name in the network."""

    def __init__(self, symmetric):
        super().__init__("feature_extractor.resnet.")
        self.feature_extractor = FeatureExtractor(ResNet50(symmetric), "resnet")


@pytest.mark.parametrize(
    "size, symmetric, equal", [(96, True, True), (97, True, True), (97, False, True), (96, False, False)]
)
def test_features_equal_torchvisions(converted, size, symmetric, equal):
    """With odd sizes (97, 49, 25, 13, 7) "same" pads symmetrically; with even sizes it does not."""
    path, state = converted
    network = Backbone(symmetric).set_train(False)
    load_backbone(network, str(path))
    image = np.random.default_rng(1).normal(size=(1, 3, size, size)).astype(np.float32)
    got = [feature.asnumpy() for feature in network.feature_extractor.resnet(Tensor(image))]
    for feature, want in zip(got, resnet50_features(state, image)):
        assert feature.shape == want.shape
        assert 0.01 < want.std() < 1e5
        far = np.abs(feature - want).max() / want.std()
        # other order of float32 sums over 50 layers: 1e-4; the other padding: as large as the features
        assert far < 2e-3 if equal else far > 0.3


def test_eps_is_folded_or_left(converted):
    state = converted[1]
    result = convert_state_dict(state, "x")
    plain, folded = result.parameters, convert_state_dict(state, "x", fold_eps=True).parameters
    assert result.architecture.name == "ResNet50" and len(result.unused) == 55 and not result.unread
    np.testing.assert_array_equal(plain["bn1.gamma"], state["bn1.weight"])
    variance = state["bn1.running_var"].astype(np.float64)
    np.testing.assert_allclose(
        folded["bn1.gamma"] / np.sqrt(variance + 1e-3), state["bn1.weight"] / np.sqrt(variance + 1e-5), rtol=1e-5
    )
    np.testing.assert_array_equal(
        folded["layer4.0.down_sample_layer.1.moving_variance"], state["layer4.0.downsample.1.running_var"]
    )


def test_the_published_names_pass(converted):
    """resnet50.ckpt of MindSpore's model zoo: our names, and `end_point` for the classifier."""
    plain = convert_state_dict(converted[1], "x").parameters
    published = dict(plain, **{"end_point.weight": np.zeros((1001, 2048)), "moments.conv1.weight": np.zeros(1)})
    again = convert_state_dict(published, "x")
    assert sorted(again.unused) == ["end_point.weight", "moments.conv1.weight"]
    assert all((again.parameters[name] == plain[name]).all() for name in plain)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop("layer3.5.bn2.running_mean"), "1 of 265 parameters missing, first layer3.5.bn2.moving_mean"),
        (lambda s: s.update({"layer3.6.conv1.weight": np.zeros((256, 1024, 1, 1))}), "first layer3.6.conv1.weight"),
        (lambda s: s.update({"conv1.weight": np.zeros((64, 3, 3, 3))}), "(64, 3, 3, 3), ResNet50's is (64, 3, 7, 7)"),
        (lambda s: s["bn1.bias"].__setitem__(3, np.nan), "not finite"),
        (lambda s: s.update({"module.conv1.weight": s["conv1.weight"]}), "two entries become conv1.weight"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    state = resnet50_state()
    change(state)
    with pytest.raises(UserError) as error:
        convert_state_dict(state, "x.npz")
    assert words in str(error.value)


@pytest.mark.parametrize("name, content", [("a.npz", b"PK\x03\x04 no archive"), ("a.bin", b"x"), ("none.npz", None)])
def test_bad_files(tmp_path, name, content):
    if content:
        (tmp_path / name).write_bytes(content)
    done = script("--input", tmp_path / name, "--output", tmp_path / "out.ckpt")
    assert done.returncode == 2 and done.stderr.startswith("error: --input") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out.ckpt").exists()


def test_targets_that_cannot_be_written(converted, tmp_path):
    weights, _ = converted
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "file").write_text("x")
    before = weights.read_bytes()
    for target, words in (
        (tmp_path / "folder.ckpt", "is a folder"),
        (tmp_path / "file" / "a.ckpt", "cannot write to"),
        (tmp_path / "a.bin", "must end in .ckpt"),
        (weights, "the file is the same as --input"),
    ):
        done = script("--input", weights, "--output", target)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert weights.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["file", "folder.ckpt"]
    assert "is a folder; name the file" in script("--input", tmp_path, "--output", tmp_path / "a.ckpt").stderr
    with small_disk(tmp_path / "disk", 20_000) as disk:
        with open(f"{disk}/a.ckpt", "w", encoding="utf-8") as handle:
            handle.write("older")
        done = script("--input", weights.with_suffix(".npz"), "--output", f"{disk}/a.ckpt")
        assert done.returncode == 1 and "a.ckpt" in done.stderr.splitlines()[-1] and "Trace" not in done.stderr
        assert os.listdir(disk) == ["a.ckpt"] and os.path.getsize(f"{disk}/a.ckpt") == 5
