"""predict.py on a full disk: missing files are named and counted, and no file is incomplete."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from tests.disks import limit_files, small_disk
from tests.helpers.paths import ROOT
from tests.helpers.predictions import picture
from tests.helpers.programs import run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six pictures whose drawings have 250 KB or more, and a video."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(6):
        cv2.imwrite(str(folder / f"p{number}.jpg"), rng.integers(0, 255, (500, 600, 3)).astype(np.uint8))
    writer = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (320, 240))
    for _ in range(40):
        writer.write(rng.integers(0, 255, (240, 320, 3)).astype(np.uint8))
    writer.release()
    return folder


def rows(folder):
    with open(os.path.join(folder, "detections.json"), encoding="utf-8") as handle:
        content = json.load(handle)
    return len(content["images"]), len(content["annotations"])


def assert_complete(folder, names):
    """Check that the folder has exactly these files, each a picture or video that can be decoded."""
    assert sorted(os.listdir(folder)) == sorted(names)
    for name in names:
        if name.endswith(".jpg"):
            assert cv2.imread(os.path.join(folder, name)).shape == (500, 600, 3)


@pytest.mark.parametrize("kilobytes, fit", [(1000, 2), (100, 0)])
def test_pictures_on_a_full_disk(model, photos, tmp_path, kilobytes, fit):
    places = [photos / f"p{number}.jpg" for number in range(6)]
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        done = run("scripts/predict.py", "--model", model, *places, "--output", f"{disk}/out")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        written = [name for name in sorted(os.listdir(f"{disk}/out")) if name.endswith(".jpg")]
        assert_complete(f"{disk}/out", [*written, "detections.json"])
        assert (len(written) >= fit and len(written) < 6) and rows(f"{disk}/out") == (6, 12)
    assert f"{len(written)} of 6 drawings and detections.json" in done.stdout
    assert f"error: {6 - len(written)} of 6 drawings could not be written, first: cannot write" in done.stderr
    for number in range(6):
        assert (f"p{number}.jpg: No space left" in done.stdout) == (f"p{number}.jpg" not in written)


def test_a_video_on_a_full_disk(model, photos, tmp_path):
    with small_disk(tmp_path / "disk", 200) as disk:
        done = run("scripts/predict.py", "--model", model, photos / "clip.avi", "--output", f"{disk}/out")
        assert done.returncode == 1 and "clip.mp4: No space left on device" in done.stderr, done.stderr
        assert os.listdir(f"{disk}/out") == ["detections.json"] and rows(f"{disk}/out") == (40, 80)
    assert "0 of 1 drawings and detections.json" in done.stdout


def test_drawings_make_room_for_the_detections(model, tmp_path):
    for number in range(60):
        picture(tmp_path / "in" / f"{number:02d}.jpg", 60, 60)
    with small_disk(tmp_path / "disk", 200) as disk:
        done = run("scripts/predict.py", "--model", model, tmp_path / "in", "--output", f"{disk}/out")
        assert done.returncode == 1 and rows(f"{disk}/out") == (60, 120)
        count = len(os.listdir(f"{disk}/out")) - 1
    assert 0 < count < 60 and f"{count} of 60 drawings and detections.json" in done.stdout
    assert f"{60 - count} of 60 drawings could not be written" in done.stderr


def test_no_room_at_all(model, photos, tmp_path):
    with small_disk(tmp_path / "disk", 100) as disk:
        os.makedirs(f"{disk}/out")
        with open(f"{disk}/out/detections.json", "w", encoding="utf-8") as handle:
            handle.write("older")
        with open(f"{disk}/full", "wb") as handle:
            try:
                handle.write(bytes(200_000))
                handle.flush()
            except OSError:
                os.truncate(f"{disk}/full", os.path.getsize(f"{disk}/full"))
        done = run("scripts/predict.py", "--model", model, photos / "p0.jpg", "--output", f"{disk}/out")
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "detections.json: No space" in done.stderr
        assert os.listdir(f"{disk}/out") == ["detections.json"]
        with open(f"{disk}/out/detections.json", encoding="utf-8") as handle:
            assert handle.read() == "older"
    assert "0 of 1 drawings and an older detections.json" in done.stdout


def test_files_that_may_not_grow(model, photos, tmp_path):
    """Without a separate disk: a limit of 100 KB per file."""
    command = [sys.executable, os.path.join(ROOT, "scripts", "predict.py"), "--model", model, str(photos)]
    command += ["--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: limit_files(100))
    assert done.returncode == 1 and "7 of 7 drawings could not be written" in done.stderr, done.stderr
    assert os.listdir(tmp_path) == ["detections.json"] and rows(tmp_path) == (46, 92)


def test_folders_in_place_of_files(model, photos, tmp_path):
    for name in ("p1.jpg", "clip.mp4"):
        os.makedirs(tmp_path / "out" / name)
    done = run("scripts/predict.py", "--model", model, photos, "--output", tmp_path / "out")
    assert done.returncode == 1 and "2 of 7 drawings could not be written" in done.stderr
    assert "p1.jpg: Is a directory" in done.stdout and "clip.mp4: Is a directory" in done.stdout
    assert "5 of 7 drawings and detections.json" in done.stdout and rows(tmp_path / "out") == (46, 92)
    os.makedirs(tmp_path / "other" / "detections.json")
    done = run("scripts/predict.py", "--model", model, photos / "p0.jpg", "--output", tmp_path / "other")
    assert done.returncode == 1 and "detections.json: Is a directory" in done.stderr
    assert "1 of 1 drawings and no detections.json" in done.stdout


def test_the_users_files_in_the_output_folder_stay(model, photos, tmp_path):
    (tmp_path / "p0.jpg").write_bytes(b"the user's")
    done = run("scripts/predict.py", "--model", model, photos / "p0.jpg", "--output", tmp_path)
    assert done.returncode == 0 and "p0.jpg as p0_2.jpg" in done.stdout
    assert (tmp_path / "p0.jpg").read_bytes() == b"the user's"
    assert sorted(os.listdir(tmp_path)) == ["detections.json", "p0.jpg", "p0_2.jpg"]


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_folder_that_cannot_be(model, photos, tmp_path, output):
    (tmp_path / "file").write_text("x")
    done = run("scripts/predict.py", "--model", model, photos / "p0.jpg", "--output", tmp_path / output)
    assert done.returncode == 2 and done.stderr.startswith("error: output: cannot write to")
    assert done.stderr.count("\n") == 1 and (tmp_path / "file").read_text() == "x"


@pytest.fixture
def running(model, photos, tmp_path):
    """A predict.py in the middle of a video, into tmp_path/out."""
    writer = cv2.VideoWriter(str(tmp_path / "long.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (1600, 1200))
    for _ in range(300):
        writer.write(np.zeros((1200, 1600, 3), np.uint8))
    writer.release()
    words = ["scripts/predict.py", "--model", model, str(tmp_path / "long.avi"), "--output", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.time() + 60
    while process.poll() is None and time.time() < end:
        if (tmp_path / "out").exists() and any(name.startswith(".part-") for name in os.listdir(tmp_path / "out")):
            break
        time.sleep(0.01)
    assert process.poll() is None
    yield process
    process.kill()
    process.wait()


def test_the_second_prediction_into_a_folder_is_refused(model, photos, tmp_path, running):
    done = run("scripts/predict.py", "--model", model, photos / "p0.jpg", "--output", tmp_path / "out")
    assert done.returncode == 2 and f"in use by another prediction (process {running.pid} on" in done.stderr
    assert "name another folder with --output" in done.stderr and done.stderr.count("\n") == 1


def test_a_stopped_prediction_leaves_nothing_half_written(tmp_path, running):
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 143
    assert os.listdir(tmp_path / "out") == []


def test_stopped_among_pictures(model, tmp_path):
    """Ctrl-C: status 130, one line, every drawing complete, no detections.json and no other file."""
    for number in range(400):
        picture(tmp_path / "in" / f"{number:03}.jpg", 1200, 1600)
    out = tmp_path / "out"
    words = ["scripts/predict.py", "--model", model, str(tmp_path / "in"), "--output", str(out)]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.time() + 60
    while process.poll() is None and time.time() < end and not (out.exists() and len(os.listdir(out)) > 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "stopped by a signal\n"
    names = os.listdir(out)
    assert 5 < len(names) < 400 and all(name.endswith(".jpg") and not name.startswith(".") for name in names)
    assert all(cv2.imread(str(out / name)).shape == (1200, 1600, 3) for name in names)
