"""The ten YAML files of the published scripts, unchanged (their keys and values are in tests/reference)."""

import pytest
import yaml

from src.config import load_config
from tests.helpers.configuration import notes, refusal

NAMES = (
    "ssd300_config.yaml",
    "ssd300_config_gpu.yaml",
    "ssd_mobilenet_v1_300_config_gpu.yaml",
    "ssd_mobilenet_v1_fpn_ONNX_config.yaml",
    "ssd_mobilenet_v1_fpn_config.yaml",
    "ssd_mobilenet_v1_fpn_config_gpu.yaml",
    "ssd_resnet50_fpn_config.yaml",
    "ssd_resnet50_fpn_config_gpu.yaml",
    "ssd_vgg16_config.yaml",
    "ssd_vgg16_config_gpu.yaml",
)
BOXES = {"ssd300": 1917, "ssd_mobilenet_v1": 1917, "ssd_vgg16": 7308}
WITHOUT_EFFECT = "enable_modelarts, data_url, train_url, checkpoint_url, load_path, result_path, img_path, drop"
# of each network, those keys of the other networks that its files hold
UNREAD = {
    "ssd_resnet50_fpn": "extras_in_channels, extras_strides, extras_ratio, ssd_vgg_bn, pretrain_vgg_bn, min_scale, "
    "max_scale, aspect_ratios",
    "ssd300": "ssd_vgg_bn, pretrain_vgg_bn",
    "ssd_mobilenet_v1": "num_addition_layers, extras_ratio, ssd_vgg_bn, pretrain_vgg_bn",
    "ssd_vgg16": "extras_in_channels, extras_strides, extras_ratio",
}
UNREAD["ssd_mobilenet_v1_fpn"] = UNREAD["ssd_resnet50_fpn"]


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


def unread(content):
    more = ", global_step" if "global_step" in content else ""
    return f"keys without effect here: {WITHOUT_EFFECT}{more}, {UNREAD[content['model_name']]}"


@pytest.mark.parametrize("name", NAMES)
def test_files_load_as_they_stand(published, name):
    contents, folder = published
    assert sorted(contents) == sorted(NAMES)
    cfg = load_config([f"--config_path={folder / name}"])
    for key, value in contents[name].items():
        if key in ("freeze_layer", "num_ssd_boxes"):  # the text None; -1 means computed
            assert (cfg.freeze_layer, cfg.num_ssd_boxes) == (None, BOXES.get(cfg.model_name, 51150))
        elif key in cfg:
            assert cfg[key] == value, key
    # what a file leaves out was False in the published scripts
    for key in ("use_float16", "use_anchor_generator", "use_global_norm"):
        assert cfg[key] == contents[name].get(key, False), key
    assert notes(f"--config_path={folder / name}") == [unread(contents[name])]


@pytest.mark.parametrize("name", NAMES)
def test_their_keys_are_options_too(published, name):
    content = dict(published[0][name])
    options = [f"--{key}={value}" for key, value in content.items()]
    cfg = load_config(options)
    assert cfg.batch_size == content["batch_size"] and cfg.use_float16 == content.get("use_float16", cfg.use_float16)
    assert notes(*options)[0].startswith(f"keys without effect here: {WITHOUT_EFFECT}")


@pytest.mark.parametrize("name", NAMES)
def test_our_file_is_the_published_one(published, name):
    theirs, ours = (load_config([f"--config_path={path}"]) for path in (published[1] / name, f"config/{name}"))
    # voc_root is below data_path here; FPN networks do not read aspect_ratios
    free = {"config_path", "voc_root"} | ({"aspect_ratios"} if ours.use_anchor_generator else set())
    free |= {key for key in UNREAD[ours.model_name].split(", ") if key.startswith("extras_")}
    assert {key for key in theirs if theirs[key] != ours[key]} <= free
    assert notes(f"--config_path=config/{name}") == []


def test_a_network_has_its_own_defaults(tmp_path):
    """Where a configuration is named neither by a file nor completely by options."""
    cfg = load_config(["--model_name=ssd300"])
    assert cfg.config_path.endswith("config/ssd300_config_gpu.yaml") and cfg.num_ssd_boxes == 1917
    (tmp_path / "x.yaml").write_text("model_name: ssd_vgg16\nbatch_size: 4\n")
    cfg = load_config([f"--config_path={tmp_path / 'x.yaml'}"])
    assert (cfg.num_ssd_boxes, cfg.alpha, cfg.batch_size, cfg.min_scale) == (7308, 0.75, 4, 0.1)
    line = refusal("--config_path=config/ssd300_config_gpu.yaml", "--model_name=ssd_vgg16")
    assert "model_name ssd_vgg16" in line and "--config_path=config/ssd_vgg16_config_gpu.yaml" in line
    # networks with the same maps and head may share a file
    shared = ["--config_path=config/ssd_resnet50_fpn_config_gpu.yaml", "--model_name=ssd_mobilenet_v1_fpn"]
    assert load_config(shared).weight_decay == 0.0004


