"""scripts/check_device.py: table, failures, time limits, a stand-in driver, and everything on a CPU."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from argparse import Namespace

import pytest

from benchmarks.device import Devices, find_devices, processor
from benchmarks.device_checks import COLUMNS, Rows, Sizes, check_numbers, format_row, readme_line
from benchmarks.processes import figures_of, output_of
from scripts.check_device import parse, sizes_for
from src.utils.errors import UserError
from tests.helpers.pages import text
from tests.helpers.paths import ROOT
from tests.helpers.programs import run

V100 = Devices("GPU", ["Tesla V100"] * 8, 31.7, 7.0, "CUDA 11.4")


def test_values_stand_below_their_titles():
    row = dict.fromkeys(key for key, *_ in COLUMNS)
    row.update(part="step", precision="tf32", seconds_a_step=0.5, images_a_second=32, gib=19.31, waiting=0.004)
    line, header = format_row(dict(row, result="ok")), Rows.header()
    for title, value in (("s/step", "0.5000"), ("images/s", "32.0"), ("GiB", "19.3"), ("waiting", "0.4%")):
        assert line.index(value) + len(value) == header.index(title) + len(title)
    assert line.index("ok") == header.index("result")


def test_a_failure_is_a_row_and_the_others_go_on(capsys):
    rows = Rows(minutes=1, limit=10)

    def fails(limit):
        raise RuntimeError("step_mindspore.py ended with 1:\nout of memory")

    assert rows.measure("first", "float32", fails) is None
    assert rows.measure("second", "tf32", lambda more, limit: {"gib": more}, 3.0)["gib"] == 3.0
    assert [row["result"] for row in rows.rows] == ["failed: step_mindspore.py ended with 1: out of memory", "ok"]
    assert rows.failures == 1 and len(capsys.readouterr().out.splitlines()) == 2


def test_the_first_measurement_has_twice_the_time_and_none_begins_after_the_end():
    limits = []
    rows = Rows(minutes=10, limit=10)
    for _ in range(2):
        rows.measure("part", "float32", lambda limit: limits.append(round(limit)) or {})
    assert limits == [20, 10]
    late = Rows(minutes=0.05, limit=10)
    assert late.measure("part", "float32", lambda limit: {}) is None
    assert late.rows[0]["result"] == "failed: the 0.05 minutes were over"


def test_a_program_that_takes_too_long_ends_with_its_children(tmp_path):
    pids = tmp_path / "pid"
    program = tmp_path / "slow.py"
    lines = ["import subprocess, time", "child = subprocess.Popen(['sleep', '60'])"]
    lines += [f"open({str(pids)!r}, 'w').write(str(child.pid))", "time.sleep(60)"]
    program.write_text("\n".join(lines))
    with pytest.raises(RuntimeError, match=r"slow\.py had not ended after 3 s"):
        output_of([sys.executable, program], 3)
    assert _until(lambda: not _runs(int(pids.read_text())), 10)


def test_a_signal_ends_what_was_started(tmp_path):
    pids = tmp_path / "pid"
    program = tmp_path / "waits.py"
    program.write_text(f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    code = "import sys; from scripts import check_device as c; from benchmarks.processes import output_of\n"
    code += (
        f"c.check_mindspore = lambda *_: output_of([sys.executable, {str(program)!r}]); c.run_main(c.main, ['--cpu'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL) as run:
        _until(lambda: pids.exists() and pids.read_text(), 60)
        run.terminate()
        run.wait(20)
    assert _until(lambda: not _runs(int(pids.read_text())), 10)


def _until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as handle:
            return handle.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_figures_are_the_last_line(tmp_path):
    program = tmp_path / "figures.py"
    program.write_text("import os; print('noise'); print('{\"a\": ' + os.environ['VALUE'] + '}')")
    assert figures_of([sys.executable, program], 20, VALUE="3") == {"a": 3}
    program.write_text("raise RuntimeError('no memory\\n----\\n- The stack: ' + 'x' * 600)")
    with pytest.raises(RuntimeError, match=r"figures\.py ended with 1: RuntimeError: no memory\n"):
        figures_of([sys.executable, program])
    program.write_text("import sys; print('lost', file=sys.stderr); sys.exit(3)")
    with pytest.raises(RuntimeError, match=r"figures\.py ended with 3: lost"):
        figures_of([sys.executable, program])


@pytest.mark.parametrize(
    "figure, loss, results",
    [(5e-4, 4.0, ["ok", "ok"]), (2e-3, 4.0, ["failed", "ok"]), (float("nan"), 5.0, ["failed", "failed"])],
)
def test_numbers_are_compared(monkeypatch, figure, loss, results):
    def numbers(target, steps, limit, **variables):
        return {"figures": {"class logits": [figure, 1e-3]}, "losses": [8.0, 4.0 if target == "CPU" else loss]}

    monkeypatch.setattr("benchmarks.device_checks.numbers", numbers)
    rows = Rows(minutes=10, limit=10)
    check_numbers(rows, V100, 2)
    assert [row["result"].split(":")[0] for row in rows.rows] == results
    assert rows.rows[1]["losses_cpu"] == [8.0, 4.0]


def test_the_line_for_the_readme_has_the_columns_of_its_table():
    sizes = Sizes(16, 640, 14, 24, 8, 20)
    line = readme_line(V100, sizes, {"precision": "float32", "seconds_a_step": 0.5512}, 8)
    header = next(line for line in text("README.md").splitlines() if "| hardware and software |" in line)
    assert line.count("|") == header.count("|")
    assert [cell.strip() for cell in line.split("|")][2:6] == [
        "8 Tesla V100 (float32)",
        "none, 16",
        "not trained",
        "0.551",
    ]


def test_sizes_fit_the_device():
    given = Namespace(batch=None, size=None, devices=None)
    assert sizes_for(V100, given) == Sizes(16, 640, 14, 24, 8, 20)
    assert sizes_for(V100._replace(gib=15.8), given).batch == 8  # docs/devices.md, "Memory"
    assert sizes_for(Devices("Ascend", ["Ascend"] * 2), given)[:2] == (32, 640)
    assert sizes_for(processor(), Namespace(batch=4, size=256, devices=1)) == Sizes(4, 256, 4, 6, 1, 6)
    assert V100.precisions == ["float32", "float16"]
    assert V100._replace(capability=8.0).precisions == ["float32", "tf32", "float16"]


@pytest.mark.parametrize(
    "options, words",
    [(["--batch=0"], "--batch must be above 0"), (["--size=100"], "multiple of 128"), (["--json=/"], "is a folder")],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=words):
        parse(options)


STAND_IN = """
#include <string.h>
#include <stddef.h>
int cuInit(unsigned f) { return 0; }
int cuDriverGetVersion(int *v) { *v = 11080; return 0; }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
int cuDeviceGet(int *d, int n) { *d = n; return 0; }
int cuDeviceGetName(char *s, int length, int d) { strcpy(s, d ? "NVIDIA B" : "NVIDIA A"); return 0; }
int cuDeviceTotalMem_v2(size_t *b, int d) { *b = (size_t)40 << 30; return 0; }
int cuDeviceGetAttribute(int *v, int what, int d) { *v = what == 75 ? 8 : what == 76 ? 6 : -1; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { return 0; }
int cuCtxSetCurrent(void *c) { return 0; }
int cuMemGetInfo_v2(size_t *f, size_t *t) { *f = (size_t)30 << 30; *t = (size_t)40 << 30; return 0; }
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")
def test_gpus_by_a_stand_in_driver(tmp_path):
    (tmp_path / "cuda.c").write_text(STAND_IN)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "cuda.c"], check=True)
    code = "from benchmarks.device import *; found = find_devices(); print(found)"
    code += "; print(found.precisions, device_memory(1) >> 30)"
    environment = dict(os.environ, LD_LIBRARY_PATH=str(tmp_path), PYTHONPATH=ROOT)
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "1 x NVIDIA A and 1 x NVIDIA B, 40.0 GiB, compute capability 8.6, driver for CUDA 11.8",
        "['float32', 'tf32', 'float16'] 10",
    ], done.stderr


