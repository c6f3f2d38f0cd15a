"""scripts/predict.py on a tiny ONNX file whose detections are known by hand."""

import json
import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from src.inference.predictor import Predictor
from tests.helpers.predictions import CLASSES, picture
from tests.helpers.programs import run


def test_predictor(model):
    predictor = Predictor(model)
    boxes, labels, scores = predictor(np.zeros((80, 120, 3), np.uint8))
    assert boxes.tolist() == [[0, 0, 40, 60], [40, 60, 80, 120]] and labels.tolist() == [1, 2]
    np.testing.assert_allclose(scores, [0.9, 0.4], rtol=1e-6)
    assert predictor.classes == CLASSES
    assert len(Predictor(model, min_score=0.5)(np.zeros((80, 120, 3), np.uint8))[0]) == 1


def test_the_score_with_the_best_f1_is_used_unless_another_is_given(model, tmp_path):
    from src.inference.onnx_graph import add_metadata

    path = shutil.copy(model, tmp_path / "evaluated.onnx")
    add_metadata(str(path), replace(Predictor(model)._detector.description, f1_threshold=0.5))
    picture(tmp_path / "one.png")
    for file, options, number, line in (
        (model, (), 2, "the model's min_score"),
        (path, (), 1, f"a score above 0.5 (best F1, stored in {path})"),
        (path, ("--min_score", 0.2), 2, "a score above 0.2 (--min_score)"),
    ):
        done = run("scripts/predict.py", "--model", file, tmp_path / "one.png", "--output", tmp_path / "out", *options)
        assert done.returncode == 0 and line in done.stdout and f": {number} detections" in done.stdout, done.stderr


def test_files_folders_patterns(model, tmp_path):
    for name in ("in/a.jpg", "in/deep/a.png", "in/b.JPG", "more/x1.jpg", "more/x2.jpg", "more/y.jpg"):
        picture(tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    out = tmp_path / "out"
    done = run("scripts/predict.py", "--model", model, tmp_path / "in", tmp_path / "more" / "x*.jpg", "--output", out)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 files, 5 pictures" in done.stdout and "10 detections (5 cat, 5 dog)" in done.stdout
    assert sorted(os.listdir(out)) == ["a.jpg", "a.png", "b.jpg", "detections.json", "x1.jpg", "x2.jpg"]
    content = json.loads((out / "detections.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    first = content["images"][0]
    assert first == {"id": 1, "file_name": str(tmp_path / "in" / "a.jpg"), "height": 80, "width": 120}
    row = content["annotations"][1]
    assert row["bbox"] == [60, 40, 60, 40] and row["category_id"] == 2 and row["image_id"] == 1
    assert row["area"] == 2400 and row["score"] == pytest.approx(0.4)
    drawn = cv2.imread(str(out / "a.png"))  # small images are enlarged, with the outline in the colour of the class
    assert max(drawn.shape[:2]) == 480 and (drawn != 200).any(axis=2).mean() > 0.02


def test_names_that_meet_and_the_inputs_stay(model, tmp_path):
    for name in ("one/a.jpg", "two/a.jpg"):
        picture(tmp_path / name)
    before = (tmp_path / "one" / "a.jpg").read_bytes()
    done = run("scripts/predict.py", "--model", model, tmp_path / "one", tmp_path / "two", "--output", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "one")) == ["a.jpg", "a_2.jpg", "a_3.jpg", "detections.json"]
    assert (tmp_path / "one" / "a.jpg").read_bytes() == before


def test_video(model, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (640, 480))
    for k in range(4):
        writer.write(np.full((480, 640, 3), 40 * k, np.uint8))
    writer.release()
    out = tmp_path / "out"
    done = run("scripts/predict.py", "--model", model, tmp_path / "clip.avi", "--output", out, "--min_score", 0.5)
    assert done.returncode == 0, done.stderr
    content = json.loads((out / "detections.json").read_text())
    assert [image["frame"] for image in content["images"]] == [0, 1, 2, 3] and len(content["annotations"]) == 4
    video = cv2.VideoCapture(str(out / "clip.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (4, 5)
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (640, 480)


def test_a_broken_picture_is_named_and_the_rest_is_done(model, tmp_path):
    picture(tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (tmp_path / "empty.mp4").write_bytes(b"")
    done = run("scripts/predict.py", "--model", model, tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 2 and "2 of 3 files could not be read" in done.stderr.splitlines()[-1]
    assert "bad.jpg" in done.stdout and "empty.mp4" in done.stdout and "Traceback" not in done.stderr
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(content["annotations"]) == 2 and os.path.exists(tmp_path / "out" / "good.jpg")


def test_the_best_detections_of_a_picture_are_kept(model, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / name)
    words = ["--model", model, tmp_path, "--output", tmp_path / "out", "--max_detections", 1]
    done = run("scripts/predict.py", *words)
    assert done.returncode == 0 and "2 detections (2 cat)" in done.stdout, done.stderr
    assert "2 of 2 pictures have more than 1 detections above the score 0.1 (highest: 0.90); the best 1" in done.stdout
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())["annotations"]
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(1, 1), (2, 1)]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--model", "/no/x.onnx", "."], "--model: no such file: /no/x.onnx"),
        (["--model", "MODEL", "/no/photos"], "no such file, folder or pattern: /no/photos"),
        (["--model", "MODEL", "EMPTY"], "no picture or video in the folder"),
        (["--model", "MODEL", "--min_score", "3", "EMPTY"], "--min_score must lie in [0, 1], got 3"),
        (["--model", "MODEL", "--max_detections", "0", "EMPTY"], "--max_detections must be at least 1, got 0"),
        (["--model", "CKPT", "PICTURE"], "holds no class names"),
        (["--model", "PICTURE", "PICTURE"], "a model's name ends in .ckpt, .mindir, .onnx"),
    ],
)
def test_bad_input(model, tmp_path, options, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.ckpt").write_bytes(b"x")
    picture(tmp_path / "p.jpg")
    places = {"MODEL": model, "EMPTY": tmp_path / "empty", "CKPT": tmp_path / "x.ckpt", "PICTURE": tmp_path / "p.jpg"}
    options = [places.get(word, word) for word in options]
    done = run("scripts/predict.py", *options, "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()
