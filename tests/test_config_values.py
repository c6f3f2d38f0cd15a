"""Accepted and rejected values: ranges, types, YAML forms, choices, notes."""

import os
import random
import subprocess
import sys

import pytest
import yaml

from src.boxes.default_boxes import build_default_boxes, default_boxes
from src.config import SCHEMA_FILE, load_config, voc_json_paths
from src.config.checks import generator_boxes
from src.config.published import PUBLISHED_KEYS
from src.utils.errors import UserError
from tests.helpers.configuration import notes, refusal
from tests.helpers.paths import QUICKSTART_CONFIG, ROOT

LARGE = "1" * 400
# 4 ** 40 entries, if they did not share memory
LAUGHS = "a: &a [x, x, x, x]\n" + "".join(
    f"k{i}: &k{i} [*{last}, *{last}, *{last}, *{last}]\n" for i, last in enumerate(["a", *(f"k{i}" for i in range(40))])
)


@pytest.mark.parametrize(
    "option, words",
    [
        ("--aspect_ratios=[1,2]", "aspect_ratios[0] must be a list"),
        ("--aspect_ratios=[[0],[2],[2],[2],[2]]", "aspect_ratios must lie in (0, 100]"),
        (f"--lr={LARGE}", "lr is out of range, got a number of about 400 digits"),
        (f"--seed={LARGE}", "seed is out of range"),
        ("--lr=1e999", "lr must be a finite number"),
        ("--seed=4294967296", "seed must be at most 4294967295"),
        ("--seed=-1", "seed must not be negative"),
        ("--instances_set=annotations/{x}.json", "instances_set"),
        ("--instances_set={", "instances_set"),
        ("--instances_set={}{}", "instances_set"),
        ("--instances_set={0.real}", "instances_set"),
        ("--momentum=5", "momentum must lie in [0, 1)"),
        ("--momentum=1", "momentum must lie in [0, 1)"),
        ("--warmup_epochs=600", "warmup_epochs is 600, more than epoch_size 500"),
        ("--min_scale=-3", "min_scale must lie in (0, 1]"),
        ("--max_scale=1.5", "max_scale must lie in (0, 1]"),
        ("--alpha=0", "alpha must lie in (0, 1)"),
        ("--min_score=1", "min_score must lie in [0, 1)"),
        ("--lr_end_rate=2", "lr_end_rate must be at most 1"),
        ("--lr=1e9", "lr must be at most 100"),
        ("--weight_decay=7", "weight_decay must be at most 1"),
        ("--gamma=-1", "gamma must not be negative"),
        ("--loss_scale=0", "loss_scale must lie in"),
        ("--prior_scaling=[0, 0.2]", "prior_scaling must be at least 0.001"),
        ("--prior_scaling=[0.1]", "prior_scaling must have 2 entries"),
        ("--zoom_out=0.5", "zoom_out must be at least 1"),
        ("--scale_jitter=[2, 0.5]", "scale_jitter: the first entry must not be above the second, got [2.0, 0.5]"),
        ("--repeat_threshold=1", "repeat_threshold must lie in [0, 1)"),
        ("--scale_jitter=[0, 2]", "scale_jitter must be at least 0.1"),
        ("--img_shape=[128, 128, 3]", "img_shape must have 2 entries"),
        ("--img_shape=[1280000, 128]", "img_shape must be at most 16384"),
        ("--img_shape=[]", "img_shape must not be an empty list"),
        ("--extras_out_channels=[256,1,1,1,1]", "extras_out_channels: the levels of ssd_resnet50_fpn share one head"),
        ("--num_default=[6,6,6,6,4]", "num_default"),
        ("--all_reduce_fusion_config=[5, 5]", "all_reduce_fusion_config must increase"),
        ("--checkpoint_filter_list=['']", "checkpoint_filter_list has an empty entry"),
        ("--freeze_layer=['']", "freeze_layer has an empty entry"),
        ("--output_path=", "output_path must not be empty"),
        ("--pre_trained_epoch_size=500", "nothing is left to train"),
        ("--classes=[background, no]", "classes[1] must be a string, got False; YAML reads it"),
        ("--classes=[[a]]", "classes[0] must be a string"),
        ("--steps=[8, 16, 32, 64, 100]", "steps: ssd_resnet50_fpn has strides [8, 16, 32, 64, 128]"),
        ("--batch_size=" + "[" * 5000, "batch_size must be an integer"),
        ("--img_shape=" + "[" * 5000, "img_shape must be a list"),
    ],
    ids=lambda value: value[:40],
)
def test_nonsense_is_one_line(option, words):
    assert words in refusal(option)


