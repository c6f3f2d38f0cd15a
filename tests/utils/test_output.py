"""Files are written completely or not at all, and those that could not be written are named."""

import contextlib
import json
import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from src.utils.drawing import DrawingPaths
from src.utils.errors import RunError
from src.utils.output import (
    Arrivals,
    OutputError,
    append_line,
    atomic_write,
    is_drawing,
    part_file,
    write_json,
    write_picture,
    write_text,
)
from src.utils.text import one_line
from src.utils.video import VideoFile
from tests.disks import files_limited, small_disk
from tests.helpers.paths import ROOT


def noise(height=120, width=160, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a" / "metrics.json"
    with atomic_write(str(path)) as handle:
        handle.write("old\r\n")
    with pytest.raises(ValueError), atomic_write(str(path)) as handle:
        handle.write("new")
        assert path.read_bytes() == b"old\r\n"
        raise ValueError
    assert path.read_bytes() == b"old\r\n" and os.listdir(path.parent) == ["metrics.json"]
    with atomic_write(str(path), "wb") as handle:
        handle.write(b"\xff")
    assert path.read_bytes() == b"\xff" and os.listdir(path.parent) == ["metrics.json"]


def writers(folder):
    """Every writer with a content of 200 KB or more."""
    yield "a.txt", lambda path: write_text(path, "x" * 200_000)
    yield "a.json", lambda path: write_json(path, list(range(50_000)))
    yield "a.png", lambda path: write_picture(path, noise(300, 400))
    yield "a.jpg", lambda path: write_picture(path, noise(300, 400), quality=100, drawing=True)
    yield "a.mp4", write_video


def write_video(path):
    with VideoFile(path, 10.0) as video:
        for seed in range(20):
            video.write(noise(240, 320, seed))
        video.close()


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.png", "a.jpg", "a.mp4"])
def test_what_does_not_fit_is_named_and_leaves_nothing(tmp_path, name):
    write = dict(writers(tmp_path))[name]
    path = tmp_path / name
    path.write_bytes(b"old")
    with files_limited(100), pytest.raises(OutputError) as error:
        write(str(path))
    assert isinstance(error.value, RunError) and str(path) in str(error.value)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == [name]
    write(str(path))
    assert path.stat().st_size > 100_000 and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.png", "a.jpg", "a.mp4"])
def test_a_full_disk_is_said_with_its_free_bytes(tmp_path, name):
    with small_disk(tmp_path / "disk", 100) as disk:
        with pytest.raises(OutputError, match=r"a\.\w+: .* \(\d+ bytes are free; make room") as error:
            dict(writers(tmp_path))[name](os.path.join(disk, name))
        assert error.value.full and os.listdir(disk) == []


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.png", "a.jpg", "a.mp4"])
def test_a_folder_in_its_place_is_an_error_and_stays(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        dict(writers(tmp_path))[name](str(tmp_path / name))
    assert os.listdir(tmp_path) == [name] and os.listdir(tmp_path / name) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory|File exists"):
        dict(writers(tmp_path))[name](str(tmp_path / "file" / name))


def test_an_error_about_another_file_is_not_taken_for_ours(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(str(tmp_path / "a.txt")):
        open(tmp_path / "none" / "source.txt", encoding="utf-8")
    assert os.listdir(tmp_path) == []


def test_links_are_followed_and_streams_written_to(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.txt").symlink_to("folder/real.txt")
    write_text(str(tmp_path / "a.txt"), "x")
    assert (tmp_path / "a.txt").is_symlink() and (tmp_path / "folder" / "real.txt").read_text() == "x"
    code = "from src.utils.output import write_text; write_text('/dev/stdout', 'text'); write_text('/dev/null', 'text')"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "text"), run.stderr


def test_text_that_utf8_cannot_hold_is_escaped(tmp_path):
    name = os.fsdecode(b"lat\xe4in")
    write_text(str(tmp_path / "a.html"), name)
    assert (tmp_path / "a.html").read_text() == "lat\\udce4in"
    write_json(str(tmp_path / "a.json"), [name])
    assert json.loads((tmp_path / "a.json").read_text()) == [name]
    assert one_line(f"ü 你\n{name}\x1b") == "ü 你\\nlat\\xe4in\\x1b"


def test_a_line_is_appended_complete_or_not_at_all(tmp_path):
    path = tmp_path / "history.jsonl"
    append_line(str(path), "x" * 900)
    with files_limited(1), pytest.raises(OutputError, match="history.jsonl"):
        append_line(str(path), "y" * 900)
    assert path.read_text() == "x" * 900 + "\n"


def test_what_a_killed_process_left_is_removed_and_a_running_ones_stays(tmp_path):
    target = str(tmp_path / "a.jpg")
    code = f"from src.utils.output import part_file\nwith part_file({target!r}):\n print(1, flush=True); input()"
    running, killed = (
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    )
    for process in (running, killed):
        assert process.stdout.readline() == "1\n"
    killed.kill()
    killed.wait()
    for name in os.listdir(tmp_path):
        os.utime(tmp_path / name, (time.time() - 3600,) * 2)
    with part_file(str(tmp_path / "b.jpg")) as part:
        names = sorted(os.listdir(tmp_path))
    assert len(names) == 2 and os.path.basename(part) in names and any(str(running.pid) in name for name in names)
    running.communicate("\n")
    assert os.listdir(tmp_path) == []


def test_drawings_are_known_by_their_bytes_and_read_as_others(tmp_path):
    image = noise()
    for name in ("a.png", "a.jpg"):
        write_picture(str(tmp_path / name), image, drawing=True)
        write_picture(str(tmp_path / f"plain_{name}"), image)
        assert is_drawing(str(tmp_path / name)) and not is_drawing(str(tmp_path / f"plain_{name}"))
        for read in (cv2.imread, lambda path: np.asarray(Image.open(path).convert("RGB"))):  # two decoders
            np.testing.assert_array_equal(read(str(tmp_path / name)), read(str(tmp_path / f"plain_{name}")))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png")), image)
    os.rename(tmp_path / "a.jpg", tmp_path / "other.jpg")
    assert is_drawing(str(tmp_path / "other.jpg"))
    assert not is_drawing(str(tmp_path)) and not is_drawing(str(tmp_path / "none.jpg"))


def test_a_picture_that_cannot_be_encoded_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="70000 x 1 pixels cannot be encoded"):
        write_picture(str(tmp_path / "a.jpg"), np.zeros((1, 70000, 3), np.uint8))
    with pytest.raises(OutputError, match="cannot be encoded"):
        write_picture(str(tmp_path / "a.nothing"), noise())
    assert os.listdir(tmp_path) == []


def test_a_video_arrives_with_every_frame(tmp_path):
    path = str(tmp_path / "a.mp4")
    with VideoFile(path, 5.0) as video:
        for k in range(7):
            video.write(np.full((100 + k % 2, 160, 3), 30 * k, np.uint8))  # the size changes during the video
        assert not os.path.exists(path)
        video.close()
    read = cv2.VideoCapture(path)
    frames = [frame for found, frame in iter(read.read, (False, None)) if found]
    assert len(frames) == 7 and read.get(cv2.CAP_PROP_FPS) == 5 and frames[0].shape == (100, 160, 3)
    assert [round(frame.mean() / 30) for frame in frames] == list(range(7))
    assert is_drawing(path) and os.listdir(tmp_path) == ["a.mp4"]


def test_frames_that_were_lost_in_between_are_found(tmp_path):
    with VideoFile(str(tmp_path / "a.mp4"), 10.0) as video:
        with files_limited(100):
            for seed in range(20):
                video.write(noise(240, 320, seed))
        with pytest.raises(OutputError, match="a.mp4: 0 of 20 frames were written"):  # the disk has space again
            video.close()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_ends_a_long_video_early(tmp_path):
    with small_disk(tmp_path / "disk", 300) as disk, VideoFile(f"{disk}/a.mp4", 10.0) as video:
        with pytest.raises(OutputError, match="No space left on device"):
            for seed in range(200):
                video.write(noise(240, 320, seed))
        assert video.frames < 60


def test_an_interrupted_video_leaves_nothing(tmp_path):
    with contextlib.suppress(KeyboardInterrupt), VideoFile(str(tmp_path / "a.mp4"), 5.0) as video:
        video.write(noise())
        raise KeyboardInterrupt
    with VideoFile(str(tmp_path / "b.mp4"), 5.0) as video, pytest.raises(OutputError, match="no frames"):
        video.close()
    assert os.listdir(tmp_path) == []


def test_arrivals_name_what_did_not_arrive(tmp_path, log_lines):
    (tmp_path / "b.txt").mkdir()
    arrivals = Arrivals("files")
    for name in ("a.txt", "b.txt", "c.txt"):
        with arrivals.one():
            write_text(str(tmp_path / name), name)
    assert arrivals.count == 2 and (tmp_path / "c.txt").read_text() == "c.txt"
    with pytest.raises(
        OutputError, match=r"1 of 3 files could not be written, first: cannot write .*b\.txt: Is a directory"
    ):
        arrivals.finish()
    (line,) = log_lines()
    assert "b.txt: Is a directory" in line
    with pytest.raises(ZeroDivisionError), arrivals.one():
        raise ZeroDivisionError  # only an OutputError is noted


def test_drawings_get_free_names(tmp_path):
    write_picture(str(tmp_path / "old.jpg"), noise(), drawing=True)
    (tmp_path / "user.jpg").write_text("the user's")
    (tmp_path / "link.jpg").symlink_to("user.jpg")
    (tmp_path / "folder.jpg").mkdir()
    paths = DrawingPaths(str(tmp_path), [str(tmp_path / "photo.jpg")], ["result.jpg"])
    names = [
        "x/old.bmp",
        "user.jpg",
        "link.jpg",
        "folder.jpg",
        "photo.jpg",
        "result.jpg",
        "a.jpg",
        "b/a.jpg",
        "c/a.jpg",
    ]
    given = [os.path.basename(paths.path(name, ".jpg")) for name in names]
    assert given == "old.jpg user_2.jpg link_2.jpg folder.jpg photo_2.jpg result_2.jpg a.jpg a_2.jpg a_3.jpg".split()
    for _ in range(2):
        long = os.path.basename(paths.path("ü" * 125 + ".jpeg", ".jpg"))
        assert len(long.encode()) <= 255
        (tmp_path / long).write_text("it can be made")
    assert os.path.basename(paths.path("IMG 2023.11.05", ".jpg")) == "IMG 2023.11.05.jpg"
