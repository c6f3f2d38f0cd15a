"""docs/reference.md: its tables of the five networks are what the published parameters and the code say."""

import itertools
import re

import mindspore
import numpy as np
import pytest
import yaml
from mindspore import Tensor

from src.boxes.default_boxes import build_default_boxes
from src.config import NETWORKS, load_config
from src.models.build import build_model
from src.models.vgg16 import Dropout
from tests.helpers.reference_page import SECTIONS, SENTENCES, assert_shown, numbers, rows

FOLDERS = {name: "" if name == "ssd_resnet50_fpn" else f"family/{name}/" for name in NETWORKS}
MOBILE = "network.feature_extractor.mobilenet_v1.network."


def config(name, *options):
    return load_config([f"--model_name={name}", "--device_target=CPU", *options])


@pytest.fixture
def shapes(reference):
    """name of a network -> {name of a parameter: shape}, published."""
    return lambda name: {row[0]: row[1] for row in reference(FOLDERS[name] + "params.json")["eval_net"]}


def integers(text):
    return [int(number) for number in numbers(text)]


def test_networks():
    table = {row[0]: row[1:] for row in rows("The five networks", "network | image")}
    assert list(table) == [name for name in NETWORKS if name != "ssd_vgg16"] + ["ssd_vgg16"]
    for name, (image, maps, channels, per_cell, boxes, _, head) in table.items():
        cfg, network = config(name), NETWORKS[name]
        assert cfg.img_shape == [int(image)] * 2 and cfg.feature_size == integers(maps)
        assert network.map_sides(int(image)) == integers(maps)
        assert channels == "256 each" if network.channels is None else list(network.channels) == integers(channels)
        assert set(cfg.extras_out_channels) == {256} or cfg.extras_out_channels == integers(channels)
        assert cfg.num_default == integers(per_cell) and cfg.num_ssd_boxes == int(boxes)
        assert ("shared" in head) == network.has_shared_head


def test_sizes(reference):
    for name, *cells in rows("The five networks", "network | tensors"):
        params = reference(FOLDERS[name] + "params.json")
        trained = {row[0]: int(np.prod(row[1])) for row in params["eval_net"] if row[3]}
        steady = [key for key in trained if "gamma" in key or "beta" in key]
        wanted = [len(params["eval_net"]), len(trained), len(steady), sum(trained.values()), len(params["checkpoint"])]
        assert [int(cell) for cell in cells] == wanted, name
        assert wanted[-1] == wanted[0] + wanted[1] + 3


@pytest.mark.parametrize("name", NETWORKS)
def test_order_of_the_parameters(shapes, name):
    order = {row[0]: row[1] for row in rows("Parameter names", "network")}[name]
    parts = re.findall(r"[\w.]+\w", order.replace(" to ", ", "))
    if name == "ssd_vgg16":
        pairs = [f"b{number}_{part}" for number in range(6, 12) for part in (1, 2)]
        parts = [f"backbone.b{number}" for number in range(1, 6)] + [*pairs, "multi_box"]
        parts = [part for part in parts if part not in ("b6_2", "b7_2")]  # dropout
    found = []
    for key in shapes(name):
        part = next(part for part in parts if key.startswith(f"network.{part}."))
        found += [part] if found[-1:] != [part] else []
    assert found == parts


def test_keys():
    for keys, *shown in rows("The five networks", "key"):
        for values, with_shared_head in zip(shown, (True, False)):
            words = [
                yaml.safe_load(word) for word in re.findall(r"True|False|\d[\d.]*", re.sub(r"\([^)]*\)", "", values))
            ]
            names = [name for name in NETWORKS if NETWORKS[name].has_shared_head == with_shared_head]
            for name, key in itertools.product(names, re.findall(r"\w+", keys)):
                assert config(name)[key] in words, (name, key)
            if len(keys.split(", ")) == 2:
                assert [config(names[0])[key] for key in ("lr_init", "lr_end_rate")] == words


