"""docs/reference.md: the code computes its worked examples, and references to its headings resolve."""

import math
import os
import re
import subprocess
import sys

import mindspore
import numpy as np
import pytest
import yaml
from mindspore import Parameter, Tensor

from src.boxes.coder import BoxCoder
from src.boxes.default_boxes import default_boxes, ssd300_default_boxes
from src.boxes.nms import nms
from src.boxes.ops import iou, yxyx_to_cyxhw
from src.boxes.soft_nms import soft_nms
from src.config import load_config
from src.data import transforms
from src.data.transforms import encode_targets
from src.loss import MultiBoxLoss
from src.training.optimizer import Momentum
from src.training.schedule import learning_rates
from tests.helpers.paths import ROOT
from tests.helpers.reference_page import PAGE, SECTIONS, SENTENCES, assert_shown, numbers, read, rows, sections

SEARCHED = ("src", "scripts", "tests", "config", "docs", "benchmarks")
ENDINGS = (".py", ".sh", ".md", ".yaml")
# docs/reference.md, "Matching" and "Encoding": names may stand in the next line of a comment
NAMES = re.compile(r'docs/reference\.md,((?:(?:,|\s|#|and)*"[^"\n]+")*)')


# references to the headings


def unresolved(root, searched=SEARCHED):
    """References `docs/reference.md, "Heading"` in the files of a tree that name no heading of its page, as
    (file, what is wrong)."""
    headings, wrong = set(sections(read(os.path.join(root, "docs", "reference.md")))), []
    places = [name for name in sorted(os.listdir(root)) if name.endswith(ENDINGS)]
    for folder in searched:
        for top, _, names in os.walk(os.path.join(root, folder)):
            places += [os.path.relpath(os.path.join(top, name), root) for name in names if name.endswith(ENDINGS)]
    for place in sorted(places):
        for match in NAMES.finditer(read(os.path.join(root, place))):
            named = re.findall(r'"([^"\n]+)"', match.group(1))
            wrong += [(place, name) for name in named if name not in headings]
            if not named:
                wrong.append((place, "no heading is named"))
    return wrong


def test_references_to_headings_resolve():
    this = os.path.relpath(os.path.abspath(__file__), ROOT)
    assert [one for one in unresolved(ROOT) if one[0] != this] == []


@pytest.mark.parametrize(
    "text, wrong",
    [
        ('"""The loss; docs/reference.md, "Loss"."""', []),
        ('# docs/reference.md, "Loss",\n# "Matching" and\n#   "Encoding"', []),
        ('# see docs/reference.md,\n    # "Loss"', []),
        ('# docs/reference.md, "Losses"', ["Losses"]),
        ('# docs/reference.md, "Loss" and "Encodings"', ["Encodings"]),
        ("# docs/reference.md, Loss", ["no heading is named"]),
        ('# docs/reference.md, "Fenced"', ["Fenced"]),
        ('# docs/reference.md says "Nothing"', []),
    ],
)
def test_a_wrong_reference_is_found(tmp_path, text, wrong):
    for folder in ("docs", "src/boxes"):
        (tmp_path / folder).mkdir(parents=True)
    page = "# A\n## Loss\n## Matching\n```\n# Fenced\n```\n## Encoding\n"
    (tmp_path / "docs" / "reference.md").write_text(page)
    (tmp_path / "src" / "boxes" / "some.py").write_text(text)
    assert unresolved(str(tmp_path)) == [(os.path.join("src", "boxes", "some.py"), name) for name in wrong]


def test_the_page_lists_its_headings_and_files():
    listed = [re.fullmatch(r"\[(.+)\]\(#(.+)\)", row[0]).groups() for row in rows("Headings", "section")]
    below_title = [heading for heading in SECTIONS if heading not in ("What the program computes", "Headings")]
    assert [name for name, _ in listed] == below_title
    anchors = {heading.lower().replace(" ", "-") for heading in SECTIONS}
    assert {anchor for _, anchor in listed} == {name.lower().replace(" ", "-") for name, _ in listed}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors
    for path in re.findall(r"`((?:src|tests|config|docs)/[\w./]+\.\w+)`|\b(docs/\w+\.md)", PAGE):
        assert os.path.exists(os.path.join(ROOT, path[0] or path[1])), path


