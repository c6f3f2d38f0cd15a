"""The documentation speaks of what is there: links, commands, options, messages; and both READMEs say the same."""

import ast
import os
import re
import shlex

import pytest

from src.config import load_config
from tests.conftest import ROOT

PAGES = ["README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md"] + sorted(
    f"docs/{name}" for name in os.listdir(os.path.join(ROOT, "docs")) if name.endswith(".md")
)


def text(page):
    with open(os.path.join(ROOT, page), encoding="utf-8") as handle:
        return handle.read()


def blocks(page):
    """Fenced blocks, whole."""
    return re.findall(r"^```\w*\n(.*?)^```", text(page), re.M | re.S)


def commands(page):
    """Command lines of fenced blocks, continued lines joined, comments and placeholders left out."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.split(" #")[0].strip()
            if re.match(r"(\w+=\S+ )*(bash|python3|mpirun|msrun) ", line):
                yield line


def test_both_readmes_have_the_same_sections_and_commands():
    levels = [re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text(page), flags=re.S), re.M) for page in PAGES[:2]]
    assert levels[0] == levels[1]
    assert blocks("README.md") == blocks("README.zh.md")
    # the same keys, files and figures in the prose and the tables
    names = [sorted(set(re.findall(r"`[^`\n]+`", text(page)))) for page in PAGES[:2]]
    assert names[0] == names[1]
    rows = [len(re.findall(r"^\|", text(page), re.M)) for page in PAGES[:2]]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", text(page)):
        if not target.startswith("http"):
            path = os.path.join(ROOT, os.path.dirname(page), target.split("#")[0])
            assert os.path.exists(path), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_files_and_options_that_exist(page):
    known = set(load_config(["--device_target=CPU"])) | {"config_path"}
    for line in commands(page):
        words = [word for word in shlex.split(line) if word != "..."]
        scripts = [word for word in words if re.fullmatch(r"[\w./]+\.(py|sh)", word)]
        assert scripts, line
        for script in scripts:
            assert os.path.exists(os.path.join(ROOT, script)), line
        options = [word[2:].split("=")[0] for word in words[words.index(scripts[0]) :] if word.startswith("--")]
        if scripts[0] in ("train.py", "eval.py", "export.py"):
            assert set(options) <= known, (line, set(options) - known)
        elif scripts[0].endswith(".py"):
            source = text(scripts[0])
            for option in options:
                takes_keys = "load_config" in source and option in known
                assert takes_keys or option in source, (line, option)
        for config in re.findall(r"config/\w+\.yaml", line):
            assert os.path.exists(os.path.join(ROOT, config)), line


def messages():
    """Every text of the sources, with … where a value stands."""
    found = []
    for place in ("src", "scripts", "."):
        folder = os.path.join(ROOT, place)
        for top, folders, names in os.walk(folder):
            if place == ".":
                folders[:] = []
            for name in names:
                if name.endswith(".py"):
                    for node in ast.walk(ast.parse(text(os.path.relpath(os.path.join(top, name), ROOT)))):
                        if isinstance(node, ast.JoinedStr):
                            found.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
                        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                            found.append(re.sub(r"%[\d.]*[dsfg]", "…", node.value))
    return found


def test_troubleshooting_quotes_what_the_program_prints():
    page, known = text("docs/troubleshooting.md"), messages()
    quoted = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| `")]
    assert len(quoted) >= 50
    for line in quoted:
        pieces = [piece.strip() for piece in line.strip("`").split("…")]
        assert any(all(piece in message for piece in pieces) for message in known), line


def test_every_key_is_explained():
    import yaml

    schema, texts, choices = yaml.safe_load_all(text("config/ssd_resnet50_fpn_config_gpu.yaml"))
    assert list(texts) == list(schema)  # in the same order, too
    assert set(choices) <= set(schema)
