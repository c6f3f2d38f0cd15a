"""docs/python.md: its examples run unchanged, and its signatures are those of the code."""

import importlib
import inspect
import os
import re
import subprocess
import sys

import cv2
import mindspore
import numpy as np
import pytest

from tests.helpers.paths import ROOT

STABLE = [
    "src.config.load_config",
    "src.boxes.default_boxes.default_boxes",
    "src.data.transforms.encode_targets",
    "src.data.transforms.random_crop",
    "src.boxes.coder.BoxCoder",
    "src.boxes.nms.nms",
    "src.training.schedule.learning_rates",
    "src.models.build.build_model",
    "src.models.ssd.SSDInference",
    "src.loss.MultiBoxLoss",
    "src.training.step.build_train_step",
    "src.evaluation.coco_evaluator.CocoEvaluator",
    "src.inference.pictures.read_picture",
    "src.inference.predictor.Predictor",
]
# runs the blocks in one namespace; a line between them separates what they print
RUNNER = """
import sys
names = {}
for number, block in enumerate(sys.stdin.read().split("\\0")):
    exec(compile(block, f"docs/python.md, example {number + 1}", "exec"), names)
    print("\\0", end="", flush=True)
"""


def page():
    with open(os.path.join(ROOT, "docs", "python.md"), encoding="utf-8") as handle:
        return handle.read()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", page(), re.M | re.S)


def signatures():
    """Every line of the ```text blocks: (dotted name as documented, its signature as written)."""
    lines = [line for block in blocks("text") for line in block.splitlines()]
    return [re.fullmatch(r"([\w.]+)(\(.*?\))(?: -> .*)?", line).groups() for line in lines]


def imported(name):
    """The object of a dotted name: a module path and a name in it."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def parameters(thing):
    """Parameters of a function, or of what makes an object of a class; without self."""
    of = thing.__init__ if inspect.isclass(thing) else thing
    return [value for name, value in inspect.signature(of).parameters.items() if name != "self"]


def written(text):
    """Parameters of a signature as it is written, for example `(a, b=1)`."""
    names = {}
    exec(f"def stub{text}: pass", names)
    return list(inspect.signature(names["stub"]).parameters.values())


def differences(documented, actual):
    """Differences between a documented signature and the code. Further parameters of the code must have defaults."""
    found = []
    for wanted, have in zip(documented, actual):
        if (wanted.name, wanted.kind, wanted.default) != (have.name, have.kind, have.default):
            found.append(f"{wanted} is {have} in the code")
    found += [f"{wanted} is not in the code" for wanted in documented[len(actual) :]]
    return found + [f"{have} is not documented" for have in actual[len(documented) :] if have.default is have.empty]


def test_every_stable_name_is_documented():
    assert [name for name, _ in signatures() if name.startswith("src.")] != []
    assert sorted(name for name, _ in signatures() if name.startswith("src.")) == sorted(STABLE)


def test_signatures_are_those_of_the_code():
    classes, wrong = {}, []
    for name, text in signatures():
        if name.startswith("src."):
            thing = imported(name)
            classes[name.rpartition(".")[2]] = thing
        else:  # a method of a class above
            of, _, method = name.partition(".")
            thing = getattr(classes[of], method)
        wrong += [f"{name}: {one}" for one in differences(written(text), parameters(thing))]
    assert wrong == []


@pytest.mark.parametrize(
    "code", ["(a, c=2)", "(a, b=2, c=3)", "(b=2, a=1)", "(a, b=3)", "(a, *, b=2)", "(a, b=2, *, c)"]
)
def test_a_wrong_signature_is_found(code):
    right = code == "(a, b=2, c=3)"
    assert (differences(written("(a, b=2)"), written(code)) == []) == right


def test_examples_run_and_print_what_they_say(tmp_path):
    (yaml,), (json,), examples = blocks("yaml"), blocks("json"), blocks("python")
    if not hasattr(mindspore, "set_device"):  # the page names what is used instead
        examples = [re.sub(r"^.*# MindSpore 1\.10: ", "", example, flags=re.M) for example in examples]
    (tmp_path / "my.yaml").write_text(yaml)
    (tmp_path / "annotations.json").write_text(json)
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.full((96, 144, 3), 90, np.uint8))
    environment = dict(os.environ, PYTHONPATH=ROOT, ONEDNN_MAX_CPU_ISA="AVX2", GLOG_v="4")
    run = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input="\0".join(examples),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    printed = run.stdout.split("\0")[:-1]
    assert len(printed) == len(examples) == len(STABLE)
    for example, lines in zip(examples, printed):
        wanted = re.findall(r"^ *print\(.*\)  # (.*)$", example, re.M)
        assert len(wanted) == example.count("print(") and lines.splitlines() == wanted, example
