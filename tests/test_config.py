import os
import re
import subprocess
import sys
import time

import pytest
import yaml

from src.config import SCHEMA_FILE, learning_rate_advice, load_config
from src.config.published import PUBLISHED_KEYS
from src.utils.errors import UserError
from tests.helpers.paths import QUICKSTART_CONFIG, ROOT


def test_defaults_are_the_published_ones():
    cfg = load_config([])
    assert (cfg.lr, cfg.lr_init, cfg.batch_size, cfg.weight_decay, cfg.loss_scale) == (0.05, 0.01333, 16, 0.0004, 1024)
    assert cfg.num_ssd_boxes == 51150 and cfg.steps == [8, 16, 32, 64, 128] and len(cfg.classes) == 81
    assert cfg.freeze_layer is None and cfg.all_reduce_fusion_config == [90, 183, 279]
    assert cfg.num_parallel_workers == os.cpu_count()


def test_seed_command():
    cfg = load_config(
        [
            "--run_distribute=True",
            "--lr=0.05",
            "--dataset=coco",
            "--device_num=8",
            "--loss_scale=1",
            "--device_target=GPU",
            "--epoch_size=60",
            "--config_path",
            SCHEMA_FILE,
            "--output_path",
            "./output",
        ]
    )
    assert (cfg.run_distribute, cfg.device_num, cfg.loss_scale, cfg.epoch_size, cfg.output_path) == (
        True,
        8,
        1,
        60,
        "./output",
    )


def test_command_line_wins_and_types_are_kept():
    cfg = load_config(
        ["--config_path", QUICKSTART_CONFIG, "--lr=1e-3", "--run_eval", "true", "--img_shape", "[256, 128]", "--seed=7"]
    )
    assert cfg.lr == 1e-3 and cfg.run_eval is True and cfg.seed == 7
    # 32x16 + 16x8 + 8x4 + 4x2 + 2x1 cells of 6
    assert cfg.img_shape == [256, 128] and cfg.num_ssd_boxes == 6 * (512 + 128 + 32 + 8 + 2)
    assert cfg.feature_size == [32, 16, 8, 4, 2] and cfg.num_classes == 4


@pytest.mark.parametrize(
    "argv, value",
    [
        ([], ""),
        (["--resume"], "auto"),
        (["--resume", "--seed=2"], "auto"),
        (["--resume=auto"], "auto"),
        (["--resume", "x.ckpt"], "x.ckpt"),
    ],
)
def test_resume(argv, value):
    assert load_config(argv).resume == value


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--epoch_sise=60"], ["epoch_sise", "epoch_size"]),
        (["--lr", "fast"], ["lr", "number", "fast"]),
        (["--epoch_size=1.5"], ["epoch_size", "integer"]),
        (["--run_eval=1"], ["run_eval", "True or False"]),
        (["--lr=nan"], ["lr", "finite"]),
        (["--steps=[8, 16]"], ["5", "2", "steps"]),
        (["--num_default=[6, 6]"], ["num_default", "2", "5"]),
        (["--feature_size=[80, 40]"], ["feature_size", "2", "5"]),
        (["--feature_size=[80, 40, 20, 10, 6]"], ["feature_size", "[80, 40, 20, 10, 5]"]),
        (["--num_classes=80"], ["num_classes", "80", "81"]),
        (["--classes=person"], ["classes", "a list"]),
        (["--img_shape=[300, 640]"], ["img_shape", "128", "256", "384"]),
        (["--num_ssd_boxes=100"], ["num_ssd_boxes", "100", "51150"]),
        (["--device_target=TPU"], ["device_target", "Ascend, GPU, CPU"]),
        (["--batch_size=0"], ["batch_size", "at least 1"]),
        (["--lr=-1"], ["lr", "negative"]),
        (["--min_score=1.5"], ["min_score"]),
        (["stray"], ["stray"]),
        (["--lr"], ["--lr"]),
        (["--config_path=/no/such.yaml"], ["/no/such.yaml", "no such file"]),
    ],
)
def test_bad_command_lines_are_one_clear_line(argv, words):
    with pytest.raises(UserError) as error:
        load_config(argv)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("momentun: 0.9", ["momentun", "momentum"]),
        ("classes: person", ["classes", "a list", "person"]),
        ("lr: fast", ["lr", "number"]),
        ("lr: 0.1\nlr: 0.2", ["lr", "twice"]),
        ("lr: [", ["line", "YAML"]),
        ("", ["empty"]),
        ("- 1\n- 2", ["key: value"]),
        ("_BASE_: missing.yaml", ["missing.yaml", "no such file"]),
        ("_BASE_: {quickstart}", ["one level"]),
        ("_BASE_: {schema}\nnum_classes: 3", ["num_classes", "3", "81"]),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, text, words):
    path = tmp_path / "user.yaml"
    path.write_text(text.format(quickstart=QUICKSTART_CONFIG, schema=SCHEMA_FILE))
    with pytest.raises(UserError) as error:
        load_config(["--config_path", str(path)])
    assert all(word in str(error.value) for word in words)
    if "missing" not in text:
        assert "user.yaml" in str(error.value)


