"""The training history of a checkpoint, and the causes of a low mAP that follow from it."""

import json

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import Tensor

from src.evaluation.analysis import diagnosis
from src.evaluation.training_history import TrainingHistory, likely_causes, read_history
from src.models.checkpoint_file import RUN_STATE, write_checkpoint
from src.training.state import RunState
from tests.helpers.results import CLASSES, LEFT, RIGHT, image

CONFIG = {"batch_size": 8, "warmup_epochs": 2, "bn_recalibration_steps": 0}


def checkpoint(folder, **more):
    state = dict(epochs=3, epoch_step=0, steps_per_epoch=38, size=2, config=CONFIG)
    state.update(more)
    (folder / "ckpt_0").mkdir(parents=True, exist_ok=True)
    path = str(folder / "ckpt_0" / "ssd-3_38.ckpt")
    write_checkpoint(path, [(RUN_STATE, RunState(**state).to_bytes()), ("global_step", np.array([114], np.int32))])
    return path


def test_from_the_checkpoint(tmp_path):
    assert read_history(checkpoint(tmp_path, started_from="")) == TrainingHistory(114, 3, 16, "", 2, 0)
    history = read_history(checkpoint(tmp_path, epochs=2, epoch_step=19, started_from="r.ckpt"))
    assert history == TrainingHistory(95, 2.5, 16, "r.ckpt", 2, 0)


@pytest.mark.parametrize(
    "config, starts, found",
    [
        ({"pre_trained": "", "feature_extractor_base_param": ""}, [{"goes_on_from": None}], ""),
        ({"pre_trained": "", "feature_extractor_base_param": "r.ckpt"}, None, "r.ckpt"),
        ({"pre_trained": "net.ckpt", "feature_extractor_base_param": "r.ckpt"}, [{}], "net.ckpt"),
        # a resumed run need not name the weights that the first start loaded
        ({"pre_trained": "", "feature_extractor_base_param": ""}, [{}, {"goes_on_from": "x"}], None),
        ({"pre_trained": ""}, [{}], None),
        ([1], [{}], None),
        ({"pre_trained": "", "feature_extractor_base_param": 3}, [{}], None),
        ({"pre_trained": "", "feature_extractor_base_param": ""}, [3], None),
        ({"pre_trained": "", "feature_extractor_base_param": ""}, "{broken", None),
    ],
)
def test_an_older_checkpoint_and_what_its_run_left(tmp_path, config, starts, found):
    path = checkpoint(tmp_path)
    assert read_history(path).started_from is None
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    if starts is not None:
        (tmp_path / "run.json").write_text(starts if isinstance(starts, str) else json.dumps(starts))
    assert read_history(path).started_from == found
    (tmp_path / "config.yaml").write_bytes(b"\xff\x00{")
    assert read_history(path).started_from is None


def test_what_is_missing_or_broken_is_not_known(tmp_path):
    nothing = TrainingHistory()
    for name in ("no.ckpt", "no.onnx", "", str(tmp_path)):
        assert read_history(name) == nothing
    for name, content in (("a.ckpt", b"\x0a\x7f half"), ("empty.ckpt", b""), ("a.mindir", b"x")):
        (tmp_path / name).write_bytes(content)
        assert read_history(str(tmp_path / name)) == nothing
    ms.save_checkpoint(
        [{"name": "global_step", "data": Tensor(np.array([700], np.int32))}], str(tmp_path / "published.ckpt")
    )
    assert read_history(str(tmp_path / "published.ckpt")) == TrainingHistory(steps=700)
    odd = {"epochs": "3", "epoch_step": None, "steps_per_epoch": -1, "config": [], "size": True, "started_from": 7}
    for state in (odd, [], 3, {"config": {"batch_size": "8", "warmup_epochs": float("nan")}}):
        packed = np.frombuffer(json.dumps(state).encode(), np.uint8)
        write_checkpoint(str(tmp_path / "odd.ckpt"), [(RUN_STATE, packed), ("global_step", np.array([5, 6], np.int32))])
        assert read_history(str(tmp_path / "odd.ckpt")) == nothing
    assert likely_causes(nothing) == []


def test_the_causes():
    few = likely_causes(TrainingHistory(114, 3, 16, "", 2, 0))
    assert "too few steps: 114 steps (3 epochs, 16 images per step) from random weights" in few[0]
    assert "--feature_extractor_base_param" in few[1]
    # 0.997 ** 114 = 0.710
    assert "after 114 steps 71% of the backbone's BN running statistics" in few[2] and len(few) == 3
    assert len(likely_causes(TrainingHistory(114, 3, 16, "", 2, 50))) == 2
    assert any("warm-up (2 epochs" in line for line in likely_causes(TrainingHistory(38, 1, 16, "", 2, 50)))
    with_backbone = likely_causes(TrainingHistory(114, 3, 16, "ckpt/resnet50.ckpt", 2, 0))
    assert (
        len(with_backbone) == 1
        and "114 steps (3 epochs, 16 images per step) from ckpt/resnet50.ckpt" in with_backbone[0]
    )
    assert likely_causes(TrainingHistory(steps=700))[0].startswith("likeliest cause: too few steps: 700 steps;")
    assert likely_causes(TrainingHistory(50_000, 50, 16, "ckpt/resnet50.ckpt", 2, 0)) == []
    frozen = likely_causes(TrainingHistory(114, 3, 16, "", 2, 0, True))
    assert "freeze_layer kept layers at random weights" in frozen[0] and frozen[1].startswith("too few steps: 114")
    assert not any("running statistics" in line for line in frozen)
    long_random = likely_causes(TrainingHistory(50_000, 50, 16, "", 2, 0))
    assert len(long_random) == 1 and "likely cause: no backbone weights" in long_random[0]


def test_the_likeliest_comes_first():
    nothing, causes = [image(1, [(LEFT, 1)], [])], likely_causes(TrainingHistory(114, 3, 16, "", 2, 0))
    lines = diagnosis(nothing, CLASSES, [], 0.03, 0.1, causes)
    assert lines[: len(causes)] == causes and "highest score" in lines[len(causes)]
    # a network whose boxes are right was trained enough
    swapped = [image(k, [(LEFT, 1), (RIGHT, 2)], [(LEFT, 2, 0.9), (RIGHT, 1, 0.8)]) for k in range(3)]
    lines = diagnosis(swapped, CLASSES, [], 0.9, 0.1, causes)
    assert "another order of `classes`" in lines[-1 - len(causes)] and lines[-len(causes) :] == causes