def test_grids_of_the_300_networks():
    networks, first = [], {}
    for cell, level, step, f, grid, boxes, start in rows("SSD300 layout", "networks"):
        networks = re.findall(r"\w+", cell) or networks
        for name in networks:
            cfg, k = config(name), int(level)
            assert (cfg.steps[k], grid) == (int(step), " x ".join([str(cfg.feature_size[k])] * 2))
            assert float(f) == 300 / cfg.steps[k] and int(boxes) == cfg.feature_size[k] ** 2 * cfg.num_default[k]
            assert int(start) == first.get(name, 0)
            first[name] = int(start) + int(boxes)
    assert first == {name: config(name).num_ssd_boxes for name in ("ssd300", "ssd_mobilenet_v1", "ssd_vgg16")}


def test_boxes_of_the_300_networks():
    cyxhw, yxyx = build_default_boxes(config("ssd300"))
    for index, values in rows("SSD300 layout", "index"):
        assert_shown(numbers(values), cyxhw[int(index)])
    assert "from -0.443 to 1.443" in SENTENCES
    np.testing.assert_allclose([yxyx.min(), yxyx.max()], [-0.443, 1.443], atol=5e-4)
    # the formulas of the page: the last box of each kind
    mean = np.sqrt(0.35 * 0.5)
    assert_shown(cyxhw[1682], [9.5 / 9.375, 9.5 / 9.375, mean, mean])
    scales = {config(name, f"--config_path=config/{name}_config{end}.yaml").min_scale: end
              for name, end in (("ssd_vgg16", ""), ("ssd_vgg16", "_gpu"))}  # fmt: skip
    assert scales == {0.2: "", 0.1: "_gpu"}
    assert "(0.1, 0.27, 0.44, 0.61, 0.78, 0.95, 1)" in SENTENCES
    assert_shown([0.1 + 0.85 * k / 5 for k in range(6)], [0.1, 0.27, 0.44, 0.61, 0.78, 0.95])


def test_steps_of_other_sizes():
    for side, cells, steps in rows("SSD300 layout", "side"):
        cfg = config("ssd300", f"--img_shape=[{side}, {side}]")
        assert (cfg.feature_size, cfg.steps) == (integers(cells), integers(steps))


def test_head_of_the_300_networks(shapes):
    listed = shapes("ssd300")
    head = {name: shape for name, shape in listed.items() if name.startswith("network.multi_box.")}
    assert len(head) == 84 and "84 tensors, 60 of them trainable" in SENTENCES
    parts = {part for _, names, *_ in rows("SSD300 head", "layer") for part in re.findall(r"\d\.\w+", names)}
    starts = [f"network.multi_box.multi_{kind}_layers.{level}." for kind in ("loc", "cls") for level in range(6)]
    assert set(head) == {start + part for start in starts for part in parts}
    cfg = config("ssd300")
    for level, (channels, boxes) in enumerate(zip(NETWORKS["ssd300"].channels, cfg.num_default)):
        for kind, columns in (("loc", 4), ("cls", 81)):
            start = f"network.multi_box.multi_{kind}_layers.{level}."
            assert head[start + "0.weight"] == [channels, 1, 3, 3]
            assert head[start + "3.weight"] == [boxes * columns, channels, 1, 1]