def test_the_drawing_is_what_its_script_draws(tmp_path):
    folder = tmp_path / "docs" / "images"
    folder.mkdir(parents=True)
    (folder / "default_boxes.py").write_text(read(os.path.join(ROOT, "docs", "images", "default_boxes.py")))
    (tmp_path / "src").symlink_to(os.path.join(ROOT, "src"))
    subprocess.run([sys.executable, str(folder / "default_boxes.py")], check=True)
    assert (folder / "default_boxes.svg").read_text() == read(os.path.join(ROOT, "docs", "images", "default_boxes.svg"))


# the worked examples


def test_default_boxes():
    cyxhw, yxyx = default_boxes((640, 640))
    table = rows("Default boxes", "index")
    assert len(table) == 7
    for index, pixels, normalised in table:
        assert_shown(numbers(pixels), cyxhw[int(index)] * 640)
        assert_shown(numbers(normalised), cyxhw[int(index)])
    first = 0
    for _, stride, grid, boxes, start in rows("Default boxes", "level"):
        side = 640 // int(stride)
        assert grid == f"{side} x {side}" and int(boxes) == 6 * side * side and int(start) == first
        assert_shown(cyxhw[first] * 640, [int(stride) / 2] * 2 + [4 * int(stride)] * 2)
        first += int(boxes)
    assert first == len(cyxhw) == len(yxyx) == 51150


def test_ssd300_layout():
    cyxhw, _ = ssd300_default_boxes((300, 300), [2, 1], [150, 300], [3, 4], [[], [2]], 0.2, 0.95)
    root = math.sqrt(2)
    assert_shown(cyxhw[:3, [3, 2]], [(0.1, 0.1), (0.2 * root, 0.2 / root), (0.2 / root, 0.2 * root)])
    mean = math.sqrt(0.95)
    assert_shown(
        cyxhw[12:, [3, 2]], [(0.95, 0.95), (0.95 * root, 0.95 / root), (0.95 / root, 0.95 * root), (mean,) * 2]
    )
    assert_shown(cyxhw[[0, 3, 6], :2], [(0.25, 0.25), (0.25, 0.75), (0.75, 0.25)])
    schema = load_config(["--device_target=CPU"])
    assert (schema.min_scale, schema.max_scale, schema.aspect_ratios) == (0.2, 0.95, [[2, 3]] * 5)


@pytest.fixture
def example():
    """Default boxes yxyx [3, 4] and ground truths [2, 5] of the matching example."""
    table = {name: numbers(corners) for name, corners in rows("Matching", "box")}
    assert list(table) == ["D0", "D1", "D2", "G0, label 1", "G1, label 2"]
    defaults, boxes = np.split(np.array(list(table.values()), np.float32), [3])
    return defaults, np.column_stack([boxes, [1, 2]]).astype(np.float32)


def test_matching(example):
    defaults, gt = example
    steps = {step[0].split(" (")[0]: step[1:] for step in rows("Matching", "step")}
    for row in (0, 1):
        assert_shown([float(value) for value in steps[f"IoU with G{row}"]], iou(defaults, gt[row, :4]))

    def match(rows_of_gt):
        _, label, num_match = encode_targets(rows_of_gt, yxyx_to_cyxhw(defaults), defaults, 0.5, (0.1, 0.2))
        return label.tolist(), num_match

    def owners(step):
        return [{"G0": 1, "G1": 2, "-": 0}[name] for name in steps[step]]

    assert match(gt[:1]) == (owners("ground truth after G0"), 2)
    assert match(gt) == (owners("ground truth after G1"), 2)
    assert match(gt)[0] == [int(label) for label in steps["label"]]
    # the scores by the rule of the page
    best_scores = np.zeros(3)
    for row in (0, 1):
        scores = np.array([float(value) for value in steps[f"IoU with G{row}"]])
        scores[np.argmax(scores)] = 2.0
        best_scores = np.where((scores > 0.5) & (scores > best_scores), scores, best_scores)
        assert best_scores.tolist() == [float(value) for value in steps[f"scores after G{row}"]]
    # "If G1 had the corners of G0": it gets no default box
    twins = gt[[0, 0]]
    twins[1, 4] = 2
    assert match(twins) == ([1, 1, 0], 2)
    # a ground truth of label 0 takes part in matching, and is not counted
    nothing = gt.copy()
    nothing[1, 4] = 0
    assert match(nothing) == ([1, 0, 0], 1)