@pytest.mark.skipif(find_devices() is not None, reason="there is a device")
def test_without_a_device_it_says_so(tmp_path):
    done = run("scripts/check_device.py", "--json", tmp_path / "device.json")
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: no device: ") and "--cpu" in done.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FULL"), reason="FULL=1 runs it: minutes")
def test_everything_on_a_cpu(tmp_path):
    script, file = os.path.join(ROOT, "scripts", "check_device.sh"), tmp_path / "device.json"
    (tmp_path / "work").mkdir()
    environment = dict(os.environ, VENV=sys.prefix)
    words = ["bash", script, "--cpu", "--json", str(file), "--work", str(tmp_path / "work")]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(file.read_text())
    parts = [(row["part"], row["precision"]) for row in content["rows"]]
    assert parts[:-1] == [
        ("published figures", "float32"),
        ("6 steps as on a CPU", "float32"),
        ("step, data on the device", "float32"),
        ("step, data on the device", "float16"),
        ("training (train.py)", "float32"),
        ("training on 2 devices", "float32"),
        ("scaling efficiency", "float32"),
        ("training (train.py)", "float16"),
    ]
    assert parts[-1][0] == "step in PyTorch"
    for row in content["rows"]:
        assert not row["result"].startswith("failed") and format_row(row) in done.stdout
        if row["seconds_a_step"]:
            images = 2 * (2 if "2 devices" in row["part"] else 1)
            assert row["images_a_second"] == pytest.approx(images / row["seconds_a_step"])
    numbers, steps = content["rows"][:2]
    assert all(0 < difference <= allowed for difference, allowed in numbers["figures"].values())
    assert len(steps["losses"]) == 6 and steps["losses"] != steps["losses_cpu"]  # different rounding
    assert re.search(r"mindspore(-gpu)? \d+\.\d+", done.stdout) and content["readme"] in done.stdout
    assert os.listdir(tmp_path / "work") == [] and sorted(os.listdir(tmp_path)) == ["device.json", "work"]
