"""The rehearsal at the size of COCO: its data, its measurements, its errors; and a small one from end to end."""

import glob
import json
import os
import subprocess
import sys
import time
import tracemalloc

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from benchmarks.rehearsal import data as rehearsal_data
from benchmarks.rehearsal import run as rehearsal_run
from scripts import rehearsal
from src.data.readers.coco import load_coco_json
from src.utils.errors import UserError
from tests.helpers.paths import ROOT

SCALE = 0.003


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "coco"
    return folder, rehearsal_data.draw(str(folder), SCALE)


def truth(folder, split):
    with open(os.devnull, "w") as nowhere:
        stdout, sys.stdout = sys.stdout, nowhere
        try:
            return COCO(str(folder / "annotations" / f"instances_{split}.json"))
        finally:
            sys.stdout = stdout


def test_full_size_has_the_numbers_of_coco():
    assert rehearsal_data.scaled("train2017", 1.0) == (118287, 117266, 860001)
    assert rehearsal_data.scaled("val2017", 1.0) == (5000, 4952, 36781)
    ids = rehearsal_data.category_ids()
    assert len(ids) == 80 and ids[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13] and ids[-3:] == [88, 89, 90]


def test_drawn_pictures_and_boxes(drawn):
    folder, numbers = drawn
    seen, contents = set(), set()
    for split, (pictures, boxed, boxes) in (("train2017", (355, 352, 2580)), ("val2017", (15, 14, 110))):
        coco = truth(folder, split)
        assert len(coco.imgs) == pictures and len(coco.anns) == boxes
        assert sum(len(coco.getAnnIds(image)) > 0 for image in coco.imgs) == boxed < pictures
        crowds = sum(row["iscrowd"] for row in coco.anns.values())
        assert crowds == round(0.01 * boxes)
        assert numbers[split] == {"images": pictures, "images_with_boxes": boxed, "boxes": boxes, "crowds": crowds}
        assert not seen & set(coco.imgs)
        seen |= set(coco.imgs)
        colours = []
        for image_id, row in coco.imgs.items():
            content = (folder / split / row["file_name"]).read_bytes()
            contents.add(content)
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            assert pixels.shape == (row["height"], row["width"], 3)
            for found in coco.loadAnns(coco.getAnnIds(image_id)):
                x, y, width, height = found["bbox"]
                assert x >= 0 and y >= 0 and width > 3.9 and height > 3.9
                assert x + width <= row["width"] and y + height <= row["height"]
            if coco.getAnnIds(image_id):  # the last box is on top: its centre has the colour of its class
                label = rehearsal_data.category_ids().index(found["category_id"])
                middle = pixels[int(y + height / 2), int(x + width / 2)].astype(int)
                colours.append(np.abs(middle - rehearsal_data._palette()[label]).max())
        assert np.median(colours) < 40
    assert len(contents) == len(seen) == 370
    assert max(seen) == 581929


