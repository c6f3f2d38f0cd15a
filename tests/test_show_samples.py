"""Drawn training samples: against the slow encoding, against known pixels, as a process."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from scripts.show_samples import TILE, draw
from src.boxes.default_boxes import build_default_boxes
from src.boxes.matcher import Matcher
from src.config import load_config
from src.data import transforms
from src.data.inspect.label_report import label_figures
from src.data.inspect.sample_preview import preview
from src.data.inspect.statistics import level_sizes
from src.data.sample import Sample
from src.data.transforms import Augmentation, TrainTransform
from src.utils.drawing import WHITE, class_colour, draw_box, draw_corners, draw_tag, sheet
from tests.disks import small_disk
from tests.helpers.paths import QUICKSTART_CONFIG, ROOT
from tests.oracles import encode


@pytest.fixture
def sample(tmp_path):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8), (0, 0), 4)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    boxes = np.array([[10, 20, 50, 70, 1], [40, 60, 85, 110, 2], [3, 5, 30, 41, 1]], np.int32)
    return Sample(3, str(tmp_path / "a.png"), boxes, 120, 90)


def build(epoch=0, augmentation=Augmentation()):
    cfg = load_config(["--device_target=CPU", "--img_shape=[128, 128]"])
    defaults = build_default_boxes(cfg)
    matcher = Matcher(*defaults, cfg.match_threshold)
    transform = TrainTransform(cfg.img_shape, matcher, cfg.prior_scaling, cfg.seed, epoch, augmentation)
    return cfg, defaults, transform


@pytest.mark.parametrize("epoch", range(6))
def test_targets_are_the_slow_encoding_of_the_augmented_boxes(sample, epoch):
    cfg, (cyxhw, yxyx), transform = build(epoch)
    seen = preview(transform, sample, 3, level_sizes(cfg))
    truth = seen.truth / [128, 128, 128, 128, 1]
    _, label, count = encode(truth.tolist(), cyxhw.tolist(), yxyx.tolist(), cfg.match_threshold, cfg.prior_scaling)
    assert len(seen.targets) == count
    np.testing.assert_array_equal(seen.targets[:, 4], label[label > 0])
    np.testing.assert_allclose(seen.defaults, yxyx[label > 0] * 128, atol=1e-4)
    assert seen.distance < 0.01
    # levels from the sizes of the boxes: 4 x stride, up to sqrt(2) larger
    sides = np.sqrt((seen.defaults[:, 2] - seen.defaults[:, 0]) * (seen.defaults[:, 3] - seen.defaults[:, 1]))
    np.testing.assert_array_equal(seen.levels, np.floor(np.log2(sides / 32 + 1e-6)).astype(int))


@pytest.mark.parametrize("epoch", range(6))
def test_the_window_is_what_was_cut(sample, epoch):
    cfg, _, transform = build(epoch)
    seen = preview(transform, sample, 3, level_sizes(cfg))
    top, left, bottom, right = seen.window
    image = cv2.imread(sample.path)[top:bottom, left:right, ::-1]
    image = cv2.resize(image, (128, 128))[:, :: -1 if seen.flipped else 1].astype(float)
    # only colours were changed: both images are correlated
    assert np.corrcoef(image.mean(2).ravel(), seen.image.mean(2).ravel())[0, 1] > 0.9


def test_a_canvas_and_an_image_without_boxes_are_drawn(sample):
    cfg, _, transform = build(augmentation=Augmentation(crop_probability=0, scale_jitter=(0.5, 0.5)))
    seen = preview(transform, sample, 3, level_sizes(cfg))
    top, left, bottom, right = seen.window
    assert (bottom - top, right - left) == (180, 240) and top <= 0 and left <= 0 and seen.distance < 0.01
    assert draw(seen, "a.png", cfg).shape[1:] == (TILE, 3)
    nothing = Sample(4, sample.path, np.zeros((0, 5), np.int32), 120, 90)
    seen = preview(transform, nothing, 4, level_sizes(cfg))
    assert seen.distance == 0 and len(seen.truth) == len(seen.targets) == 0
    assert draw(seen, "a.png", cfg).shape[1:] == (TILE, 3)
    assert label_figures([sample, nothing], [seen], cfg)["augmented"]["boxes"] == 0


def test_a_wrong_encoding_shows(sample, monkeypatch):
    cfg, _, transform = build()
    right = transforms.encode_matches

    def wrong(*arguments):
        # y and x swapped
        return [(boxes, loc[:, [1, 0, 2, 3]], label) for boxes, loc, label in right(*arguments)]

    monkeypatch.setattr(transforms, "encode_matches", wrong)
    distances = []
    for epoch in range(3):
        _, _, transform = build(epoch)
        distances.append(preview(transform, sample, 3, level_sizes(cfg)).distance)
    assert max(distances) > 1


def test_drawing_reaches_the_right_pixels():
    image = np.full((60, 80, 3), 128, np.uint8)
    draw_box(image, (10.2, 20.4, 40, 60), (0, 0, 255))
    assert image[10, 40].tolist() == [0, 0, 255] and image[25, 20].tolist() == [0, 0, 255]
    assert image[25, 40].tolist() == [128, 128, 128]
    draw_corners(image, (10, 20, 40, 60))
    assert image[10, 24].tolist() == list(WHITE) and image[10, 40].tolist() == [0, 0, 255]
    tall = np.zeros((60, 80, 3), np.uint8)
    draw_tag(tall, "a very long name of a class", (-30, 70, 5, 90), (0, 255, 255))  # kept inside
    assert (tall == (0, 255, 255)).all(-1).any()
    page = sheet([np.zeros((10, 10, 3), np.uint8)] * 5, columns=4, margin=1)
    assert page.shape == (24, 48, 3)
    colours = {class_colour(label) for label in range(1, 81)}
    assert len(colours) == 80


def test_as_a_process(tmp_path):
    shapes = tmp_path / "shapes"
    draw = [sys.executable, os.path.join(ROOT, "scripts", "draw_shapes.py"), "--output", str(shapes)]
    subprocess.run([*draw, "--train", "6", "--val", "1", "--image_size", "128"], check=True, stdout=subprocess.PIPE)
    command = [
        sys.executable,
        os.path.join(ROOT, "scripts", "show_samples.py"),
        f"--config_path={QUICKSTART_CONFIG}",
        f"--data_path={tmp_path}",
        "--coco_root=shapes",
        f"--output={tmp_path / 'out'}",
        "--count=4",
    ]
    run = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr
    names = sorted(os.listdir(tmp_path / "out"))
    assert names == ["labels.html", "labels.json", *(f"sample_{k:02d}.png" for k in range(4)), "samples.png"]
    with open(shapes / "annotations" / "instances_train2017.json") as handle:
        truth = json.load(handle)
    statistics = json.loads((tmp_path / "out" / "labels.json").read_text())
    names = {c["id"]: c["name"] for c in truth["categories"]}
    counts = {row["name"]: row["boxes"] for row in statistics["classes"]}
    for name in names.values():
        assert counts[name] == sum(names[a["category_id"]] == name for a in truth["annotations"])
    page = (tmp_path / "out" / "labels.html").read_text()
    assert "http" not in page and "data:image/png;base64," in page and "stop sign" in page
    os.remove(shapes / "train2017" / truth["images"][0]["file_name"])
    run = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 2 and run.stderr.startswith("error: ") and len(run.stderr.splitlines()) == 1


def test_what_does_not_arrive_is_named(tmp_path):
    shapes = tmp_path / "shapes"
    draw = [sys.executable, os.path.join(ROOT, "scripts", "draw_shapes.py"), "--output", str(shapes)]
    subprocess.run([*draw, "--train", "3", "--val", "1", "--image_size", "64"], check=True, stdout=subprocess.PIPE)
    names = ["labels.html", "labels.json", "sample_01.png", "samples.png"]
    for name in names:
        os.makedirs(tmp_path / "out" / name)
    words = [sys.executable, os.path.join(ROOT, "scripts", "show_samples.py"), f"--data_path={tmp_path}"]
    words += [f"--config_path={QUICKSTART_CONFIG}", "--coco_root=shapes"]
    run = subprocess.run([*words, f"--output={tmp_path / 'out'}", "--count=3"], capture_output=True, text=True)
    assert (
        run.returncode == 1 and "error: 4 of 6 files could not be written" in run.stderr and "Trace" not in run.stderr
    )
    assert all(f"{name}: Is a directory" in run.stdout for name in names)
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*names, "sample_00.png", "sample_02.png"])
    with small_disk(tmp_path / "disk", 100) as disk:
        run = subprocess.run([*words, f"--output={disk}/out", "--count=3"], capture_output=True, text=True)
        assert run.returncode == 1 and "files could not be written, first: cannot write" in run.stderr
        assert "Trace" not in run.stderr and not [name for name in os.listdir(f"{disk}/out") if "part" in name]
