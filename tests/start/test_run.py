"""scripts/start.py as a process, and the lines with which it stops."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from scripts.draw_shapes import draw_split
from src.start.run import Start
from tests.helpers.lines import line_of
from tests.helpers.paths import ROOT
from tests.helpers.programs import run
from tests.helpers.tool_formats import write_labelme


def unusable(folder, tmp_path, *words, **more):
    """start.py stops in one line before it measures anything."""
    start = Start(str(folder), str(tmp_path / "out"), 1, "", more.get("group_by", ""), 1, [], "CPU", lambda line: None)
    os.makedirs(tmp_path / "out", exist_ok=True)
    line_of(start.run, *words)


def test_unusable_data(sets, tmp_path):
    folder = shutil.copytree(sets[1] / "yolo", tmp_path / "yolo")
    images = sorted(os.listdir(folder / "images" / "train"))
    broken = folder / "images" / "train" / images[0]
    content = broken.read_bytes()
    broken.write_bytes(content[:10])
    unusable(folder, tmp_path, images[0], "broken")
    broken.write_bytes(content)
    for part in ("train", "val"):
        for name in os.listdir(folder / "labels" / part)[: 10 if part == "train" else 6]:
            (folder / "labels" / part / name).write_text("")
    unusable(folder, tmp_path, "pictures with boxes; at least 10", "label more")
    for path in folder.glob("labels/*/*.txt"):
        path.write_text("")
    unusable(folder, tmp_path, "no picture has a box", "label the objects")


def test_changed_annotations_need_another_output(sets, tmp_path):
    folder = shutil.copytree(sets[1] / "cvat", tmp_path / "cvat")
    start = Start(str(folder), str(tmp_path), 1, "", "", 1, [], "CPU", lambda line: None)
    start._read()
    start.save_state()
    with open(folder / "train" / "annotations.xml", "a", encoding="utf-8") as handle:
        handle.write("\n")
    again = Start(str(folder), str(tmp_path), 1, "", "", 1, [], "CPU", lambda line: None)
    again._load_state()
    line_of(again._read, "annotations changed", "--output")


def test_bad_options(sets, tmp_path):
    folder = sets[1] / "coco"
    for options, words in (
        (["--minutes", "0"], "--minutes must be"),
        (["--output", folder / "out"], "lies in the folder of the pictures"),
        (["--classes", "dragon", "--output", tmp_path], "dragon is not a class of the set"),
    ):
        done = run("scripts/start.py", folder, *options)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (folder / "out").exists()


SHORT = """_BASE_: ssd_resnet50_fpn_config_gpu.yaml
model_name: ssd_mobilenet_v1_fpn
img_shape: [128, 128]
batch_size: 4
epoch_size: 2
warmup_epochs: 0.5
save_checkpoint_epochs: 1
"""


def test_stages_are_not_repeated(sets, tmp_path, monkeypatch):
    """The programs are replaced by ones that take a minute each; an edit of start.yaml repeats them."""
    output, calls, starts = tmp_path / "out", [], []

    def program(what, words, log, watch=None):
        calls.append(what)
        starts[-1]._begin -= 60
        if what == "train":
            os.makedirs(output / "run" / "ckpt_0", exist_ok=True)
            (output / "run" / "ckpt_0" / "ssd-2_3.ckpt").write_bytes(b"x")
        return "AP50 (IoU 0.5) - - 0.75\nmAP: 0.5" if what == "evaluate" else ""

    def start():
        said = []
        starts.append(Start(str(sets[1] / "coco"), str(output), 20, "", "", 1, [], "CPU", said.append))
        starts[-1].run()
        return next(line for line in said if line.startswith("result: "))

    monkeypatch.setattr("src.start.run.run_program", program)
    output.mkdir()
    (output / "start.yaml").write_text(SHORT)
    assert start().startswith("result: mAP 0.5, AP50 0.75 ") and calls == ["check", "train", "evaluate", "export"]
    assert start().endswith("after 4.0 minutes") and len(calls) == 4
    written = yaml.safe_load((output / "start.yaml").read_text())
    assert written["epoch_size"] == 2 and written["ema_decay"] == 0.9 and written["lr"] == 0.0005
    (output / "start.yaml").write_text((output / "start.yaml").read_text().replace("lr: 0.0005", "lr: 0.001"))
    assert start().endswith("after 3.0 minutes") and calls[4:] == ["check", "train", "evaluate", "export"]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FULL"), reason="FULL=1 runs it: minutes")
def test_from_a_folder_to_detections(tmp_path):
    """40 drawn pictures of LabelMe without a split: stopped in training, continued, and used on a new picture."""
    drawn, output = tmp_path / "drawn", tmp_path / "out"
    draw_split(str(drawn / "coco" / "train2017"), str(drawn / "train.json"), 40, [1, 2], 160, 1)
    content = json.loads((drawn / "train.json").read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    images = [
        (image, [(names[r["category_id"]], *r["bbox"]) for r in content["annotations"] if r["image_id"] == image["id"]])
        for image in content["images"]
    ]
    write_labelme(tmp_path / "photos", drawn / "coco" / "train2017", images)
    before = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "photos").rglob("*"))}
    output.mkdir()
    (output / "start.yaml").write_text(SHORT)
    command = [sys.executable, os.path.join(ROOT, "scripts/start.py"), str(tmp_path / "photos"), f"--output={output}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        for line in started.stdout:
            if line.startswith("training: epoch"):
                started.send_signal(signal.SIGTERM)
                break
        assert "the same command continues" in started.stdout.read()
    assert started.returncode == 143 and list((output / "run" / "ckpt_0").glob("ssd-*.ckpt"))

    done = run("scripts/start.py", tmp_path / "photos", f"--output={output}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "split: 32 pictures for train and 8 for val" in done.stdout and "epoch_size 2, warmup_epochs 0.5" in done.stdout
    )
    log = (output / "log" / "train.txt").read_text()
    assert "resumed: epoch" in log and log.count("epoch 1/2: loss") == 1
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert os.path.isfile(lines["report"]) and re.match(r"mAP [\d.]+, AP50 [\d.]+ ", lines["result"])
    words = shlex.split(lines["new pictures"])
    found = run(os.path.relpath(words[1], ROOT), *words[2:-1], drawn / "coco" / "train2017", "--min_score=0")
    assert found.returncode == 0 and json.loads((output / "detections" / "detections.json").read_text())["annotations"]
    assert before == {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "photos").rglob("*"))}

    again = run("scripts/start.py", tmp_path / "photos", f"--output={output}")
    assert again.returncode == 0 and "trained already" in again.stdout
    assert (output / "log" / "train.txt").read_text() == log


@pytest.mark.slow
def test_a_step_is_measured_first(sets, tmp_path):
    """Six seconds are too few for any step; the line gives minutes that are enough."""
    done = run("scripts/start.py", sets[1] / "coco", "--minutes=0.1", f"--output={tmp_path / 'out'}")
    assert done.returncode == 2 and re.search(r"measured: [\d.]+ s for a step at 128x128", done.stdout)
    assert re.fullmatch(r"error: --minutes 0.1: 0 steps of [\d.]+ s fit into the time.*or more", done.stderr.strip())
    assert not (tmp_path / "out" / "timing").exists()
