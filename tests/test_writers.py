"""All files are written through src/utils/output.py; the only other calls that write are listed here."""

import ast
import os

import pytest

from tests.helpers.paths import ROOT

# (file, call) -> why it does not go through src/utils/output.py
ALLOWED = {
    ("src/utils/output.py", "*"): "the place itself",
    ("src/utils/video.py", "*"): "its part for videos",
    ("src/data/records/writer.py", "FileWriter"): "MindSpore's writer of records, into a folder that is renamed",
    ("src/data/records/writer.py", "os.replace"): "gives checked records their names",
    ("src/utils/console.py", "*"): "/dev/null in place of a closed stream",
    ("scripts/rehearsal.py", "*"): "a test bench that draws data and fills the page cache",
    ("benchmarks/rehearsal/data.py", "*"): "as scripts/rehearsal.py",
    ("benchmarks/rehearsal/run.py", "*"): "as scripts/rehearsal.py",
    ("src/inference/exporter.py", "*"): "MindSpore's exporter, into a folder whose files are checked and renamed",
    ("src/inference/onnx_graph.py", "onnx.save"): "a file in the exporter's folder",
    ("src/inference/onnx_optimize.py", "onnx.save"): "a file in the exporter's folder",
    ("src/inference/onnx_precision.py", "*"): "files in the exporter's folder",
    ("src/inference/metadata.py", "*"): "a file in the exporter's folder",
    ("src/utils/locks.py", "os.open"): "the lock files",
    ("src/start/processes.py", "open"): "the output of a program, while it runs",
    ("scripts/launch.py", "os.open"): "/dev/null in place of a stream that nobody reads",
    ("src/utils/compile_cache.py", "*"): "a cache that is left out when it cannot be written, checked by its checksums",
    ("src/training/run_files.py", "*"): "moves the files of an earlier run",
    ("scripts/draw_shapes.py", "os.replace"): "gives complete pictures their names",
    ("benchmarks/baselines.py", "FileWriter"): "what the benchmark compares with, in its temporary folder",
    ("benchmarks/scoring.py", "*"): "what its two sides hand over, in a temporary folder",
    ("benchmarks/data.py", "open"): "a switch of the kernel in /proc",
    ("tests/stress/kill_test.py", "open"): "where a child process prints to",
    ("tests/stress/soak.py", "open"): "where a child process prints to",
}
MOVES = {"os.rename", "os.replace", "os.renames", "shutil.move", "shutil.copy", "shutil.copy2", "shutil.copyfile"}
WRITERS = {
    "imwrite",
    "imwritemulti",
    "VideoWriter",
    "FileWriter",
    "FileHandler",
    "write_bytes",
    "write_image",
    "tofile",
}
WRITERS |= {"save_checkpoint", "savetxt", "to_csv", "to_json", "to_html", "to_excel", "SummaryWriter", "mkstemp"}
# these accept a path or an open file: only a file from `atomic_write` (or memory) is allowed
TO_A_HANDLE = {"json.dump": 1, "np.save": 0, "np.savez": 0, "np.savez_compressed": 0, "pickle.dump": 1, "yaml.dump": 1}
TO_A_HANDLE.update({"savefig": 0, "csv.writer": 0})


def sources():
    yield from ("train.py", "eval.py", "export.py")
    for top in ("src", "scripts", "benchmarks"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in sorted(names):
                if name.endswith(".py"):
                    yield os.path.relpath(os.path.join(folder, name), ROOT)


def dotted(node) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def safe_names(tree) -> set:
    """Names that `with atomic_write(...) as name` or `name = io.BytesIO()` give."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call):
            if dotted(node.context_expr.func) == "atomic_write" and isinstance(node.optional_vars, ast.Name):
                found.add(node.optional_vars.id)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if dotted(node.value.func) in ("io.BytesIO", "io.StringIO"):
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def mode_of(call) -> str:
    """The mode of an open(); one that is computed counts as writing."""
    values = call.args[1:2] + [word.value for word in call.keywords if word.arg == "mode"]
    return "r" if not values else values[0].value if isinstance(values[0], ast.Constant) else "w"


def writing_calls(text: str) -> list:
    """[(call, line)] of calls that write a file directly."""
    tree, found, safe = ast.parse(text), [], {}
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            safe[id(call)] = safe.get(id(call), set()) | safe_names(function)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = dotted(call.func) or (call.func.attr if isinstance(call.func, ast.Attribute) else "")
        last = name.rsplit(".", 1)[-1]
        if name in ("open", "io.open", "gzip.open", "zipfile.ZipFile") and set(mode_of(call)) & set("wax+"):
            found.append((name, call.lineno))
        elif name == "os.open" and any(word in ast.dump(call) for word in ("O_WRONLY", "O_RDWR", "O_CREAT")):
            found.append((name, call.lineno))
        elif (
            last == "open" and name not in ("open", "os.open") and call.args and set(mode_of_method(call)) & set("wax+")
        ):
            found.append((name, call.lineno))
        elif name in MOVES or name in ("onnx.save", "torch.save", "ms.export", "mindspore.export"):
            found.append((name, call.lineno))
        elif last in WRITERS or (last == "write_text" and isinstance(call.func, ast.Attribute)):
            found.append((last, call.lineno))
        else:
            for pattern, position in TO_A_HANDLE.items():
                if name == pattern or ("." not in pattern and last == pattern):
                    target = call.args[position] if len(call.args) > position else None
                    if not (isinstance(target, ast.Name) and target.id in safe.get(id(call), ())):
                        found.append((pattern, call.lineno))
    return found


def mode_of_method(call) -> str:
    """The mode of path.open("w"); of Image.open(path) the argument is a path, and no mode."""
    value = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else ""
    return value if isinstance(value, str) and len(value) <= 3 else ""


def test_the_search_finds_what_it_must():
    found = writing_calls(
        "import io\n"
        "def f(path):\n"
        "    with open(path, 'w') as handle:\n"
        "        json.dump(1, handle)\n"
        "    cv2.imwrite(path, x); figure.savefig(path); np.savez('x.npz', a=1); Path(path).write_text('')\n"
        "def g(path):\n"
        "    with atomic_write(path) as handle:\n"
        "        json.dump(1, handle)\n"
        "    with open(path, 'rb') as other:\n"
        "        other.read()\n"
        "    data = io.BytesIO()\n"
        "    figure.savefig(data)\n"
    )
    assert sorted(found) == sorted(
        [("open", 3), ("json.dump", 4), ("imwrite", 5), ("savefig", 5), ("np.savez", 5), ("write_text", 5)]
    )


@pytest.mark.parametrize("path", sources())
def test_only_one_place_writes_files(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as handle:
        found = writing_calls(handle.read())
    faults = [(call, line) for call, line in found if not {(path, call), (path, "*")} & set(ALLOWED)]
    assert not faults, f"{path} writes files past src/utils/output.py: {faults}"


def test_no_exception_is_out_of_date():
    for path, call in ALLOWED:
        with open(os.path.join(ROOT, path), encoding="utf-8") as handle:
            names = [name for name, _ in writing_calls(handle.read())]
        assert names if call == "*" else call in names, f"({path}, {call}) is not needed any more"
