"""scripts/benchmark_model.py: a line per file and runtime, and one line about what cannot be measured."""

import json
import os

import numpy as np
import onnx
import pytest

from scripts import benchmark_model
from src.inference.onnx_optimize import BATCH
from src.utils.errors import UserError
from tests.helpers.predictions import write_fixed_model
from tests.helpers.programs import run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of batch 1, one of any batch, and one that is no model."""
    folder = tmp_path_factory.mktemp("models")
    fixed, dynamic, broken = (str(folder / f"{name}.onnx") for name in ("fixed", "dynamic", "broken"))
    write_fixed_model(fixed)
    model = onnx.load(fixed)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = BATCH
    (says,) = [entry for entry in model.metadata_props if entry.key == "dynamic_batch"]
    says.value = "true"
    onnx.save(model, dynamic)
    with open(broken, "wb") as handle:
        handle.write(b"no model")
    return fixed, dynamic, broken


def test_a_table_and_json(files, tmp_path):
    path = tmp_path / "figures.json"
    fixed, dynamic, _ = files
    options = ["--runtime", "onnxruntime", "--batch", 1, 3, "--threads", 1, "--seconds", 0.2, "--json", path]
    done = run("scripts/benchmark_model.py", fixed, dynamic, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert [(row["file"], row["batch"]) for row in found["rows"]] == [
        ("fixed.onnx", 1),
        ("dynamic.onnx", 1),
        ("dynamic.onnx", 3),  # the other's batch is fixed
    ]
    for row, line in zip(found["rows"], done.stdout.splitlines()[2:]):
        assert row["runtime"] == "onnxruntime" and row["threads"] == 1 and row["computes"] == "float32"
        assert 0 < row["p50_ms"] <= row["p95_ms"] and row["calls"] >= 5 and 20 < row["peak_mb"] < 2000
        # pictures per second are those of the calls alone
        assert row["pictures_per_s"] <= 1000 * row["batch"] / row["p50_ms"] * 2
        assert line.split()[:2] == [row["file"], row["runtime"]] and f"{row['p50_ms']:.1f}" in line
    first, second, third = found["rows"]
    assert (first["times"], third["times"]) == (1, 1)
    assert second["times"] == pytest.approx(second["pictures_per_s"] / first["pictures_per_s"])
    assert found["packages"]["onnxruntime"] and found["cores"] == len(os.sched_getaffinity(0))


def test_a_file_that_cannot_be_run_is_named_after_the_others(files):
    fixed, _, broken = files
    done = run("scripts/benchmark_model.py", broken, fixed, "--runtime", "onnxruntime", "--seconds", 0.1)
    assert done.returncode == 2 and "fixed.onnx" in done.stdout
    (line,) = done.stderr.splitlines()
    assert "broken.onnx in onnxruntime: " in line and "damaged or no ONNX file" in line


def test_the_figures_of_given_calls(tmp_path):
    class Process:
        case = benchmark_model.Case(str(tmp_path / "x.onnx"), "onnxruntime", 2, 1)
        ready = {"batch": 2, "computes": "int8", "load_s": 1.5}

        def close(self):
            return 5_000_000

    (tmp_path / "x.onnx").write_bytes(b"x" * 3000)
    row = benchmark_model.row_of(Process(), np.array([0.1] * 19 + [0.3]))
    assert row["pictures_per_s"] == pytest.approx(2 * 20 / 2.2) and row["p50_ms"] == pytest.approx(100)
    assert row["p95_ms"] == pytest.approx(110) and (row["peak_mb"], row["file_mb"]) == (5, 0.003)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--threads", "4096"], "--threads must lie in 1 to"),
        (["--seconds", "0"], r"--seconds must lie in \(0, 3600\], got 0"),
        (["/no/such.onnx"], "no such file: /no/such.onnx"),
        ([__file__], "a model's name ends in .ckpt, .mindir, .onnx, got"),
    ],
)
def test_bad_values(files, options, words):
    with pytest.raises(UserError, match=words):
        benchmark_model.parse([files[0], *options] if options[0].startswith("--") else options)
