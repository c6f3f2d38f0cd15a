"""The READMEs' tables of networks: sizes and work of each, from its published parameters and the sides of its maps."""

import re

import numpy as np
import pytest

from src.config import NETWORKS, load_config
from tests.helpers.pages import text

FOLDERS = {name: "" if name == "ssd_resnet50_fpn" else f"family/{name}/" for name in NETWORKS}
FPN_SIDES, SIDES = (80, 40, 20, 10, 5), (19, 10, 5, 3, 2, 1)
VGG_SIDES = dict(b1=300, b2=150, b3=75, b4=38, b5=19, b6_1=19, b7_1=19, b8_1=21, b8_2=10, b9_1=12, b9_2=5)
VGG_SIDES.update(b10_1=5, b10_2=3, b11_1=3, b11_2=1)


def halved(side, strided, block):
    """Side of a block's output, where the blocks of `strided` have stride 2."""
    for _ in range(sum(number <= block for number in strided)):
        side = -(-side // 2)
    return side


def pyramid_cells(name):
    """Positions at which a kernel of necks or shared head is applied; None for the backbone's."""
    if name.startswith("multi_box."):
        return sum(side**2 for side in FPN_SIDES)
    match = re.match(r"feature_extractor\.(fpn|bottom_up)\.\w+\.(\d)", name)
    return match and FPN_SIDES[int(match[2]) + 3 * (match[1] == "bottom_up")] ** 2


def resnet_cells(name):
    match = re.search(r"resnet\.layer(\d)\.(\d)\.(\w+)", name)
    if match is None:
        return 320**2
    side = 160 >> (int(match[1]) - 1)
    return (2 * side if match.groups()[1:] == ("0", "conv1") and match[1] != "1" else side) ** 2


def mobilenet_v1_cells(name, side):
    match = re.search(r"mobilenet_v1\.network\.(\d+)", name)
    return match and halved(side, (0, 3, 7, 11, 23), int(match[1])) ** 2


def ssd300_cells(name, sides=SIDES):
    """Predictors and extra levels, then MobileNetV2."""
    match = re.match(r"multi_(box\.multi_\w+_layers|residual)\.(\d)\.(\w+)\.?(\d?)", name)
    if match:
        level = int(match[2]) + (2 if match[1] == "residual" else 0)
        expands = match[1] == "residual" and match.groups()[2:] == ("conv", "0")
        return sides[level - expands] ** 2
    if "expand_layer" in name:
        return 19**2
    part, number, rest = re.match(r"backbone\.features_(\d)\.(\d+)\.(.+)", name).groups()
    block = int(number) + 14 * (part == "2")
    at_input = rest.startswith("conv.0") and block != 1
    return halved(300, (0, 2, 4, 7, 14), block - at_input) ** 2


CELLS = {
    "ssd_resnet50_fpn": lambda name: pyramid_cells(name) or resnet_cells(name),
    "ssd_mobilenet_v1_fpn": lambda name: pyramid_cells(name) or mobilenet_v1_cells(name, 640),
    "ssd300": ssd300_cells,
    "ssd_mobilenet_v1": lambda name: mobilenet_v1_cells(name, 300) or ssd300_cells(name),
    "ssd_vgg16": lambda name: (
        VGG_SIDES[re.match(r"(?:backbone\.)?(\w+)", name)[1]] ** 2
        if name.startswith("b")
        else ssd300_cells(name, (38, 19, 10, 5, 3, 1))
    ),
}


def table(page):
    lines = text(page).split("\n| `model_name` |")[1].splitlines()[2:]
    return [line.strip("| ").split(" | ") for line in lines[: lines.index("")]]


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_networks(reference, page):
    rows = table(page)
    assert sorted(re.search(r"`(\w+)`", row[0])[1] for row in rows) == sorted(NETWORKS)
    for cell, size, boxes, parameters, work, _, quick_start, link in rows:
        name = re.search(r"`(\w+)`", cell)[1]
        cfg = load_config([f"--model_name={name}", "--device_target=CPU"])
        assert size == " x ".join(map(str, cfg.img_shape)) and int(boxes.replace(",", "")) == cfg.num_ssd_boxes
        assert link == f"[`{NETWORKS[name].config}`](config/{NETWORKS[name].config})"
        measured = re.search(r"AP50 ([\d.]+\d)", text(f"config/{name}_config_quickstart.yaml"))
        assert (measured is None) == (quick_start == "-")
        assert measured is None or f"{float(quick_start.split(' / ')[1]):.2f}" == measured[1]
        listed = reference(FOLDERS[name] + "params.json")["eval_net"]
        trained = sum(int(np.prod(row[1])) for row in listed if row[3])
        assert parameters == f"{trained / 1e6:.1f} M"
        kernels = [(row[0][len("network.") :], row[1]) for row in listed if row[0].endswith("weight")]
        total = sum(int(np.prod(shape)) * CELLS[name](key) for key, shape in kernels) * 2 / 1e9
        assert work == f"{total:.3g}" or work == f"{total:.2f}", (name, total)


def test_published_figures_are_the_same_everywhere():
    """Of each row of the READMEs and of docs/from_published.md, network, mAP and seconds per step."""

    def figures(page, network, score, seconds):
        found = set()
        for line in text(page).splitlines():
            cells = line.strip("| ").split(" | ")
            if line.startswith("| `ssd") and re.search(r"\| (DeepSparkHub|model zoo|模型仓库)", line):
                for one, other in zip(cells[score].split(" / "), cells[seconds].split(" / ")):
                    found.add((cells[network], one.split(" (")[0], other))
        return found

    published = figures("docs/from_published.md", 0, 5, 3)
    assert len(published) == 11
    assert figures("README.md", 0, 3, 4) == figures("README.zh.md", 0, 3, 4) == published
