"""Imports go one way, files stay small, and importing changes nothing."""

import ast
import os
import re
import subprocess
import sys

from tests.helpers.paths import ROOT

ORDER = ["utils", "config", "boxes", "data", "models", "loss", "training", "inference", "evaluation", "start"]


def modules():
    for folder, _, names in os.walk(os.path.join(ROOT, "src")):
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                yield os.path.relpath(path, ROOT)[:-3].replace(os.sep, ".").replace(".__init__", ""), path


MODULES = list(modules())


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported(path: str):
    with open(path, encoding="utf-8") as handle:
        tree = ast.parse(handle.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_go_one_way():
    """utils imports only utils; no package imports a later one in the list, or an entry script."""
    wrong = []
    for module, path in MODULES:
        for name in imported(path):
            here, there = part_of(module), part_of(name or "")
            if name in ("train", "eval", "export"):
                wrong.append(f"{module} imports the entry script {name}")
            elif (name or "").startswith("src.") and ORDER.index(there) > ORDER.index(here):
                wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_test_module_is_imported():
    """Code that several test modules use is in tests/helpers, fixtures are in a conftest.py."""
    wrong = []
    for folder, _, names in os.walk(os.path.join(ROOT, "tests")):
        for path in (os.path.join(folder, name) for name in names if name.endswith(".py")):
            for name in imported(path):
                if re.match(r"tests\.(\w+\.)*(test_\w+|conftest)$", name or ""):
                    wrong.append(f"{os.path.relpath(path, ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_files_stay_small():
    lengths = {}
    for folder in ("src", "scripts", "benchmarks", "tests"):
        for top, _, names in os.walk(os.path.join(ROOT, folder)):
            for path in (os.path.join(top, name) for name in names if name.endswith(".py")):
                with open(path, encoding="utf-8") as handle:
                    lengths[os.path.relpath(path, ROOT)] = sum(1 for _ in handle)
    assert not {path: length for path, length in lengths.items() if length > 400}


def test_importing_changes_nothing(tmp_path):
    code = """
import os, sys
sys.argv = ["x", "--no_such_option", "1"]
import cv2, mindspore.dataset, pycocotools.cocoeval, tqdm, yaml   # these set environment variables themselves
import mindspore as ms
before = (dict(os.environ), list(sys.argv), os.getcwd(), ms.get_context("mode"), ms.get_context("device_target"))
import importlib
for name in sys.stdin.read().split():
    importlib.import_module(name)
after = (dict(os.environ), list(sys.argv), os.getcwd(), ms.get_context("mode"), ms.get_context("device_target"))
assert before == after, [(b, a) for b, a in zip(before, after) if b != a]
print("same")
"""
    environment = dict(os.environ, PYTHONPATH=ROOT)
    code = "import src\n" + code
    run = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join(name for name, _ in MODULES),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert "same" in run.stdout, run.stderr[-2000:]
    assert os.listdir(tmp_path) == []


def test_boxes_need_no_mindspore(tmp_path):
    code = (
        "import sys, src.boxes.default_boxes, src.boxes.coder, src.boxes.matcher, src.boxes.nms, src.config; "
        "print('mindspore' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr
