"""The ten YAML files of the published scripts, unchanged (their keys and values are in tests/reference)."""

import pytest
import yaml

from src.config import SCHEMA_FILE, load_config
from src.utils.errors import UserError
from tests.helpers.configuration import notes, refusal

OURS = ("ssd_resnet50_fpn_config.yaml", "ssd_resnet50_fpn_config_gpu.yaml")
WITHOUT_EFFECT = (
    "enable_modelarts, data_url, train_url, checkpoint_url, load_path, ssd_vgg_bn, pretrain_vgg_bn, "
    "extras_in_channels, extras_strides, extras_ratio, result_path, img_path, drop, min_scale, max_scale, aspect_ratios"
)


@pytest.fixture(scope="module")
def published(reference, tmp_path_factory):
    """(contents by file name, folder of the files, with help texts and choices as further documents)."""
    contents, folder = reference("published_configs.json"), tmp_path_factory.mktemp("published")
    for name, content in contents.items():
        texts = {key: f"meaning of {key}" for key in content}
        choices = {"device_target": ["Ascend", "GPU", "CPU"], "freeze_layer": ["None", "backbone"]}
        path = folder / name
        path.write_text("\n---\n".join(yaml.safe_dump(part, sort_keys=False) for part in (content, texts, choices)))
    return contents, folder


@pytest.mark.parametrize("name", OURS)
def test_files_of_this_network_load_as_they_stand(published, name):
    contents, folder = published
    cfg = load_config([f"--config_path={folder / name}"])
    for key, value in contents[name].items():
        if key in ("freeze_layer", "num_ssd_boxes"):  # the text None; -1 means computed
            assert (cfg.freeze_layer, cfg.num_ssd_boxes) == (None, 51150)
        elif key in cfg:
            assert cfg[key] == value, key
    assert notes(f"--config_path={folder / name}") == [f"keys without effect here: {WITHOUT_EFFECT}"]


@pytest.mark.parametrize("name", OURS)
def test_their_keys_are_options_too(published, name):
    content = dict(published[0][name])
    options = [f"--{key}={value}" for key, value in content.items()]
    cfg = load_config(options)
    assert cfg.batch_size == content["batch_size"] and cfg.use_float16 == content["use_float16"]
    assert notes(*options)[0] == f"keys without effect here: {WITHOUT_EFFECT}"


def test_our_ascend_file_is_the_published_one(published):
    theirs, ours = (
        load_config([f"--config_path={path}"])
        for path in (published[1] / OURS[0], SCHEMA_FILE.replace("_gpu.yaml", "_ascend.yaml"))
    )
    differing = {key for key in theirs if theirs[key] != ours[key]}
    assert differing <= {"config_path", "voc_root", "aspect_ratios"}, differing
    assert (ours.batch_size, ours.use_float16) == (32, True)


def test_other_networks_are_one_line_whatever_else_the_file_holds(published, tmp_path):
    contents, folder = published
    others = sorted(set(contents) - set(OURS))
    assert len(others) == 8
    for name in others:
        line = refusal(f"--config_path={folder / name}")
        assert contents[name]["model_name"] in line and "model_name must be ssd_resnet50_fpn" in line
    # a key twice, as extras_strides in a published file; keys that do not exist; wrong types; no data anywhere
    (tmp_path / "x.yaml").write_text("lr: a\nlr: b\nmodel_name: ssd300\nno_such_key: 1\nimg_shape: [300, 300]\n")
    assert "model_name must be" in refusal(f"--config_path={tmp_path / 'x.yaml'}")
    assert "model_name must be" in refusal("--model_name=ssd300", "--data_path=/no/such/folder")
    assert "model_name must be" in refusal("--model_name=[1]")


@pytest.mark.parametrize("key", ["enable_modelarts", "ssd_vgg_bn", "pretrain_vgg_bn"])
def test_a_value_that_asks_for_something_is_refused(key, tmp_path):
    assert f"{key} is True" in refusal(f"--{key}=True")
    (tmp_path / "x.yaml").write_text(f"{key}: True\n")
    assert f"{key} is True" in refusal(f"--config_path={tmp_path / 'x.yaml'}")


@pytest.mark.parametrize(
    "option", ["--extras_ratio=0.2", "--extras_strides=[a]", "--drop=2", "--global_step=x", "--enable_modelarts=maybe"]
)
def test_their_types_are_checked(option):
    with pytest.raises(UserError, match=option[2:].split("=")[0]):
        load_config([option])
