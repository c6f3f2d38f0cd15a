"""Runs the commands of the documentation one after another on drawn images, only smaller."""

import glob
import json
import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.helpers.pages import blocks, commands
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow
PAGES = [
    "README.md",
    *(
        f"docs/{page}.md"
        for page in ("resume", "data", "export", "distributed", "performance", "training", "configuration")
    ),
]
COPIED = ["src", "scripts", "benchmarks", "config", "ckpt", "train.py", "eval.py", "export.py"]
# run by CI, tests/start or by hand, on several machines, or with a file of PyTorch
ELSEWHERE = r"test\.sh|start\.py|lint\.sh|kill_test\.py|rehearsal\.py|check_device|--torch|--hostfile|^msrun|Ascend"
ELSEWHERE += r"|resnet50\.pth"
USUAL = "--config_path config/ssd_resnet50_fpn_config_cpu.yaml --data_path cv --output_path output"
# paths of the reader, and commands that would take longer
SMALLER = [
    (r"\.py \.\.\.", f".py {USUAL} --epoch_size=2"),
    (r"--data_path \.\.\.", "--data_path cv"),
    ("/home/datasets/cv", "cv"),
    ("~/birds", "birds"),
    (r"-n 8\b", "-n 2"),
    (r"device_num([ =])8", r"device_num\g<1>2"),
    (r"\bGPU\b", "CPU"),
    ("--epoch_size=60", "--epoch_size=1"),
    ("ssd-60_4", "ssd-1_4"),
    (r"benchmark\.py$", "benchmark.py postprocessing"),
    ("matching pipeline", "matching"),
    (r"(benchmark\.py .*prediction.*)", r"\1 --pictures 3"),
    (r"(benchmark_model\.py .*)", r"\1 --seconds 1"),
]
SIZE = '"--img_shape=[128, 128]"'


def smaller(line):
    for pattern, with_what in SMALLER:
        line = re.sub(pattern, with_what, line)
    if "my.yaml" in line:
        return line + (" --epoch_size=1 --bn_recalibration_steps=1" if "train.py" in line else "")
    if re.search(r"train\.py|run_\w+_train\.sh", line):
        line += f' {SIZE} --batch_size=2 --feature_extractor_base_param=""'
        line += "" if "epoch_size" in line else " --epoch_size=1"
    elif re.search(r"(eval|export)\.py|run_eval\.sh|show_samples", line) and "--model" not in line:
        line += f" {SIZE}"
    if "run_" in line and "data_path" not in line:
        line += " --data_path cv"
    return line + (" --device_target=CPU" if "config_gpu.yaml" in line and "CPU" not in line else "")


def run(line, folder):
    """Run a command in bash in the folder of the repository, with the Python of the tests as `python3`."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = dict(os.environ, PATH=path, VENV=sys.prefix)
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def list_lines(annotations, classes):
    """Lines of a list file, x first, of the objects of the first classes in a COCO file."""
    with open(annotations, encoding="utf-8") as handle:
        content = json.load(handle)
    numbers = {category["id"]: number for number, category in enumerate(content["categories"][:classes], 1)}
    for image in content["images"]:
        objects = [one for one in content["annotations"] if one["image_id"] == image["id"]]
        boxes = [(one["bbox"], numbers[one["category_id"]]) for one in objects if one["category_id"] in numbers]
        if boxes:
            parts = [f"{int(x)},{int(y)},{int(x + w)},{int(y + h)},{label}" for (x, y, w, h), label in boxes]
            yield " ".join([image["file_name"], *parts])


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """A copy of the repository with the data that the documentation refers to."""
    folder = tmp_path_factory.mktemp("reader")
    for name in COPIED:
        source = os.path.join(ROOT, name)
        copy = shutil.copytree if os.path.isdir(source) else shutil.copy
        copy(source, folder / name)
    drawn = folder / "cv" / "coco2017"
    run(f"python3 scripts/draw_shapes.py --output {drawn} --train 24 --val 6 --image_size 128", folder)
    for place in ("mydata", "birds"):
        (folder / place / "photos").mkdir(parents=True)
        for part, name, most in (("train2017", "train", 16), ("val2017", "val", 4)):
            lines = list(list_lines(drawn / "annotations" / f"instances_{part}.json", 2))[:most]
            (folder / place / f"{name}.txt").write_text("\n".join(lines) + "\n")
            for line in lines:
                shutil.copy(drawn / part / line.split()[0], folder / place / "photos")
    (yaml,) = (block for block in blocks("README.md") if block.startswith("_BASE_"))
    (folder / "my.yaml").write_text(yaml)
    for place in ("photos", "more"):
        shutil.copytree(folder / "mydata" / "photos", folder / place)
    quick_start = folder / "scripts" / "quickstart.sh"
    change(quick_start, r'draw_shapes\.py"', 'draw_shapes.py" --train 24 --val 6')
    # do not create the environment of the tests again
    change(quick_start, r'bash "\$root/scripts/environment\.sh"', ":")
    change(folder / "config" / "ssd_resnet50_fpn_config_quickstart.yaml", r"epoch_size: \d+", "epoch_size: 1")
    clip = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (128, 128))
    for value in (40, 90):
        clip.write(np.full((128, 128, 3), value, np.uint8))
    clip.release()
    return folder


def change(path, pattern, with_what):
    text, changes = re.subn(pattern, with_what, path.read_text())
    assert changes == 1, f"{path}: {pattern}"
    path.write_text(text)


def newest(folder):
    return max(glob.glob(str(folder / "output" / "ckpt_0" / "ssd-*.ckpt")), key=os.path.getmtime)


def test_every_command_runs(sandbox):
    done = set()
    for page in PAGES:
        for line in commands(page):  # README's quick start is among them, see `sandbox`
            if line in done or re.search(ELSEWHERE, line):
                continue
            done.add(line)
            line = smaller(line)
            if "FILE" in line:
                line = line.replace("FILE", newest(sandbox))
            out = run(line, sandbox)
            if "train" in line and glob.glob(str(sandbox / "output" / "ckpt_0" / "*.ckpt")):
                # a network trained so little never has a mAP above 0
                shutil.copy(newest(sandbox), sandbox / "output" / "ckpt_0" / "best_map.ckpt")
            if re.search(r"eval\.(py|sh)", line):  # not a training with --run_eval
                assert re.search(r"^mAP: ", out, re.M), out
    assert len(done) >= 20
    for made in ("quickstart/ssd.onnx", "quickstart/pictures/overview.png", "fast.json"):
        assert (sandbox / made).exists(), made
    for made in ("ssd.mindir", "ssd.onnx", "samples", "detections/detections.json", "output/report.html"):
        assert (sandbox / made).exists(), made