def test_encoding(example):
    defaults, gt = example
    loc, _, _ = encode_targets(gt, yxyx_to_cyxhw(defaults), defaults, 0.5, (0.1, 0.2))
    table = rows("Encoding", "pair")
    assert [row[0] for row in table] == ["D0, G0", "D1, G1"]
    for index, (_, offsets) in enumerate(table):
        np.testing.assert_allclose(numbers(offsets), loc[index], atol=5e-6)
        decoded = BoxCoder((0.1, 0.2)).decode(np.array([numbers(offsets)]), yxyx_to_cyxhw(defaults[index : index + 1]))
        np.testing.assert_allclose(decoded[0], gt[index, :4], atol=1e-6)
    # the formula, number by number: D1 is cy 0.2, cx 0.3, h 0.4, w 0.4; G1 is 0.2, 0.42, 0.4, 0.16
    by_hand = [0, (0.42 - 0.3) / (0.4 * 0.1), math.log(1) / 0.2, math.log(0.16 / 0.4) / 0.2]
    np.testing.assert_allclose(numbers(table[1][1]), by_hand, atol=5e-6)


def test_loss(cfg256):
    shown = {term.split(":")[0].split(" (")[0]: float(value) for term, value in rows("Loss", "term")}
    logits = np.array([[[0, 0, 0], [2, -2, -2]]], np.float32)
    labels = np.array([[1, 0]], np.int32)
    wrong_by = np.array([[[0.5, 0, 0, 2], [9, 9, 9, 9]]], np.float32)  # a background row does not count
    loss = MultiBoxLoss(num_classes=3)
    arrays = [wrong_by, logits, np.zeros_like(wrong_by), labels, np.ones(1, np.float32)]
    classes, boxes = loss.parts(*map(Tensor, arrays)).asnumpy()
    assert_shown(shown["sum of focal"], classes)
    assert_shown(shown["smooth L1 of D0"], boxes)
    assert_shown(shown["loss"], loss(*map(Tensor, arrays)).asnumpy())
    # each term by hand
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))
    terms = [0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)]
    terms += [-0.25 * (1 - p) ** 2 * math.log(p), -0.75 * q**2 * math.log(1 - q)]
    assert_shown(list(shown.values())[:4], terms)
    assert_shown(shown["sum of focal"], terms[0] + 2 * terms[1] + terms[2] + 2 * terms[3])
    # two matches halve it; without a match it is divided by one
    for matches, divisor in ((2, 2), (0, 1)):
        arrays[-1] = np.array([matches], np.float32)
        assert_shown(loss(*map(Tensor, arrays)).asnumpy(), (classes + boxes) / divisor)


def test_optimiser(cfg256):
    kernel = Parameter(Tensor(np.ones((1, 1, 1, 1), np.float32)), name="conv.weight")
    gamma = Parameter(Tensor(np.full(1, 2, np.float32)), name="bn.gamma")
    update = Momentum([kernel, gamma], 0.0004, np.array([0.05, 0.05], np.float32), 0.9, 8.0, clip_global_norm=True)
    gradients = {"conv.weight": np.full((1, 1, 1, 1), 24, np.float32), "bn.gamma": np.full(1, 32, np.float32)}
    norm = update(*(Tensor(gradients[parameter.name]) for parameter in update.parameters))
    assert_shown(norm.asnumpy(), 5)
    table = {name: [float(value) for value in values] for name, *values in rows("Optimiser", "parameter")}
    for name, parameter, gradient, decay in (("kernel", kernel, 3, 0.0004), ("gamma", gamma, 4, 0.0)):
        clipped, decayed, new = table[name]
        assert_shown(new, parameter.asnumpy().ravel()[0])
        assert_shown([clipped, decayed], [gradient / 5, gradient / 5 + decay])