def test_every_key_has_a_help_text_and_every_file_loads():
    with open(SCHEMA_FILE, encoding="utf-8") as handle:
        values, texts, choices = yaml.safe_load_all(handle)
    assert set(values) == set(texts) and set(choices) <= set(values)
    for name in os.listdir(os.path.join(ROOT, "config")):
        load_config(["--config_path", os.path.join(ROOT, "config", name)])


@pytest.mark.parametrize("script", ["train.py", "eval.py", "export.py"])
def test_help_is_quick_and_names_every_key(script, tmp_path):
    started = time.perf_counter()
    run = subprocess.run(
        [sys.executable, os.path.join(ROOT, script), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0 and "--feature_extractor_base_param" in run.stdout and "{Ascend, GPU, CPU}" in run.stdout
    assert run.stdout.startswith(f"usage: python3 {script} ")
    assert time.perf_counter() - started < 4  # 0.2 s on a free machine; importing MindSpore alone takes longer


def test_learning_rate_advice():
    # 0.05 * 1 / 128 = 0.00039
    assert "0.000391" in learning_rate_advice(load_config(["--batch_size=1"]))
    assert learning_rate_advice(load_config([]), 8) == ""
    scaled = learning_rate_advice(load_config(["--batch_size=1", "--scale_lr=True", "--lr=0.08"]), 2)
    # 0.08 * 2 / 128 and 0.01333 * 2 / 128
    assert scaled == "scale_lr: lr 0.08 x 1 x 2 / 128 = 0.00125, lr_init 0.000208281"


@pytest.mark.parametrize(
    "text, value",
    [
        ("backbone", "backbone"),
        ("None", None),
        ("[multi_box, feature_extractor.fpn]", ["multi_box", "feature_extractor.fpn"]),
        ("['multi_box']", ["multi_box"]),
    ],
)
def test_freeze_layer(tmp_path, text, value):
    assert load_config([f"--freeze_layer={text}"]).freeze_layer == value
    (tmp_path / "user.yaml").write_text(f"_BASE_: {SCHEMA_FILE}\nfreeze_layer: {'null' if value is None else text}\n")
    assert load_config([f"--config_path={tmp_path / 'user.yaml'}"]).freeze_layer == value
    for wrong in ("backbne", "[1]", "[]"):
        with pytest.raises(UserError, match="freeze_layer"):
            load_config([f"--freeze_layer={wrong}"])


def test_help_explains_every_key(capsys):
    with pytest.raises(SystemExit) as leaving:
        load_config(["--help"])
    printed = capsys.readouterr().out
    assert leaving.value.code == 0
    for key in set(load_config(["--device_target=CPU"])) - {"config_path"}:
        kinds = r"(STRING|INTEGER|NUMBER|LIST|True.False|{.*}( or LIST)?)"
        assert re.search(rf"^  --{key} {kinds}  \(default .+\)\n      \S", printed, re.M), key
    assert all(f"--{key}" in printed for key in PUBLISHED_KEYS)
    heads = re.findall(r"^(\w+):$", printed, re.M)
    assert heads == ["run", "model", "boxes", "optimisation", "data", "export"]
    assert "--file_format {MINDIR, AIR, ONNX}  (default MINDIR)" in printed
    assert "--batch_size INTEGER  (default 16)" in printed and "--run_eval True|False  (default False)" in printed
    assert max(map(len, printed.splitlines())) <= 110


def test_help_shows_the_defaults_and_texts_of_the_file_that_is_named(tmp_path, capsys):
    (tmp_path / "user.yaml").write_text(f"_BASE_: {SCHEMA_FILE}\nlr: 0.7\n---\nlr: the speed of this house\n")
    with pytest.raises(SystemExit):
        load_config([f"--config_path={tmp_path / 'user.yaml'}", "--help"])
    assert "--lr NUMBER  (default 0.7)\n      the speed of this house\n" in capsys.readouterr().out