@pytest.mark.parametrize("names", [["background", "a", "a"], ["background", " "], ["background", "a\nb"]])
def test_classes_that_are_no_names(names):
    assert "classes" in refusal(f"--classes={names}", f"--num_classes={len(names)}")


@pytest.mark.parametrize(
    "option", ["--seed=0", "--seed=4294967295", "--gamma=0", "--momentum=0", "--warmup_epochs=0", "--lr_init=0",
               "--instances_set={0}/{0}.json", "--all_reduce_fusion_config=[]", "--pre_trained=None"]
)  # fmt: skip
def test_values_at_the_edge_are_taken(option):
    load_config([option])


def test_choices_are_taken_in_any_case(tmp_path):
    cfg = load_config(
        ["--device_target=cpu", "--file_format=mindir", "--dataset=COCO", "--model_name=SSD_ResNet50_FPN"]
    )
    assert (cfg.device_target, cfg.file_format, cfg.dataset) == ("CPU", "MINDIR", "coco")
    assert cfg.model_name == "ssd_resnet50_fpn" and cfg.loss_scale == 1
    (tmp_path / "x.yaml").write_text("file_format: onnx\nbackbone_padding: Symmetric\nfreeze_layer: Backbone\n")
    cfg = load_config([f"--config_path={tmp_path / 'x.yaml'}"])
    assert (cfg.file_format, cfg.backbone_padding, cfg.freeze_layer) == ("ONNX", "symmetric", "backbone")


@pytest.mark.parametrize(
    "text, values",
    [
        ("<<: {lr: 0.3}\nepoch_size: 7", {"lr": 0.3, "epoch_size": 7}),
        ("x: &x {lr: 0.3, gamma: 1}\n<<: *x\ngamma: 3", {"lr": 0.3, "gamma": 3}),
        ("x: &x {lr: 0.3}\ny: &y {<<: *x, gamma: 1}\n<<: [*y]", {"lr": 0.3, "gamma": 1}),
        ("a: [&x {lr: 0.3}, &y {lr: 0.4, gamma: 1}]\n<<: [*x, *y]", {"lr": 0.3, "gamma": 1}),
        ("<<: &x {<<: *x, lr: 0.3}", {"lr": 0.3}),
        ("lr: 0.3\n---", {"lr": 0.3}),
        ("lr: 0.3\n---\n", {"lr": 0.3}),
        ("---\nlr: 0.3\n...", {"lr": 0.3}),
        ("lr: 0.3\n---\n---\ndataset: [coco, voc]", {"lr": 0.3}),
        ("\ufefflr: 0.3", {"lr": 0.3}),
        ("lr: 0.3\r\ngamma: 1\r\n", {"lr": 0.3, "gamma": 1}),
        (
            "lr:\t0.3\t# fast\ngamma: 1\t\n\t\nclasses: [background,\n\tcat]\nnum_classes: 2",
            {"gamma": 1, "num_classes": 2},
        ),
        ("train_data_type: 'a\tb'", {"train_data_type": "a\tb"}),
        ("%YAML 1.1\n---\nlr: 0.3", {"lr": 0.3}),
        (
            "lr: '3e-1'\nrun_eval: 'True'\npre_trained: null\nfreeze_layer: 'None'",
            {"lr": 0.3, "run_eval": True, "pre_trained": ""},
        ),
    ],
)
@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
def test_forms_of_yaml(tmp_path, text, values, coding):
    (tmp_path / "x.yaml").write_bytes(text.encode(coding))
    cfg = load_config([f"--config_path={tmp_path / 'x.yaml'}"])
    assert {key: cfg[key] for key in values} == values


