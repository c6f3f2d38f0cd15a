"""The score to show from: found next to a checkpoint, kept in a description, used by a predictor."""

import json
import os
from dataclasses import replace

import pytest

from src.inference.metadata import ModelMetadata, from_onnx_props, read_description, to_onnx_props, write_description
from src.inference.score_threshold import evaluated_threshold, threshold_of
from src.utils.errors import UserError

ROWS = {"overall": {"threshold": 0.4, "F1": 0.7}, "classes": {"cat": {"threshold": 0.3, "F1": 0.8}}}
PLAIN = ModelMetadata(["background", "cat"], [64, 64], 1, 0.05, 0.6, 100, [1.0] * 3, [1.0] * 3)


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "ckpt_0").mkdir()
    path = tmp_path / "ckpt_0" / "best_map.ckpt"
    path.write_bytes(b"x")
    os.utime(path, (1000, 1000))
    return path


def evaluation(folder, model_file="ckpt_0/best_map.ckpt", rows=ROWS, at=2000):
    (folder / "evaluation.json").write_text(json.dumps({"model_file": model_file, "score_thresholds": rows}))
    os.utime(folder / "evaluation.json", (at, at))


def test_of_the_evaluation_of_a_checkpoint(checkpoint, tmp_path):
    assert evaluated_threshold(str(checkpoint)) is None
    evaluation(tmp_path)
    found = threshold_of(str(checkpoint), PLAIN)
    assert (found.overall, found.classes) == (0.4, {"cat": 0.3})
    assert found.source == f"best F1 in {tmp_path / 'evaluation.json'}"
    evaluation(checkpoint.parent, "best_map.ckpt", dict(ROWS, overall={"threshold": 0.6}))  # nearer
    assert evaluated_threshold(str(checkpoint)).overall == 0.6


@pytest.mark.parametrize(
    "wrong",
    [
        {"model_file": "ckpt_0/ssd-1_3.ckpt"},
        {"at": 500},  # older than the checkpoint
        {"rows": {}},
        {"rows": dict(ROWS, overall={"threshold": "high"})},
        {"rows": dict(ROWS, overall={"threshold": None})},
        {"rows": dict(ROWS, overall={"threshold": 2})},
        {"rows": []},
    ],
)
def test_another_evaluation_is_not_used(checkpoint, tmp_path, wrong):
    evaluation(tmp_path, **wrong)
    assert evaluated_threshold(str(checkpoint)) is None


def test_travels_with_an_exported_file(tmp_path):
    description = replace(PLAIN, f1_threshold=0.4, class_f1_thresholds={"cat": 0.3})
    assert from_onnx_props(to_onnx_props(description), "x.onnx") == description
    (tmp_path / "x.mindir").write_bytes(b"x")
    path = str(tmp_path / "x.mindir")
    write_description(description, path, path + ".json")
    assert read_description(path) == description
    assert threshold_of(path, description).overall == 0.4 and threshold_of(path, PLAIN) is None


def test_earlier_files_have_none_and_wrong_ones_are_refused():
    texts = to_onnx_props(PLAIN)
    del texts["f1_threshold"], texts["class_f1_thresholds"]
    assert from_onnx_props(texts, "x.onnx") == PLAIN
    for value in ("2", '"a"', "[]"):
        with pytest.raises(UserError):
            from_onnx_props(dict(to_onnx_props(PLAIN), f1_threshold=value), "x.onnx")
