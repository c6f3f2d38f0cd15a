"""Links, commands, options, messages and keys in the documents exist, and both languages say the same."""

import ast
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from src.config import load_config
from src.config.networks import NETWORKS, OPTIONAL_KEYS
from tests.helpers.pages import blocks, commands, text
from tests.helpers.paths import ROOT

PAGES = ["README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md"] + sorted(
    f"docs/{name}" for name in os.listdir(os.path.join(ROOT, "docs")) if name.endswith(".md")
)


def without_comments(block):
    """The lines of a block without trailing `# ...`, which are translated."""
    lines = (re.sub(r"(^|\s+)# .*", "", line) for line in block.splitlines())
    return [line for line in lines if line]


def outside_blocks(page):
    return re.sub(r"^```.*?^```", "", text(page), flags=re.M | re.S)


@pytest.mark.parametrize("page", ["README", "docs/data", "docs/troubleshooting"])
def test_both_languages_say_the_same(page):
    pages = [f"{page}.md", f"{page}.zh.md"]
    prose = [outside_blocks(name) for name in pages]
    headings, rows, names, messages = (
        [re.findall(pattern, one, re.M) for one in prose]
        for pattern in (r"^(#+) ", r"^\|", r"`[^`\n]+`", r"^\| (`[^|]*`) \|")
    )
    assert headings[0] == headings[1]
    assert len(rows[0]) == len(rows[1])
    assert [without_comments(one) for one in blocks(pages[0])] == [without_comments(one) for one in blocks(pages[1])]
    assert sorted(set(names[0])) == sorted(set(names[1]))  # keys, files, options
    assert messages[0] == messages[1]  # in the same order
    assert re.search(r"[\u4e00-\u9fff]", prose[1]) and not re.search(r"[\u4e00-\u9fff]", prose[0].replace("中文", ""))


def test_readme_is_a_front_page():
    for page in PAGES[:2]:
        lines = text(page).splitlines()
        assert len(lines) <= 250
        first = "\n".join(lines[:16])
        for link in (
            "Deep-Spark/DeepSparkHub",
            "mindspore-ai/models",
            "arxiv.org/abs/1512.02325",
            "docs/images/detections.jpg",
        ):
            assert link in first, f"{page}: {link}"
    folder = os.path.join(ROOT, "docs", "images")
    pictures = [name for name in os.listdir(folder) if name.endswith((".png", ".jpg", ".svg"))]
    assert all(os.path.getsize(os.path.join(folder, name)) < 300_000 for name in pictures)
    assert all(f"`{name}`" in text("docs/images/README.md") for name in pictures)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_name_their_language(page):
    fences = re.findall(r"^```(.*)$", text(page), re.M)
    assert len(fences) % 2 == 0
    assert set(fences[::2]) <= {"bash", "text", "yaml", "python", "json", "bibtex"}


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", outside_blocks(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", text(page)):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(page), name)) if name else page
        assert os.path.exists(os.path.join(ROOT, path)), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}"


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
    """All texts in the sources, with … in place of values."""
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
    schema, texts, choices = configuration()
    assert list(texts) == list(schema)  # in the same order, too
    assert set(choices) <= set(schema)


def configuration():
    return yaml.safe_load_all(text("config/ssd_resnet50_fpn_config_gpu.yaml"))


def test_the_page_of_keys_has_all_of_them():
    schema, texts, choices = configuration()
    rows = []
    for key, value in schema.items():
        is_long = isinstance(value, list) and len(str(value)) > 60
        default = f"{len(value)} entries" if is_long else '`""`' if value == "" else f"`{value}`"
        one_of = "; one of " + ", ".join(map(str, choices[key])) if key in choices else ""
        rows.append(f"| `{key}` | {default} | {texts[key]}{one_of} |")
    listed = text("docs/configuration.md").split("\n## All keys\n")[1].splitlines()
    page = [line for line in listed if re.match(r"\| `\w+` \| (`|\d)", line)]
    assert page == rows  # if they differ, correct the page


def table(page, header):
    """Cells of the rows of a table, by the first one; backquotes taken off."""
    lines = text(page).split(f"\n{header}")[1].splitlines()[2:]
    rows = [
        re.split(r" \| ", line.strip("| ")) for line in lines[: next(k for k, line in enumerate(lines) if not line)]
    ]
    return {first.strip("`"): cells for first, *cells in rows}


def test_the_page_of_keys_has_the_networks():
    files = table("docs/configuration.md", "| `model_name` |")
    assert {name: cells[0].strip("`") for name, cells in files.items()} == {
        name: NETWORKS[name].config for name in NETWORKS
    }
    named = set(re.findall(r"`(\w+\.yaml)`", text("docs/configuration.md")))
    assert set(os.listdir(os.path.join(ROOT, "config"))) <= named
    reading = table("docs/configuration.md", "| key | read by |")
    assert list(reading) == list(OPTIONAL_KEYS)
    for key, (networks, elsewhere) in reading.items():
        assert set(re.findall(r"\w+", networks)) == {name for name in NETWORKS if key in NETWORKS[name].keys}
        neutral = OPTIONAL_KEYS[key]
        assert elsewhere == ("no effect" if neutral is None else f"only `{neutral}`")


def test_architecture_names_files_that_exist(tmp_path):
    folder = tmp_path / "docs" / "images"
    folder.mkdir(parents=True)
    (folder / "architecture.py").write_text(text("docs/images/architecture.py"))
    subprocess.run([sys.executable, str(folder / "architecture.py")], check=True)
    assert (tmp_path / "docs" / "architecture.svg").read_text() == text("docs/architecture.svg")
    sources = {
        os.path.relpath(os.path.join(top, name), ROOT)
        for place in ("src", "scripts", "tests")
        for top, _, names in os.walk(os.path.join(ROOT, place))
        for name in names
    }
    for page in ("docs/architecture.md", "docs/architecture.svg"):
        for name in set(re.findall(r"[\w/]+\.py\b", text(page))):
            assert any(f"/{path}".endswith(f"/{name}") for path in sources), f"{page}: {name}"