def test_learning_rate():
    rates = learning_rates(0, 0.01333, 0.0, 0.05, 2, 60, 916)
    table = rows("Learning rate", "step")
    assert len(table) == 5 and len(rates) == 54960
    for step, rate in table:
        assert_shown(float(rate), rates[int(step.split()[0])])
    assert_shown(float(table[1][1]), 0.01333 + (0.05 - 0.01333) * 916 / 1832)
    assert_shown(float(table[3][1]), 0.05 * (1 + math.cos(math.pi / 2)) / 2)


def test_post_processing():
    (sentence,) = re.findall(
        r"Example: the boxes \[([\d, ]+)\] and \[([\d, ]+)\] have areas [^;]* and IoU ([\d.]+); [^.]* be ([\d.]+)\.",
        SENTENCES,
    )
    boxes = [numbers(sentence[0]), numbers(sentence[1])]
    counted, plain = float(sentence[2]), float(sentence[3])
    assert_shown(plain, iou(np.array(boxes), np.array(boxes[1]))[0])
    for threshold, kept in ((counted - 1e-5, [0]), (counted + 1e-5, [0, 1])):
        assert nms(boxes, [0.9, 0.8], threshold, 10).tolist() == kept


def test_soft_nms():
    (sentence,) = re.findall(
        r"the boxes \[([\d, ]+)\] and \[([\d, ]+)\] with scores ([\d.]+) and ([\d.]+) [^:]*: [^=]* = ([\d.]+)\.",
        SENTENCES,
    )
    boxes, scores = [numbers(sentence[0]), numbers(sentence[1])], [float(sentence[2]), float(sentence[3])]
    assert_shown(float(sentence[4]), soft_nms(boxes, scores, 0.1, 10)[1][1])


# the tables


def test_defaults_that_the_page_names():
    """`key` value, or `key` (value), as the sections write it: the values of the complete file."""
    schema = next(yaml.safe_load_all(read(os.path.join(ROOT, "config", "ssd_resnet50_fpn_config_gpu.yaml"))))
    found = {}
    for key, value in re.findall(r"`(\w+)` \(?(-?\d[\d.]*\b|True|False)", SENTENCES):
        if key in schema and key not in ("gamma", "use_anchor_generator"):  # BN's gamma; both layouts
            found[key] = value
            assert schema[key] == yaml.safe_load(value), key
    assert len(found) >= 19, sorted(found)
    assert "`alpha` is 0.25, `gamma` 2.0" in SENTENCES and (schema["alpha"], schema["gamma"]) == (0.25, 2.0)
    assert "`prior_scaling` is [0.1, 0.2]" in SENTENCES and schema["prior_scaling"] == [0.1, 0.2]
    assert "`steps`, [8, 16, 32, 64, 128]" in SENTENCES and schema["steps"] == [8, 16, 32, 64, 128]
    np.testing.assert_allclose(transforms.MEAN / 255, [0.485, 0.456, 0.406], rtol=1e-6)
    np.testing.assert_allclose(transforms.STD / 255, [0.229, 0.224, 0.225], rtol=1e-6)


