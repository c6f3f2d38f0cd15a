"""The programs as processes: a complete run on drawn images, and the errors for bad input."""

import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from src.utils.errors import run_main
from tests.helpers.metrics import pycocotools_stats
from tests.helpers.paths import QUICKSTART_CONFIG, ROOT
from tests.helpers.programs import run


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    done = run("scripts/draw_shapes.py", "--output", folder / "shapes", "--train", 6, "--val", 5, "--image_size", 128)
    assert done.returncode == 0, done.stderr
    return folder


def config(folder, *more):
    return [
        "--config_path",
        QUICKSTART_CONFIG,
        f"--data_path={folder}",
        "--coco_root=shapes",
        "--batch_size=2",
        f"--output_path={folder / 'out'}",
        *more,
    ]


def done_figures(shapes, model, cwd):
    """The 24 metrics that eval.py prints for a model."""
    done = run("eval.py", *config(shapes, f"--checkpoint_file_path={model}", "--min_score=0.01"), cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("AP"))
    return [-1.0 if word == "-" else float(word) for line in lines[start : start + 12] for word in line.split()[-2:]]


@pytest.mark.slow
def test_train_evaluate_resume_export(shapes, tmp_path):
    done = run("train.py", *config(shapes, "--epoch_size=1", "--lr=0.01", "--run_eval=True"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"published protocol\); evaluation took \d+\.\d s, of which scoring \d+\.\d s", done.stdout)
    assert sorted(os.listdir(shapes / "out" / "ckpt_0")) == ["best_map.ckpt", "ssd-1_3.ckpt"]
    done = run("train.py", *config(shapes, "--epoch_size=2", "--lr=0.01", "--resume"), cwd=tmp_path)
    assert done.returncode == 0 and "resumed: epoch 2, step 1" in done.stdout, done.stdout + done.stderr
    history = [json.loads(line) for line in open(shapes / "out" / "history.jsonl", encoding="utf-8")]
    curves = cv2.imread(str(shapes / "out" / "curves.png"))
    assert curves is not None and curves.std() > 10
    assert [row["epoch"] for row in history] == [1, 2] and all(np.isfinite(row["loss"]) for row in history)
    checkpoint = shapes / "out" / "ckpt_0" / "ssd-2_3.ckpt"

    done = run("eval.py", *config(shapes, f"--checkpoint_file_path={checkpoint}", "--min_score=0.01"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = float(next(line for line in done.stdout.splitlines() if line.startswith("mAP:")).split()[1])
    predictions = shapes / "out" / "predictions.json"
    stats = pycocotools_stats(str(shapes / "shapes" / "annotations" / "instances_val2017.json"), str(predictions))
    assert printed == pytest.approx(max(stats[0], 0), abs=1e-6)
    assert len(json.loads(predictions.read_text())) > 0
    metrics = json.loads((shapes / "out" / "evaluation.json").read_text())
    assert (
        metrics["mAP"] == pytest.approx(printed, abs=1e-6)
        and "<h2>Classes</h2>" in (shapes / "out" / "report.html").read_text()
    )

    for file_format, ending in (("MINDIR", "mindir"), ("ONNX", "onnx")):
        done = run(
            "export.py",
            *config(
                shapes,
                f"--checkpoint_file_path={checkpoint}",
                "--batch_size=1",
                f"--file_name={shapes / 'ssd'}",
                f"--file_format={file_format}",
            ),
            cwd=tmp_path,
        )
        assert done.returncode == 0 and "compared with the network" in done.stdout, done.stdout + done.stderr
        assert os.path.getsize(shapes / f"ssd.{ending}") > 1e8
    # every form of the model gives the same metrics
    printed = done_figures(shapes, checkpoint, tmp_path)
    for ending in ("mindir", "onnx"):
        np.testing.assert_allclose(done_figures(shapes, shapes / f"ssd.{ending}", tmp_path), printed, atol=1e-3)
    done = run("export.py", *config(shapes, f"--checkpoint_file_path={checkpoint}", "--file_format=AIR"))
    assert done.returncode == 2 and "Ascend" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_schedule_that_is_partly_done_with_the_boxes_of_ssd300(shapes, tmp_path):
    """Of three epochs two are done: only the third is trained, with its learning rates."""
    options = ["--epoch_size=3", "--pre_trained_epoch_size=2", "--warmup_epochs=1", "--lr=0.01"]
    options += ["--use_anchor_generator=False", "--bn_recalibration_steps=0", f"--output_path={tmp_path / 'out'}"]
    done = run("train.py", *config(shapes, *options), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epochs 3 to 3 are trained" in done.stdout and "no weights of those epochs" in done.stdout
    (row,) = [json.loads(line) for line in open(tmp_path / "out" / "history.jsonl", encoding="utf-8")]
    # 9 steps, 3 of warm-up: the last one is step 5 of the 6 of the cosine
    assert row["epoch"] == 3 and row["lr"] == pytest.approx(0.01 * (1 + np.cos(np.pi * 5 / 6)) / 2, rel=1e-5)
    assert os.listdir(tmp_path / "out" / "ckpt_0") == ["ssd-3_3.ckpt"]


BAD = [
    ("train.py", ["--model_name=ssd300", "--data_path=/no/such/folder"], ["model_name", "ssd_resnet50_fpn", "ssd300"]),
    ("eval.py", ["--num_default=[4,4,4,4,4]", "--checkpoint_file_path=FOREIGN"], ["num_default", "anchor generator"]),
    ("export.py", ["--use_anchor_generator=False", "--img_shape=[128,256]"], ["img_shape", "square"]),
    ("train.py", ["--enable_modelarts=True"], ["enable_modelarts", "False"]),
    ("train.py", ["--epoch_sise=60"], ["epoch_sise", "epoch_size"]),
    ("train.py", ["--data_path=/no/such/folder"], ["coco_root", "/no/such/folder/shapes"]),
    ("train.py", ["--instances_set=annotations/none_{}.json"], ["none_train2017.json"]),
    (
        "train.py",
        ["--feature_extractor_base_param=/no/backbone.ckpt"],
        ["feature_extractor_base_param", "/no/backbone.ckpt"],
    ),
    ("train.py", ["--pre_trained=/no/net.ckpt"], ["pre_trained", "/no/net.ckpt"]),
    ("train.py", ["--resume=/no/run.ckpt"], ["resume", "/no/run.ckpt"]),
    ("train.py", ["--batch_size=16"], ["6 images / (16 x 1 devices) = 0 steps"]),
    ("train.py", ["--run_distribute=True", "--device_num=8"], ["mpirun", "-n 8"]),
    ("train.py", ["--pre_trained=FOREIGN"], ["pre_trained", "no parameter"]),
    # before the conversion, which may take an hour
    ("train.py", ["--pre_trained=OTHER_CLASSES", "--mindrecord_dir=new_records"], ["pre_trained", "(486, 256, 3, 3)"]),
    ("train.py", ["--freeze_layer=[necks]", "--mindrecord_dir=new_records"], ["freeze_layer", "necks"]),
    ("train.py", ["--output_path=/proc/none"], ["output_path", "/proc/none"]),
    ("eval.py", ["--checkpoint_file_path=/no/x.ckpt"], ["checkpoint_file_path", "/no/x.ckpt"]),
    ("eval.py", ["--checkpoint_file_path=DAMAGED"], ["checkpoint_file_path", "damaged"]),
    (
        "eval.py",
        ["--checkpoint_file_path=OTHER_CLASSES"],
        ["checkpoint_file_path", "(486, 256, 3, 3)", "(24, 256, 3, 3)"],
    ),
    ("export.py", ["--checkpoint_file_path=OTHER_CLASSES", "--file_name=new"], ["(486, 256, 3, 3)", "(24, 256, 3, 3)"]),
    ("export.py", ["--checkpoint_file_path=FOREIGN", "--file_name=new"], ["checkpoint_file_path", "no parameter"]),
    ("export.py", ["--checkpoint_file_path=UPPER", "--file_name=new"], ["checkpoint_file_path", "no parameter"]),
    ("eval.py", ["--checkpoint_file_path=."], ["checkpoint_file_path", "is a folder"]),
    ("export.py", ["--checkpoint_file_path=FOREIGN", "--file_name=/no/new"], ["file_name", "cannot write to /no"]),
    ("export.py", ["--checkpoint_file_path=FOREIGN", "--export_nms=True"], ["export_nms", "MINDIR"]),
    (
        "export.py",
        ["--checkpoint_file_path=FOREIGN", "--export_dynamic_batch=True"],
        ["export_dynamic_batch", "MINDIR"],
    ),
    ("export.py", ["--checkpoint_file_path=FOREIGN", "--export_precision=int8"], ["export_precision", "int8, file_f"]),
    ("export.py", ["--export_precision=int4"], ["export_precision", "float32, float16, int8"]),
    ("export.py", ["--export_calibration_images=0"], ["export_calibration_images must be at least 1"]),
    ("export.py", ["--export_max_loss=2"], ["export_max_loss must be at most 1"]),
    ("eval.py", ["--inference_runtime=tensorrt"], ["inference_runtime", "onnxruntime, openvino, openvino_float32"]),
    ("eval.py", ["--checkpoint_file_path=FOREIGN", "--inference_runtime=openvino"], ["runs ONNX files only"]),
    ("export.py", ["--file_format=TFLITE"], ["file_format", "MINDIR, AIR, ONNX"]),
]


PROGRAMS = ["train.py", "eval.py", "export.py"]
SCRIPTS = "check_data show_samples predict draw_shapes draw_detections benchmark benchmark_model convert_backbone"
SCRIPTS += " check_device compare"
PROGRAMS += [*(f"scripts/{name}.py" for name in SCRIPTS.split()), "benchmarks/rehearsal/data.py"]


@pytest.mark.parametrize("script", PROGRAMS)
def test_a_python_without_packages_gets_a_one_line_error(script):
    words = [sys.executable, "-S", os.path.join(ROOT, script), "--help"]  # -S: without site-packages
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "no package cv2, easydict, numpy, yaml" in done.stderr and "scripts/environment.sh" in done.stderr


@pytest.mark.parametrize("name, status", [("mindspore", 2), ("src.nothing", 1), ("te", 1)])
def test_a_missing_module_is_one_line_only_if_it_is_a_required_package(name, status, capsys):
    def main(argv):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    assert run_main(main, []) == status
    printed = capsys.readouterr().err
    assert ("Traceback" in printed) == (status == 1) and ("scripts/environment.sh" in printed) == (status == 2)


@pytest.mark.parametrize("script, options, words", BAD)
def test_bad_input_is_one_line_and_status_2(shapes, tmp_path, script, options, words):
    import mindspore as ms

    foreign, damaged = tmp_path / "foreign.ckpt", tmp_path / "damaged.ckpt"
    ms.save_checkpoint([{"name": "other.weight", "data": ms.Tensor(np.zeros(3, np.float32))}], str(foreign))
    damaged.write_bytes(foreign.read_bytes()[:20])
    other = tmp_path / "other_classes.ckpt"
    name = "network.multi_box.cls_layers.0.weight"
    ms.save_checkpoint([{"name": name, "data": ms.Tensor(np.zeros((486, 256, 3, 3), np.float32))}], str(other))
    upper = tmp_path / "UPPER.CKPT"
    upper.write_bytes(foreign.read_bytes())
    places = {"FOREIGN": foreign, "DAMAGED": damaged, "OTHER_CLASSES": other, "UPPER": upper}
    for word, path in places.items():
        options = [option.replace(word, str(path)) for option in options]
    folder = tmp_path / "out"
    given = [f"--output_path={folder}"] if not any("output_path" in option for option in options) else []
    done = run(script, *config(shapes, *given, *options), cwd=tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr + done.stdout, done.stderr
    assert all(word in errors[0] for word in words), errors
    assert not (tmp_path / "new_records").exists() and not (shapes / "new_records").exists()
    if script != "train.py":  # nothing was written: neither folder nor file
        assert sorted(os.listdir(tmp_path)) == ["UPPER.CKPT", "damaged.ckpt", "foreign.ckpt", "other_classes.ckpt"]