@pytest.mark.parametrize(
    "text, words",
    [
        ("lr: 0.1\n---\n---\nno_such_key: [1]", "third YAML document: unknown key 'no_such_key'"),
        ("lr: 0.1\n---\n---\ndataset: coco", "choices: dataset must be a list"),
        ("lr: 0.1\n---\n---\nbatch_size: [a]", "choices of batch_size"),
        ("lr: 0.1\n---\n---\ndataset: [voc]", "dataset must be one of voc, got 'coco'"),
        ("lr: 0.1\n---\n- a", "every YAML document must be a mapping"),
        ("lr: 0.1\n---\nlr: [a]", "second YAML document holds help texts"),
        ("a: 1\n---\n---\n---\nb: 1", "4 YAML documents"),
        ("---\n---\nlr: 1", "first YAML document is empty"),
        ("# only a comment", "the file is empty"),
        ("x: &x {lr: 1}", "unknown key 'x'"),
        ("classes:\n\t- a", "line 2: a tab at the start of a line"),
        ("lr: !!int x", "a value cannot be read"),
        ("lr: 2001-99-99", "a value cannot be read"),
        ("lr: 2001-01-01", "lr must be a number, got 2001-01-01"),
        ("lr: &a [*a]", "lr must be a number"),
        ("lr: " + "[" * 5000, "nested too deeply"),
        (LAUGHS, "unknown key 'a'"),
        ("lr: .nan", "lr must be a finite number"),
        ("seed: " + "9" * 5000, "seed"),
        ("train_data_type: \"a\\0b\"", "NUL"),
        ("train_data_type: \"\\ud800\"", "not UTF-8 text"),
        ("1: 2", "unknown key"),
        ("? [lr]\n: 1", "YAML"),
        ("lr: 0.1\nlr: 0.2", "line 2: key 'lr' is given twice"),
        ("_BASE_: x.yaml", "one level only"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_bad_yaml_is_one_line(tmp_path, text, words):
    (tmp_path / "x.yaml").write_text(text)
    assert words in refusal(f"--config_path={tmp_path / 'x.yaml'}")


def test_only_user_errors_come_out(tmp_path):
    """Random keys, values and documents, seeded."""
    atoms = """0 -1 1e400 .nan -.inf 0x1f 2001-13-99 2001-01-01 [] [[]] {} [{}] null ~ yes { "{x}" [1,[2]] *b 1.5
        4294967296 -4294967296 [null] [1e309] [[1],2] [a,a] 0.1 640 [640,640] [128,128] gpu {{}} "}" {0} {!r} {:d}
        'None'""".split()
    atoms += ["!!int x", "!!binary zz", "!!set {a}", "!!omap [a: 1]", "&a [*a]", LARGE, "1" * 5000, "x" * 10000,
              "[" * 500, "? [a] : b", '"\\0"', '"\\ud800"', '"\\n"', "!!python/object:a.b x", "\u732b"]  # fmt: skip
    rng = random.Random(20)
    keys = [*load_config([]), *PUBLISHED_KEYS, "_BASE_", "<<", "nonsense"]
    path = tmp_path / "x.yaml"
    accepted = 0
    for _ in range(300):
        lines = [rng.choice(keys) + ":" + rng.choice(" \t") + rng.choice(atoms) for _ in range(rng.randint(1, 3))]
        lines += rng.choice([[], ["---"], ["---", "lr: 1"], ["---", "---", f"{rng.choice(keys)}: {rng.choice(atoms)}"]])
        path.write_bytes(
            rng.choice(["\n", "\r\n"]).join(lines).encode(rng.choice(["utf-8", "utf-8", "utf-16", "utf-8-sig"]))
        )
        argv = [f"--{rng.choice(keys)}={rng.choice(atoms)}" for _ in range(rng.randint(0, 2))]
        try:
            load_config([*argv, *([f"--config_path={path}"] if rng.random() < 0.6 else [])])
            accepted += 1
        except UserError as error:
            assert len(str(error)) < 2000 and "\n" not in str(error)
    assert accepted < 150


@pytest.mark.parametrize(
    "options, words",
    [
        ("--num_default=[4,4,4,4,4]", ["num_default is [4, 4, 4, 4, 4]", "anchor generator makes 6"]),
        ("--SSD300 --aspect_ratios=[[],[2],[2],[2],[2]]", ["num_default[0] is 6", "gives 3 default boxes"]),
        ("--SSD300 --aspect_ratios=[[2],[2],[2],[2],[2]]", ["num_default[0] is 6", "gives 4 default boxes"]),
        ("--SSD300 --img_shape=[128,256]", ["square", "[128, 256]"]),
        ("--SSD300 --aspect_ratios=[[2,3]]", ["aspect_ratios has 1 lists", "5 levels"]),
        ("--SSD300 --min_scale=0.9 --max_scale=0.2", ["min_scale 0.9 is above max_scale 0.2"]),
        ("--SSD300 --img_shape=[128,128] --feature_size=[80,40,20,10,5]", ["feature_size", "[16, 8, 4, 2, 1]"]),
    ],
)  # fmt: skip
def test_boxes_that_are_not_those_of_the_network_are_one_line(options, words):
    line = refusal(*options.replace("--SSD300", "--use_anchor_generator=False").split())
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    "options",
    ["", "--aspect_ratios=[[2,3],[2,3],[2,3],[2,3],[2,3],[2,3]]",
     "--aspect_ratios=[[2],[2],[2],[2],[2]] --num_default=[4,4,4,4,4]", "--img_shape=[128,128]"],
)  # fmt: skip
def test_boxes_without_the_generator_are_those_of_the_maps(options):
    cfg = load_config(["--use_anchor_generator=False", *options.split()])
    cyxhw, _ = build_default_boxes(cfg)
    cells = sum((cfg.img_shape[0] // step) ** 2 for step in cfg.steps)
    assert len(cyxhw) == cfg.num_ssd_boxes == cells * cfg.num_default[0]
    assert 0 < cyxhw[:, :2].min() and cyxhw[:, :2].max() < 1


def test_the_generator_makes_as_many_boxes_per_cell_as_the_check_says():
    assert len(default_boxes((128, 128))[0]) == generator_boxes(load_config([])) * (16**2 + 8**2 + 4**2 + 2**2 + 1)


SEED = "--run_distribute=True --lr=0.05 --dataset=coco --device_num=8 --loss_scale=1 --device_target={} --epoch_size=60"


@pytest.mark.parametrize("target", ["GPU", "CPU"])
def test_the_seed_command_is_quiet(target):
    assert notes(*SEED.format(target).split(), "--config_path=config/ssd_resnet50_fpn_config_gpu.yaml") == []
    assert notes("--config_path", QUICKSTART_CONFIG) == [] and notes(f"--device_target={target}") == []


@pytest.mark.parametrize(
    "options, words",
    [
        ("--device_num=8", "device_num 8 has no effect without --run_distribute=True"),
        ("--run_distribute=True --device_num=2 --device_id=1", "device_id 1 has no effect with run_distribute"),
        ("--filter_weight=True", "filter_weight has no effect without pre_trained"),
        ("--match_class_names=True", "match_class_names has no effect without pre_trained"),
        ("--checkpoint_filter_list=[x]", "checkpoint_filter_list has no effect"),
        ("--pre_trained_epoch_size=3", "no weights of those epochs are loaded"),
        ("--loss_scale=64 --device_target=CPU", "loss_scale 64 has no effect on a CPU"),
        ("--min_scale=0.3", "keys without effect here: min_scale"),
        ("--aspect_ratios=[[2]]", "keys without effect here: aspect_ratios"),
        ("--mode_sink=non_sink", "mode_sink has no effect: with non_sink, too"),
        ("--mode_sink=sink", "mode_sink has no effect: with sink, too"),
        ("--all_reduce_fusion_config=[3]", "all_reduce_fusion_config has no effect"),
        ("--eval_interval=2", "without effect because run_eval is False: eval_interval"),
        ("--voc_root=x --anno_path=y", "without effect because dataset is coco: voc_root, anno_path"),
        ("--num_parallel_workers=100000", "num_parallel_workers 100000 exceeds"),
        ("--instances_set=a.json", "training and evaluation read the same file"),
        ("--classes=[cat,dog] --num_classes=2", "'cat', is taken as the background"),
        ("--epoch_size=1", "warmup_epochs 2 is more than epoch_size 1"),
        ("--lr=0", "no weight is trained"),
        ("--global_step=0", "keys without effect here: global_step"),
    ],
)
def test_keys_without_effect_are_one_line(options, words):
    assert sum(words in line for line in notes(*options.split())) == 1


def test_the_configuration_that_a_short_run_writes_can_be_read(tmp_path):
    cfg = load_config([f"--config_path={SCHEMA_FILE}", "--epoch_size=1"])
    written = tmp_path / "config.yaml"  # as train.py does
    written.write_text(yaml.safe_dump({key: value for key, value in cfg.items() if key != "config_path"}))
    again = load_config([f"--config_path={written}"])
    assert {**again, "config_path": ""} == {**cfg, "config_path": ""}
    assert "warmup_epochs is 2, more than" in refusal(f"--config_path={written}", "--warmup_epochs=2")


def test_notes_about_training_are_for_training_alone():
    options = ["--filter_weight=True", "--device_num=8"]
    assert len(notes(*options)) == 2 and notes(*options, training=False) == notes("--device_num=8")


def test_a_schedule_whose_first_epochs_are_done():
    (line,) = notes("--pre_trained=x", "--pre_trained_epoch_size=30", "--epoch_size=60")
    assert "epochs 31 to 60 are trained" in line and "60 epochs" in line


def test_voc_json_is_below_voc_root_first(tmp_path):
    options = ["--dataset=voc", "--voc_json=a/b.json", f"--data_path={tmp_path}"]
    assert voc_json_paths(load_config(options + ["--voc_root=set"])) == [
        str(tmp_path / "set/a/b.json"),
        str(tmp_path / "a/b.json"),
    ]
    assert voc_json_paths(load_config(options + ["--voc_root=/v"])) == ["/v/a/b.json", str(tmp_path / "a/b.json")]
    assert voc_json_paths(load_config(options + ["--voc_json=/x/b.json"])) == ["/x/b.json"]


CODE = """
import sys
from src.config import load_config
from src.utils.errors import run_main
from src.utils.log import LOGGER, setup_logging
def main(argv):
    cfg = load_config(argv)
    setup_logging(sys.argv[1])
    print(ascii(cfg.classes), cfg.classes[1])
    LOGGER.info("%s in %s", cfg.classes[1], cfg.data_path)
sys.exit(run_main(main, sys.argv[2:]))
"""


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C.UTF-8"}])
def test_names_beyond_ascii_in_every_locale(tmp_path, locale):
    environment = dict(os.environ, PYTHONPATH=ROOT, PYTHONCOERCECLOCALE="0", **locale)
    environment.pop("PYTHONIOENCODING", None)

    def run(*options):
        words = [sys.executable, "-c", CODE, str(tmp_path), *options]
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)

    cat = "\u732b"
    done = run("--classes", f"['background','{cat}']", "--num_classes=2", f"--data_path=/{cat}")
    assert done.returncode == 0, done.stderr
    assert f"['background', '\\u732b'] {cat}\n".encode() in done.stdout and f"{cat} in /{cat}".encode() in done.stdout
    assert f"{cat} in /{cat}" in (tmp_path / "log_0.txt").read_text(encoding="utf-8")
    (tmp_path / "user.yaml").write_text(
        f"_BASE_: {SCHEMA_FILE}\nclasses: [background, {cat}]\nnum_classes: 2\ndata_path: {tmp_path}/{cat}\n"
        f"---\nlr: {cat}\n",
        encoding="utf-8",
    )
    done = run(f"--config_path={tmp_path}/user.yaml", "--help")
    assert done.returncode == 0 and f"[background, {cat}]".encode() not in done.stderr and cat.encode() in done.stdout
    done = run("--classes", f"['background','{cat}','{cat}']", "--num_classes=3")
    assert done.returncode == 2 and f"'{cat}' is given twice".encode() in done.stderr
    (tmp_path / cat).mkdir()
    done = run(f"--config_path={tmp_path}/user.yaml")
    assert done.returncode == 0 and f"{cat} in {tmp_path}/{cat}".encode() in done.stdout