def test_annotations_of_cocos_size_fit_into_memory(drawn):
    """COCO's file has 500 bytes per annotation, mostly outlines: 3 KB as Python numbers, 2.7 GB in total."""
    path = drawn[0] / "annotations" / "instances_train2017.json"
    assert 450 < path.stat().st_size / 2580 < 650
    tracemalloc.start()
    content = load_coco_json(str(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / 2580 * 860001 < 1.6e9
    assert all("segmentation" not in row and len(row["bbox"]) == 4 for row in content["annotations"])


def run(tmp_path, code, **more):
    environment = rehearsal_run.limited_environment()
    return rehearsal_run.run([sys.executable, "-c", code], str(tmp_path), str(tmp_path / "log"), environment, **more)


def test_the_largest_process_is_measured_under_limits(tmp_path):
    child = "import time; held = bytearray(150_000_000); time.sleep(0.6)"
    code = (
        "import os, resource, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {child!r}])\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE), os.path.exists(os.environ['HOME']))\n"
        "try:\n    os.makedirs(os.path.expanduser('~/.cache'))\nexcept OSError:\n    print('no home')\n"
        "sys.exit(3)"
    )
    done = run(tmp_path, code)
    assert done.status == 3 and done.output.splitlines() == ["(256, 256) False", "no home"]
    assert 150 < done.peak_mb < 200 and done.largest.startswith("python")


def test_a_peak_between_two_samples_counts(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from benchmarks.rehearsal import run as rehearsal_run\n"
        "rehearsal_run.SAMPLE_SECONDS = 1.0\n"
        "words = [sys.executable, '-c', 'held = bytearray(90_000_000)']\n"
        "print(rehearsal_run.run(words, '.', 'log', rehearsal_run.limited_environment()).peak_mb)"
    )
    peak = float(subprocess.check_output([sys.executable, "-c", code, ROOT], cwd=tmp_path))
    assert 90 < peak < 140


def test_a_stage_is_stopped_or_ended(tmp_path, monkeypatch):
    code = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(143))\nprint('ready')\ntime.sleep(60)"
    assert run(tmp_path, code, stop_when=lambda output: "ready" in output).status == 143
    assert run(tmp_path, "import os; os.kill(os.getpid(), 9)").status == 137
    monkeypatch.setattr(rehearsal_run, "SILENT_SECONDS", 0.5)
    start = time.time()
    done = run(tmp_path, "import subprocess; subprocess.run(['sleep', '61.25'])")
    assert done.status == 137 and "printed nothing" in done.output and time.time() - start < 10
    assert "61.25" not in subprocess.run(["ps", "-eo", "args"], stdout=subprocess.PIPE, text=True).stdout


def test_read_only_mount(tmp_path):
    (tmp_path / "data").mkdir()
    before = rehearsal_run.listing(str(tmp_path / "data"))
    words = rehearsal_run.read_only_mount(str(tmp_path / "data"))
    if not words:
        pytest.skip("this user may not mount")
    done = subprocess.run([*words, "touch", str(tmp_path / "data" / "x")], stderr=subprocess.PIPE)
    assert done.returncode and before == rehearsal_run.listing(str(tmp_path / "data"))
    (tmp_path / "data" / "x").write_text("for others it can be written")
    assert before != rehearsal_run.listing(str(tmp_path / "data"))


def test_page_cache_file_takes_no_room_and_goes(tmp_path, monkeypatch):
    """64 MB are free at first, nothing after the first round, and 8 MB again while the stage runs."""
    sizes = iter([64 << 20, 0, 0])
    monkeypatch.setattr(rehearsal_run, "STARVED", 4 << 20)
    monkeypatch.setattr(rehearsal_run, "memory_info", lambda: {"MemFree": next(sizes, 8 << 20)})
    with rehearsal_run.full_page_cache(str(tmp_path)) as free:
        (path,) = tmp_path.iterdir()
        assert free == 0
        assert path.stat().st_size == 62 << 20
        time.sleep(0.5)
        assert path.stat().st_size > 62 << 20  # kept full
        assert path.stat().st_blocks < 64
    assert list(tmp_path.iterdir()) == []


def test_refusals_leave_nothing(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--scale must lie in \(0, 1\], got 2"):
        rehearsal.main(["--work", str(tmp_path), "--scale", "2"])
    monkeypatch.setattr(rehearsal_run, "free_bytes", lambda folder: 1000)
    with pytest.raises(UserError, match="has 1000 bytes free, 3600000000 are needed"):
        rehearsal.main(["--work", str(tmp_path / "new")])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "rehearsal").mkdir()
    (tmp_path / "rehearsal" / "mine").write_text("x")
    with pytest.raises(UserError, match="exists"):
        rehearsal.main(["--work", str(tmp_path)])
    assert (tmp_path / "rehearsal" / "mine").exists()


def test_a_failure_is_shown_and_what_needs_it_is_not_run(tmp_path, monkeypatch, capsys):
    """The second stage fails, the third needs it, the fourth uses too much memory, which does not stop later stages."""
    python = [sys.executable, "-c"]
    stages = [
        rehearsal.Stage("one", lambda: [*python, "print('fine')"], lambda output: ""),
        rehearsal.Stage(
            "two", lambda: [*python, "print('the reason'); raise SystemExit(2)"], lambda output: "", ("one",)
        ),
        rehearsal.Stage("three", lambda: [*python, ""], lambda output: "", ("two",)),
        rehearsal.Stage(
            "four", lambda: [*python, "import time; held = b'x' * 120_000_000; time.sleep(1)"], lambda output: ""
        ),
        rehearsal.Stage("five", lambda: [*python, "print('found 7')"], lambda output: "8 wanted", ("four",)),
    ]
    monkeypatch.setattr(rehearsal.Rehearsal, "stages", lambda self: stages)
    monkeypatch.setattr(rehearsal, "LIMIT_MB", 100)
    report = tmp_path / "report.json"
    assert rehearsal.main(["--work", str(tmp_path), "--scale", "0.01", "--json", str(report)]) == 1
    rows = json.loads(report.read_text())["stages"]
    assert [row["status"].split(",")[0] for row in rows[:3]] == ["ok", "FAILED: exit status 2", "not run: needs two"]
    assert rows[3]["status"].startswith("FAILED: used 1") and rows[4]["status"] == "FAILED: 8 wanted"
    out = capsys.readouterr().out
    assert "    the reason" in out and "| three | - | - | not run: needs two |" in out
    assert out.strip().endswith("FAILED: two, four, five")
    assert os.listdir(tmp_path) == ["report.json"]


@pytest.mark.slow
def test_small_rehearsal(tmp_path):
    words = [sys.executable, os.path.join(ROOT, "scripts", "rehearsal.py"), "--work", str(tmp_path / "work")]
    words += ["--scale", "0.01", "--json", str(tmp_path / "report.json")]
    done = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    rows = {row["stage"]: row for row in json.loads((tmp_path / "report.json").read_text())["stages"]}
    assert len(rows) == 11, done.stdout
    for row in rows.values():
        assert row["status"] in ("ok", "not run: mpirun not found"), done.stdout
    assert not glob.glob(str(tmp_path / "work" / "*"))
