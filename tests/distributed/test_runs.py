"""train.py and eval.py on two ranks as users start them, and what happens when one of them dies."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.distributed.processes import SMALL_HEAD, Run, has_mpirun, mpirun
from tests.helpers.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_mpirun(), reason="no mpirun next to this Python (Open MPI is x86-64 Linux only)"),
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    draw = [sys.executable, os.path.join(ROOT, "scripts", "draw_shapes.py"), "--output", str(folder / "coco2017")]
    subprocess.run([*draw, "--train", "8", "--val", "5", "--image_size", "128"], check=True, stdout=subprocess.PIPE)
    return folder


@pytest.fixture
def checkout(tmp_path):
    """A folder in which the relative paths of the published command line lead to this repository."""
    for name in ("train.py", "eval.py", "config"):
        os.symlink(os.path.join(ROOT, name), tmp_path / name)
    return tmp_path


def small(shapes, records="records"):
    return [
        f"--data_path={shapes}",
        f"--mindrecord_dir={shapes / records}",
        "--img_shape=[128, 128]",
        "--batch_size=2",
        "--feature_extractor_base_param=",
        "--warmup_epochs=0",
        *SMALL_HEAD,
    ]


def seed_command(*more):
    """The published command line (docs/distributed.md) with -n 2, CPU and the options `more`."""
    words = "python3 train.py --run_distribute=True --lr=0.05 --dataset=coco --device_num=2 --loss_scale=1 "
    words += "--device_target=CPU --epoch_size=60 --config_path=./config/ssd_resnet50_fpn_config_gpu.yaml "
    return mpirun(2) + (words + "--output_path ./output").split() + list(more)


def test_the_seed_command_and_evaluation(shapes, checkout):
    more = ["--epoch_size=1", "--run_eval=True", "--eval_start_epoch=1", "--save_checkpoint_epochs=1"]
    run = Run(seed_command(*small(shapes), *more), checkout)
    run.process.wait(timeout=300)
    assert run.end() == 0, run.output()
    for rank in range(2):
        assert (checkout / "log_output" / "1" / f"rank.{rank}" / "stdout").exists()
        assert sorted(os.listdir(checkout / "output" / f"ckpt_{rank}")) == ["best_map.ckpt", "ssd-1_2.ckpt"]
    others = sorted(set(os.listdir(checkout / "output")) - {"ckpt_0", "ckpt_1", "log_0.txt", "log_1.txt"})
    assert others == ["config.yaml", "curves.png", "history.jsonl", "run.json"]
    history = (checkout / "output" / "history.jsonl").read_text().splitlines()
    assert len(history) == 1 and json.loads(history[0])["steps"] == 2
    assert len(re.findall("epoch 1/1: loss", run.output())) == 1  # rank 0 logs
    in_training = json.loads(history[0])["mAP"]

    # the same 12 metrics from one process and from two, for 5 images; and those of the evaluation in training
    printed = []
    for ranks in (1, 2):
        words = ["python3", "eval.py", f"--run_distribute={ranks > 1}", f"--device_num={ranks}", "--device_target=CPU"]
        words += [*small(shapes), "--checkpoint_file_path=output/ckpt_0/best_map.ckpt", f"--output_path=eval_{ranks}"]
        words += ["--config_path=./config/ssd_resnet50_fpn_config_gpu.yaml"]
        run = Run(words if ranks == 1 else mpirun(2, *words), checkout)
        run.process.wait(timeout=120)
        assert run.end() == 0, run.output()
        printed.append(re.findall(r"^((?:AP|AR|mAP).*)$", run.output(), re.M))
        assert len(printed[-1]) == 14
    assert printed[0] == printed[1]
    np.testing.assert_allclose(float(printed[0][12].split()[-1]), in_training, atol=1e-6)
    first, second = (json.loads((checkout / f"eval_{n}" / "predictions.json").read_text()) for n in (1, 2))
    assert [(d["image_id"], d["category_id"]) for d in first] == [(d["image_id"], d["category_id"]) for d in second]


@pytest.fixture(scope="module")
def big(tmp_path_factory, shapes):
    """So many images that the conversion takes seconds."""
    folder = tmp_path_factory.mktemp("big") / "coco2017"
    os.makedirs(folder / "annotations")
    os.makedirs(folder / "train2017")
    with open(shapes / "coco2017" / "annotations" / "instances_train2017.json") as handle:
        content = json.load(handle)
    image, boxes = (
        content["images"][0],
        [a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]],
    )
    source = shapes / "coco2017" / "train2017" / image["file_name"]
    images, annotations = [], []
    for number in range(20000):
        os.link(source, folder / "train2017" / f"{number}.jpg")
        images.append(dict(image, id=number, file_name=f"{number}.jpg"))
        annotations.append(dict(boxes[0], id=number + 1, image_id=number))
    content.update(images=images, annotations=annotations)
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return folder.parent


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_in_conversion(big, checkout, rank):
    records = checkout / "records"
    run = Run(seed_command(*small(big), f"--mindrecord_dir={records}", "--only_create_dataset=True"), checkout)
    run.wait_for(lambda: records.exists() and any(name.startswith(".writing") for name in os.listdir(records)))
    os.kill(run.rank(rank), signal.SIGKILL)
    assert run.end() not in (0, None)
    assert f"process rank {rank}" in run.output() and "signal 9" in run.output()
    left = os.listdir(records) if records.exists() else []
    assert not [name for name in left if not name.startswith(".") and not name.endswith(".lock")]


@pytest.mark.parametrize("how", ["kill a rank", "SIGTERM", "SIGINT"])
def test_ended_in_training(shapes, checkout, how):
    run = Run(seed_command(*small(shapes)), checkout)
    run.wait_for_text("epoch 1/60: loss")
    if how == "kill a rank":
        os.kill(run.rank(1), signal.SIGKILL)
    else:
        run.process.send_signal(getattr(signal, how))
    assert run.end() not in (0, None), run.output()


def test_killed_while_saving(shapes, checkout):
    run = Run(seed_command(*small(shapes), "--save_checkpoint_epochs=1"), checkout)
    folder = checkout / "output" / "ckpt_1"
    run.wait_for(lambda: folder.exists() and any(name.startswith(".part") for name in os.listdir(folder)))
    os.kill(run.rank(1), signal.SIGKILL)
    assert run.end() not in (0, None)
    assert not list(folder.glob("ssd-*.ckpt"))


def test_killed_in_evaluation_and_the_launcher_says_so(shapes, checkout):
    more = [
        "--run_eval=True",
        "--eval_start_epoch=1",
        "--epoch_size=1",
        "--min_score=0.0001",
        "--val_data_type=train2017",
    ]
    launcher = ["bash", os.path.join(ROOT, "scripts", "run_distribute_train.sh"), "--device_num=2"]
    launcher += ["--device_target=CPU", f"--output_path={checkout / 'output'}"]
    run = Run(
        [*launcher, *small(shapes, "other"), *more], checkout, VENV=os.path.dirname(os.path.dirname(sys.executable))
    )
    run.wait_for_text("epoch 1/1: loss")
    os.kill(run.rank(1), signal.SIGKILL)
    assert run.end() not in (0, None)
    assert run.output().strip().splitlines()[-1] == "error: rank 1: ended by signal 9 (SIGKILL)"


def test_sigterm_to_the_launcher_ends_all(shapes, checkout):
    launcher = ["bash", os.path.join(ROOT, "scripts", "run_distribute_train.sh"), "--device_num=2"]
    launcher += ["--device_target=CPU", f"--output_path={checkout / 'output'}"]
    run = Run([*launcher, *small(shapes)], checkout, VENV=os.path.dirname(os.path.dirname(sys.executable)))
    run.wait_for_text("epoch 1/500: loss")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() not in (0, None)


def test_bad_input_under_the_launcher(shapes, checkout):
    launcher = ["bash", os.path.join(ROOT, "scripts", "run_distribute_train.sh"), "--device_num=2"]
    run = Run([*launcher, "--device_target=CPU", "--epoch_sise=2"], checkout,
              VENV=os.path.dirname(os.path.dirname(sys.executable)))  # fmt: skip
    assert run.end(60) == 2, run.output()
    assert "unknown key 'epoch_sise'; did you mean 'epoch_size'?" in run.output()