@pytest.mark.parametrize("name", ["ssd_mobilenet_v1_fpn", "ssd_mobilenet_v1"])
def test_mobilenet_v1(shapes, name):
    listed, total, numbered = shapes(name), 1, []
    for blocks, kernel, channels, at640, at300, stride in rows("MobileNetV1", "blocks"):
        before, after = integers(channels)
        total *= int(re.search(r"/ (\d)", kernel).group(1))
        assert int(stride) == total
        assert [integers(size) for size in (at640, at300)] == [[-(-side // total)] * 2 for side in (640, 300)]
        first, *pair = integers(blocks)
        depthwise = [before, 1, 3, 3] if pair else [after, before, 3, 3]
        assert listed[f"{MOBILE}{first}.0.weight"] == depthwise and f"{MOBILE}{first}.0.bias" not in listed
        if pair:
            assert listed[f"{MOBILE}{pair[0]}.0.weight"] == [after, before, 1, 1]
        numbered += [first, *pair]
    assert numbered == list(range(27)) and f"{MOBILE}27.0.weight" not in listed
    assert len([key for key in listed if key.startswith(MOBILE)]) == 135


def test_extra_levels(shapes):
    """Channels of levels 1 to 5, and hidden ones, as the two sections write them."""
    chain = re.search(r"(1024 -> 512 -> [\d >-]+), all of stride 2", SENTENCES).group(1)
    for name, text, path in (
        ("ssd_mobilenet_v1", chain, "network.multi_residual.{}.features.0.weight"),
        ("ssd300", "1280 -> 512 -> 256 -> 256 -> 128", "network.multi_residual.{}.conv.2.weight"),
    ):
        assert text in SENTENCES and integers(text) == list(NETWORKS[name].channels[1:])
        assert [shapes(name)[path.format(level)][0] for level in range(4)] == integers(text)[1:]
    cfg, hidden = config("ssd300"), [256, 128, 128, 64]
    assert cfg.extras_ratio[2:] == [0.2, 0.25, 0.5, 0.25] and "`t` 0.2, 0.25, 0.5, 0.25" in SENTENCES
    assert "256, 128, 128 and 64 hidden channels" in SENTENCES
    assert [shapes("ssd300")[f"network.multi_residual.{k}.conv.0.features.0.weight"][0] for k in range(4)] == hidden


def test_mobilenet_v2(shapes):
    listed, total, numbered, last = shapes("ssd300"), 1, 0, 3
    for cell, expansion, channels, first_stride, size, stride in rows("MobileNetV2", "blocks"):
        blocks = integers(cell.split(" (")[0].replace("to", " "))
        before, after = integers(channels)
        total *= int(first_stride)
        assert before == last and int(stride) == total and integers(size) == [-(-300 // total)] * 2
        for block in range(blocks[0], blocks[-1] + 1):
            part = f"network.backbone.features_{1 + (block > 13)}.{block - 14 * (block > 13)}."
            if expansion == "-":
                kernel = integers(cell.split("CBR")[1])
                assert listed[part + "features.0.weight"] == [after, before, *kernel]
            elif expansion == "1":
                assert listed[part + "conv.0.features.0.weight"] == [before, 1, 3, 3]
                assert listed[part + "conv.1.weight"] == [after, before, 1, 1]
            else:
                hidden = before * int(expansion)
                assert listed[part + "conv.0.features.0.weight"] == [hidden, before, 1, 1]
                assert listed[part + "conv.1.features.0.weight"] == [hidden, 1, 3, 3]
                assert listed[part + "conv.2.weight"] == [after, hidden, 1, 1]
            assert block == numbered
            numbered, before = numbered + 1, after
        last = after
    assert numbered == 19
    assert next(iter(listed)) == "network.backbone.expand_layer_conv_13.features.0.weight"


def test_vgg16(shapes):
    listed, side, named, levels = shapes("ssd_vgg16"), 300, set(), []
    for layer, kernel, padding, channels, size, names in rows("VGG16", "layer"):
        before, after = integers(channels)
        if kernel != "-":
            width, _, stride = integers(kernel)
            span = width + 5 * (width - 1) if "dilation 6" in layer else width
            side = -(-side // stride) if padding == "same" else (side + 2 * int(padding) - span) // stride + 1
        assert integers(size) == [side, side], layer
        many = re.match(r"(.+)\{([\d,]+)\}\.weight", names)
        full = [] if names == "-" else [names]
        if many:
            full = [f"{many.group(1)}{place}.weight" for place in many.group(2).split(",")]
        for number, name in enumerate(full):
            assert listed[f"network.{name}"] == [after, before if number == 0 else after, width, width]
        named.update(f"network.{name}" for name in full)
        assert not many or len(full) == integers(layer.split(",")[1])[0]
        if "**level" in layer:
            levels.append((side, after))
    assert named == {name for name in listed if ".multi_box." not in name}
    cfg = config("ssd_vgg16")
    assert levels == list(zip(cfg.feature_size, NETWORKS["ssd_vgg16"].channels))
    assert "at least 257 pixels" in SENTENCES and NETWORKS["ssd_vgg16"].smallest_side == 257


def test_running_statistics_of_each_network(cfg256):
    """eps and momentum as the table of the page has them."""
    table = {cell: (float(eps), float(momentum)) for cell, eps, momentum in rows("Network", "BN of")}
    assert list(table.values()).count((1e-5, 0.9)) == 3 and table["resnet"] == (1e-3, 0.997)
    expected = {
        "feature_extractor.mobilenet_v1.": table["MobileNetV1"],
        "backbone.": table["MobileNetV2"],
        "multi_residual.": table["multi_residual` of `ssd300` and `ssd_mobilenet_v1"],
        "multi_box.": table["head towers, predictors of the [SSD300 head](#ssd300-head)"],
    }
    for name in ("ssd300", "ssd_mobilenet_v1"):
        for path, cell in build_model(config(name)).cells_and_names():
            if type(cell).__name__ == "BatchNorm2d" and "pairs" not in path:
                start = next(start for start in expected if path.startswith(start))
                # MindSpore keeps the weight of the new value
                assert (cell.eps, round(1 - cell.momentum, 9)) == expected[start], path
    model = build_model(config("ssd_vgg16", "--ssd_vgg_bn=True"))
    found = {name for name, _ in model.parameters_and_names()}
    assert {"backbone.b1.3.weight", "backbone.b1.4.gamma", "backbone.b3.6.weight", "backbone.b3.7.beta"} <= found


def test_files_of_the_backbone(cfg256):
    """Names in backbone files, as the section writes them."""
    section = " ".join(SECTIONS["Backbone files"].split())
    plain, with_bn = re.search(r"`n` is ([\d, ]+); with `pretrain_vgg_bn`[^.]*, it is ([\d, ]+)\.", section).groups()
    for text, option in ((plain, "False"), (with_bn, "True")):
        model = build_model(config("ssd_vgg16", f"--pretrain_vgg_bn={option}"))
        names = [name for name, _ in model.parameters_and_names() if name.startswith("backbone.")]
        assert [model.name_in_backbone_file(name) for name in names] == [f"layers.{n}.weight" for n in integers(text)]
    model = build_model(config("ssd300"))
    for name, in_file in (
        ("backbone.features_2.4.features.0.weight", "features.18.features.0.weight"),
        ("backbone.features_1.13.conv.3.gamma", "features.13.conv.3.gamma"),
        ("backbone.expand_layer_conv_13.features.1.beta", "features.14.conv.0.features.1.beta"),
    ):
        assert model.name_in_backbone_file(name) == in_file
        assert name in dict(model.parameters_and_names())


def test_dropout(cfg256):
    """The mask that the page's formula gives, by NumPy."""
    mindspore.set_seed(1)
    rng = np.random.default_rng([1, 4, 3])
    offset, rate = (rng.random((4, 3, 3), np.float32) for _ in range(2))
    images = np.random.default_rng(0).normal(size=(2, 4, 3, 3)).astype(np.float32)

    def fraction(x):
        return x - np.floor(x)

    key = fraction(np.abs(images).sum(axis=(1, 2, 3), keepdims=True) * np.float32(0.6180339)) * np.float32(1000) + 100
    from_edge = np.abs(fraction(offset + rate * key) - 0.5)
    clear = (from_edge > 0.05) & (from_edge < 0.45)  # elsewhere rounding decides
    layer = Dropout(4, 3)
    layer.set_train()
    got, want = layer(Tensor(images)).asnumpy(), images * 2 * (fraction(offset + rate * key) >= 0.5)
    assert clear.sum() > 30
    np.testing.assert_array_equal(got[clear], want[clear])
    assert (got[0] == 0).tolist() != (got[1] == 0).tolist()
    layer.set_train(False)
    np.testing.assert_array_equal(layer(Tensor(images)).asnumpy(), images)
