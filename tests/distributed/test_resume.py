"""A run that was cut and resumed equals the uninterrupted one bit for bit, with augmentation on.

A part of the cases runs by default; all of them: FULL=1 bash scripts/test.sh --all tests/distributed/test_resume.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from src.models.checkpoint_file import read_checkpoint
from src.training.run_files import list_checkpoints
from tests.distributed.processes import SMALL_HEAD, Run, has_mpirun
from tests.helpers.paths import QUICKSTART_CONFIG, ROOT

CASES = [(ranks, where, on) for ranks in (1, 2) for where in ("epoch end", "mid-epoch") for on in (False, True)]
HALF = "--use_float16=True"
# of the other networks; dropout in ssd_vgg16
FAMILY = [
    ("ssd_mobilenet_v1_fpn", 1, [HALF]),
    ("ssd_mobilenet_v1_fpn", 2, []),
    ("ssd300", 1, []),
    ("ssd300", 2, [HALF]),
    ("ssd_mobilenet_v1", 1, []),
    ("ssd_vgg16", 1, []),
]
# that change the samples or the end of a run
OPTIONS = ["--zoom_out=3", "--scale_jitter=[0.5, 2]", "--negative_images=True", "--repeat_threshold=0.9"]
OPTIONS += ["--early_stop=3", "--scale_lr=True"]
BY_DEFAULT = [(1, "mid-epoch", True), (2, "mid-epoch", False)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_mpirun(), reason="no mpirun next to this Python (Open MPI is x86-64 Linux only)"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    draw = [sys.executable, os.path.join(ROOT, "scripts", "draw_shapes.py"), "--output", str(folder / "coco2017")]
    subprocess.run([*draw, "--train", "8", "--val", "3", "--image_size", "128"], check=True, stdout=subprocess.PIPE)
    yield folder
    shutil.rmtree(folder)  # 6 GB of checkpoints


def start(work, ranks, evaluation, output, *more, config=QUICKSTART_CONFIG, root="coco2017"):
    words = ["bash", os.path.join(ROOT, "scripts", "run_distribute_train.sh"), f"--device_num={ranks}"]
    words += ["--device_target=CPU", f"--config_path={config}"]
    words += [f"--data_path={work}", f"--coco_root={root}", "--epoch_size=2", "--batch_size=2"]
    words += [
        f"--run_eval={evaluation}",
        f"--validation_loss={evaluation}",
        "--eval_start_epoch=1",
        "--bn_recalibration_steps=0",
        "--min_score=0.001",
    ]
    words += [f"--output_path={output}", *(SMALL_HEAD if "_fpn_" in config else []), *more]
    return Run(words, work, VENV=os.path.dirname(os.path.dirname(sys.executable)))


def finish(run, status=0):
    run.process.wait(timeout=400)
    assert run.end() == status, run.output()[-3000:]
    return run


def last(ranks):
    """8 images in batches of 2."""
    return f"ssd-2_{4 // ranks}.ckpt"


def outcome(output, ranks):
    """All entries of the final checkpoint of each rank, and the history without times."""
    entries = {}
    for rank in range(ranks):
        # MindSpore's own reader refuses large files while the page cache is full
        for name, value in read_checkpoint(list_checkpoints(str(output / f"ckpt_{rank}"))[-1], "path").items():
            if name != "run_state":
                entries[rank, name] = value.asnumpy()
            else:
                state = json.loads(value.asnumpy().tobytes().decode())
                entries[rank, name] = np.array(
                    json.dumps({key: state[key] for key in sorted(state) if not key.endswith("random")})
                )
    history = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    return entries, [{key: value for key, value in row.items() if "second" not in key} for row in history]


WHOLE = {}


def uninterrupted(work, ranks, evaluation):
    if (ranks, evaluation) not in WHOLE:
        output = work / f"whole_{ranks}_{evaluation}"
        finish(start(work, ranks, evaluation, output))
        WHOLE[ranks, evaluation] = outcome(output, ranks)
    return WHOLE[ranks, evaluation]


def same(got, want):
    assert got[1] == want[1]
    assert set(got[0]) == set(want[0])
    differ = [key for key in want[0] if not np.array_equal(got[0][key], want[0][key])]
    assert not differ, differ[:5]


@pytest.mark.parametrize("ranks, where, evaluation", CASES)
def test_resumed_equals_uninterrupted(work, ranks, where, evaluation):
    if (ranks, where, evaluation) not in BY_DEFAULT and not os.environ.get("FULL"):
        pytest.skip("FULL=1 runs every case")
    want = uninterrupted(work, ranks, evaluation)
    output = work / f"cut_{ranks}_{where.replace(' ', '_')}_{evaluation}"
    if where == "epoch end":
        # the files of a run that is killed in the second epoch
        shutil.copytree(work / f"whole_{ranks}_{evaluation}", output)
        for rank in range(ranks):
            os.remove(output / f"ckpt_{rank}" / last(ranks))
    else:
        run = start(work, ranks, evaluation, output, "--save_checkpoint_epochs=1")
        run.wait_for_text("first step")
        run.process.send_signal(signal.SIGINT if ranks == 1 else signal.SIGTERM)
        finish(run, 130 if ranks == 1 else 143)
        assert os.listdir(output / "ckpt_0") == ["ssd-1_1.ckpt"]
    run = finish(start(work, ranks, evaluation, output, "--resume"))
    assert "resumed: epoch " + ("2, step 1," if where == "epoch end" else "1, step 2,") in run.output()
    same(outcome(output, ranks), want)


@pytest.mark.parametrize("model_name, ranks, options", FAMILY)
def test_resumed_equals_uninterrupted_for_the_family(work, model_name, ranks, options):
    if (model_name, ranks, options) != FAMILY[0] and not os.environ.get("FULL"):
        pytest.skip("FULL=1 runs every case")
    config = QUICKSTART_CONFIG.replace("ssd_resnet50_fpn", model_name)
    outputs = [work / f"{part}_{model_name}_{ranks}" for part in ("uninterrupted", "cut")]
    finish(start(work, ranks, False, outputs[0], *options, config=config))
    run = start(work, ranks, False, outputs[1], "--save_checkpoint_epochs=1", *options, config=config)
    run.wait_for_text("first step")
    run.process.send_signal(signal.SIGINT if ranks == 1 else signal.SIGTERM)
    finish(run, 130 if ranks == 1 else 143)
    assert os.listdir(outputs[1] / "ckpt_0") == ["ssd-1_1.ckpt"]
    finish(start(work, ranks, False, outputs[1], "--resume", *options, config=config))
    same(outcome(outputs[1], ranks), outcome(outputs[0], ranks))


@pytest.mark.parametrize("ranks", [1, 2])
def test_resumed_equals_uninterrupted_with_options(work, ranks):
    if not os.environ.get("FULL"):
        pytest.skip("FULL=1 runs every case")
    root, config = f"options_{ranks}", QUICKSTART_CONFIG.replace("ssd_resnet50_fpn", "ssd_mobilenet_v1_fpn")
    shutil.copytree(work / "coco2017", work / root)
    annotations = work / root / "annotations" / "instances_train2017.json"
    content = json.loads(annotations.read_text())
    first = content["images"][0]["id"]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != first]
    annotations.write_text(json.dumps(content))
    outputs = [work / f"{part}_options_{ranks}" for part in ("uninterrupted", "cut")]
    run = finish(start(work, ranks, True, outputs[0], *OPTIONS, config=config, root=root))
    assert "1 of 8 images have no box" in run.output() and "repeat_threshold 0.9: " in run.output()
    assert f"scale_lr: lr 0.001 x 2 x {ranks} / 128" in run.output() and "validation loss" in run.output()
    more = [*OPTIONS, "--save_checkpoint_epochs=1"]
    run = start(work, ranks, True, outputs[1], *more, config=config, root=root)
    run.wait_for_text("first step")
    run.process.send_signal(signal.SIGINT if ranks == 1 else signal.SIGTERM)
    finish(run, 130 if ranks == 1 else 143)
    assert os.listdir(outputs[1] / "ckpt_0") == ["ssd-1_1.ckpt"]
    finish(start(work, ranks, True, outputs[1], *more, "--resume", config=config, root=root))
    same(outcome(outputs[1], ranks), outcome(outputs[0], ranks))


def test_evaluation_changes_nothing(work):
    on, off = (uninterrupted(work, 1, evaluation)[0] for evaluation in (True, False))
    assert not [key for key in on if key[1] != "run_state" and not np.array_equal(on[key], off[key])]