def test_a_name_that_is_no_network(tmp_path):
    (tmp_path / "x.yaml").write_text("lr: a\nlr: b\nmodel_name: ssd512\nno_such_key: 1\nimg_shape: [300, 300]\n")
    for line in (refusal(f"--config_path={tmp_path / 'x.yaml'}"), refusal("--model_name=ssd512", "--data_path=/no")):
        assert "model_name must be one of ssd_resnet50_fpn, " in line and "'ssd512'" in line
    assert "model_name must be" in refusal("--model_name=[1]")


def test_a_key_twice_with_one_value(tmp_path):
    """As extras_strides in a published file."""
    strides = "extras_strides: [1, 1, 2, 2, 2, 2]\n"
    (tmp_path / "x.yaml").write_text(f"model_name: ssd_mobilenet_v1\n{strides}{strides}")
    assert load_config([f"--config_path={tmp_path / 'x.yaml'}"]).extras_strides == [1, 1, 2, 2, 2, 2]
    (tmp_path / "x.yaml").write_text(f"model_name: ssd_mobilenet_v1\n{strides}extras_strides: [1, 1, 2, 2, 2, 1]\n")
    assert "'extras_strides' is given twice" in refusal(f"--config_path={tmp_path / 'x.yaml'}")


@pytest.mark.parametrize("key", ["enable_modelarts", "ssd_vgg_bn", "pretrain_vgg_bn"])
def test_a_value_that_asks_for_something_is_refused(key, tmp_path):
    assert f"{key} is True" in refusal(f"--{key}=True")
    (tmp_path / "x.yaml").write_text(f"{key}: True\n")
    assert f"{key} is True" in refusal(f"--config_path={tmp_path / 'x.yaml'}")


SSD300 = "--model_name=ssd300"


@pytest.mark.parametrize(
    "options, words",
    [
        ([SSD300, "--img_shape=[300, 320]"], "use a square image"),
        ([SSD300, "--feature_size=[19, 10, 5, 3, 2, 2]"], "have [19, 10, 5, 3, 2, 1] cells along the longer side"),
        (
            [SSD300, "--num_ssd_boxes=1638"],
            "num_ssd_boxes is 1638, but img_shape, model_name and num_default give 1917",
        ),
        ([SSD300, "--num_default=[6, 6, 6, 6, 6, 6]"], "aspect_ratios[0] = [] gives 3"),
        ([SSD300, "--steps=[16, 32]"], "steps has 2 entries, but ssd300 has 6 levels"),
        ([SSD300, "--extras_out_channels=[576, 1280, 512, 256, 256, 64]"], "the levels of ssd300 have [576, 1280,"),
        ([SSD300, "--extras_in_channels=[256, 576, 1280, 512, 256, 128]"], "extras_in_channels: from its third entry"),
        ([SSD300, "--extras_strides=[1, 1, 2, 2, 2, 1]"], "extras_strides: each level of ssd300"),
        ([SSD300, "--extras_ratio=[0.2]"], "extras_ratio has 1 entries, but ssd300 has 6 levels"),
        ([SSD300, "--use_anchor_generator=True"], "num_default is [3, 6, 6, 6, 6, 6], but the anchor generator"),
        (["--model_name=ssd_vgg16", "--img_shape=[256, 256]"], "ssd_vgg16 needs at least 257 pixels"),
        (["--model_name=ssd_vgg16", "--backbone_padding=symmetric"], "ssd_vgg16 has no such option"),
        (["--model_name=ssd_mobilenet_v1_fpn", "--img_shape=[300, 300]"], "multiples of the largest step 128"),
    ],
)
def test_keys_that_contradict_the_network(options, words):
    assert words in refusal(*options)


@pytest.mark.parametrize("side, maps, steps", [
    (128, [8, 4, 2, 1, 1, 1], [16, 32, 64, 128, 128, 128]),
    (300, [19, 10, 5, 3, 2, 1], [16, 32, 64, 100, 150, 300]),
    (512, [32, 16, 8, 4, 2, 1], [16, 32, 64, 128, 256, 512]),
])  # fmt: skip
def test_grids_of_another_image_size(side, maps, steps):
    """Steps that are not given place the boxes of each level evenly over the image."""
    cfg = load_config([SSD300, f"--img_shape=[{side}, {side}]"])
    assert (cfg.feature_size, cfg.steps) == (maps, steps)
    assert notes(SSD300, f"--img_shape=[{side}, {side}]") == []
    published = "[16, 32, 64, 100, 150, 300]"
    given = notes(SSD300, f"--img_shape=[{side}, {side}]", f"--steps={published}")
    assert given == [] if side == 300 else f"evenly, as {steps} would" in given[0]