def test_parameters(reference):
    listed = {name: (shape, trainable) for name, shape, _, trainable in reference("params.json")["eval_net"]}
    for name, shape in rows("Parameter names", "name"):
        assert listed[name][0] == [int(number) for number in numbers(shape)]
    shared = [name for name in listed if re.search(r"addition_layer_\w+\.[1-4]\.\d\.features\.0", name)]
    assert shared == [] and len([name for name in listed if name.endswith(".gamma") and "addition" in name]) == 40
    kinds = {kind: 0 for kind in ("weight", "bias", "gamma", "beta")}
    for name, (_, trainable) in listed.items():
        if trainable:
            kinds[name.rpartition(".")[2]] += 1
    assert list(kinds.values()) == [71, 13, 98, 98] and len(listed) == 476
    assert "280 trainable (71 convolution weights, 13 biases, 98 `gamma`, 98 `beta`) and 196 running" in SENTENCES
    for part, trained, running in rows("Network", "part"):
        sizes = {True: 0, False: 0}
        for name, (shape, trainable) in listed.items():
            if part == "all" or name.startswith(f"network.{part}."):
                sizes[trainable] += int(np.prod(shape))
        assert (int(trained), int(running)) == (sizes[True], sizes[False]), part


def test_layers(reference):
    """Channels, kernels and biases are those of the published parameters; sizes follow from strides."""
    shapes = {name: shape for name, shape, *_ in reference("params.json")["eval_net"]}
    for layer, kernel, channels, bias, _, size, stride in rows("Network", "layer"):
        into, out = (int(number) for number in numbers(channels))
        if stride.isdigit():
            assert size == f"{640 // int(stride)} x {640 // int(stride)}", layer
        if layer.startswith("max-pool"):
            continue
        name = layer.split("`")[0].split(",")[0]
        inner = {"addition": "multi_box.{}.0.0.features.0", "loc_laye": "multi_box.{}", "cls_laye": "multi_box.{}"}
        inner.update({"fpn.fpn_": "feature_extractor.{}.0", "bottom_u": "feature_extractor.{}.0"})
        path = "network." + inner.get(name[:8], "feature_extractor.{}").format(name)
        if "bottlenecks" in kernel:
            blocks = {key.split(".")[4] for key in shapes if key.startswith(path + ".")}
            assert len(blocks) == int(numbers(kernel)[0])
            assert shapes[path + ".0.conv1.weight"][1] == into and shapes[path + ".0.conv3.weight"][0] == out
            assert path + ".0.down_sample_layer.0.weight" in shapes and path + ".0.conv1.bias" not in shapes
        else:
            assert shapes[path + ".weight"] == [out, into, *map(int, numbers(kernel)[:2])], layer
            assert (path + ".bias" in shapes) == (bias == "yes"), layer


@pytest.mark.parametrize("size, kernel", [(640, 7), (320, 3), (97, 3), (33, 7)])
def test_padding_same(cfg256, size, kernel):
    """The rule of the page gives the padding of MindSpore, which the sums over a row of ones show."""
    out = -(-size // 2)
    total = max((out - 1) * 2 + kernel - size, 0)
    before = total // 2
    padded = np.pad(np.arange(1, size + 1, dtype=np.float64), (before, total - before))
    wanted = [padded[2 * at : 2 * at + kernel].sum() for at in range(out)]
    layer = mindspore.nn.Conv2d(1, 1, (1, kernel), stride=2, pad_mode="same", weight_init="ones", has_bias=False)
    row = Tensor(np.arange(1, size + 1, dtype=np.float32).reshape(1, 1, 1, size))
    np.testing.assert_allclose(layer(row).asnumpy().ravel(), wanted)


def test_batch_norm(cfg256):
    """Biased variance inside, momentum the weight of the old value; the running variance as the page says."""
    layer = mindspore.nn.BatchNorm2d(1, eps=1e-3, momentum=0.9)
    layer.set_train()
    values = np.array([0, 1, 2, 5], np.float32)
    got = layer(Tensor(values.reshape(1, 1, 2, 2))).asnumpy().ravel()
    np.testing.assert_allclose(got, (values - 2) / np.sqrt(values.var() + 1e-3), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_mean.asnumpy(), [0.1 * 2], rtol=1e-6)
    variance = values.var(ddof=1 if hasattr(mindspore, "set_device") else 0)
    np.testing.assert_allclose(layer.moving_variance.asnumpy(), [0.9 + 0.1 * variance], rtol=1e-6)
