"""Which files predict.py finds, skips and logs: folders, links, other kinds of files, its drawings."""

import json
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from src.inference.search import find_files
from src.utils.errors import UserError
from src.utils.output import write_picture
from tests.helpers.predictions import picture
from tests.helpers.programs import run


def listing(places, output="", folder=None):
    return [os.path.relpath(path, folder) for path in find_files([str(place) for place in places], str(output))]


def test_linked_folders_are_searched_once(tmp_path):
    picture(tmp_path / "photos" / "a.jpg")
    picture(tmp_path / "store" / "deep" / "b.jpg")
    picture(tmp_path / "one.jpg")
    photos = tmp_path / "photos"
    (photos / "linked").symlink_to("../store")
    (photos / "again").symlink_to("../store")
    (photos / "loop").symlink_to(".")
    (photos / "one_link.jpg").symlink_to("../one.jpg")
    assert listing([photos], folder=photos) == ["a.jpg", "one_link.jpg", "again/deep/b.jpg"]
    # a file reached twice is one file
    assert len(listing([photos, photos / "a.jpg", tmp_path / "store", tmp_path / "one.jpg"])) == 3


def test_everything_left_out_is_counted_and_named(tmp_path, log_lines):
    picture(tmp_path / "a.jpg")
    jpeg = (tmp_path / "a.jpg").read_bytes()
    for name in ("no_extension", "b.jfif", "c.jpe", "d.JPG", "IMG 2023.11.05", "misnamed.webp"):
        (tmp_path / name).write_bytes(jpeg)
    for number in range(4):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{number}.webp")
    Image.new("RGB", (9, 9)).save(tmp_path / "e.gif")
    (tmp_path / "f.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "notes.txt").write_text("BM no bitmap")
    (tmp_path / "Makefile").write_text("")
    (tmp_path / "._a.jpg").write_bytes(b"\0\x05\x16\x07")
    (tmp_path / ".DS_Store").write_bytes(b"")
    os.makedirs(tmp_path / "__MACOSX")
    (tmp_path / "__MACOSX" / "b.jpg").write_bytes(jpeg)
    (tmp_path / "dead.jpg").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = listing([tmp_path], folder=tmp_path)
    assert sorted(found) == sorted(
        ["a.jpg", "no_extension", "b.jfif", "c.jpe", "d.JPG", "IMG 2023.11.05", "misnamed.webp"]
    )
    (line,) = log_lines()
    assert line.startswith("left out 14: .webp: 4 (0.webp, 1.webp, 2.webp, ...); hidden: 3 (")
    for words in (
        "dead links: 2 (circle, dead.jpg)",
        ".gif: 1 (e.gif)",
        ".heic: 1 (f.heic)",
        ".txt: 1 (notes.txt)",
        "without an extension: 1 (Makefile)",
        "no regular files: 1 (pipe.jpg)",
        "convert .webp, .gif, .heic to JPEG or PNG",
    ):
        assert words in line
    with pytest.raises(UserError, match="no picture or video in the folder .*left out 1: .gif: 1"):
        os.makedirs(tmp_path / "only")
        os.rename(tmp_path / "e.gif", tmp_path / "only" / "e.gif")
        find_files([str(tmp_path / "only")])


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, log_lines):
    picture(tmp_path / "a.jpg")
    os.makedirs(tmp_path / "closed")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert listing([tmp_path], folder=tmp_path) == ["a.jpg"]
    assert any("folders that cannot be read: 1 (closed)" in line for line in log_lines())


def test_drawings_and_the_output_folder_are_left_out(tmp_path, log_lines):
    image = np.full((40, 40, 3), 90, np.uint8)
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "out" / "mine.jpg")  # the output folder is skipped in a search above it
    write_picture(str(tmp_path / "drawn.png"), image, drawing=True)
    (tmp_path / "other_way").symlink_to(tmp_path)
    for output in (tmp_path / "out", tmp_path / "other_way" / "out", tmp_path / "x" / ".." / "out"):
        assert listing([tmp_path], output, tmp_path) == ["a.jpg"]
        assert listing([tmp_path / "*.*", tmp_path / "**"], output, tmp_path) == ["a.jpg"]
    drawings = "drawings of this program: 1 (drawn.png); in the output folder: 1 (mine.jpg)"
    assert any(drawings in line for line in log_lines())
    # inputs below the output folder, or the output folder itself, are searched
    assert listing([tmp_path / "out"], tmp_path / "out", tmp_path) == ["out/mine.jpg"]
    assert listing([tmp_path / "out" / "mine.jpg"], tmp_path / "out", tmp_path) == ["out/mine.jpg"]
    assert "a.jpg" in listing([tmp_path], tmp_path, tmp_path)
    with pytest.raises(UserError, match="nothing to detect on in .*drawings of this program: 1"):
        find_files([str(tmp_path / "drawn.png")])


def drawn_twice(model, folder, *words):
    """The file list of the output folder and the pictures of detections.json after each of two runs."""
    for _ in range(2):
        done = run("scripts/predict.py", "--model", model, *words, cwd=folder)
        assert done.returncode == 0, done.stderr
        output = os.path.join(folder, words[-1] if "--output" in words else "detections")
        with open(os.path.join(output, "detections.json"), encoding="utf-8") as handle:
            yield (
                sorted(os.listdir(output)),
                [os.path.normpath(row["file_name"]) for row in json.load(handle)["images"]],
            )


@pytest.mark.parametrize("places", [["."], ["a.jpg", "b.png", "clip.avi", "detections"], ["*"]])
def test_the_second_run_detects_on_the_same_files(model, tmp_path, places):
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "b.png")
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    os.makedirs(tmp_path / "detections")
    if "detections" in places:
        picture(tmp_path / "detections" / "c.jpg")
    first, second = drawn_twice(model, tmp_path, *places)
    assert first == second and len(first[1]) == (4 if "detections" in places else 3)


def test_one_folder_for_photos_and_drawings(model, tmp_path):
    for name in ("a.jpg", "b.png"):
        picture(tmp_path / name)
    before = [(tmp_path / name).read_bytes() for name in ("a.jpg", "b.png")]
    first, second = drawn_twice(model, tmp_path, ".", "--output", ".")
    assert first == second == (["a.jpg", "a_2.jpg", "b.png", "b_2.png", "detections.json"], ["a.jpg", "b.png"])
    assert [(tmp_path / name).read_bytes() for name in ("a.jpg", "b.png")] == before


def test_odd_names(model, tmp_path):
    names = ["a b.jpg", "ü 你好.jpg", "new\nline.jpg", "x" * 251 + ".jpg", os.fsdecode(b"lat\xe4in.jpg")]
    for name in names:
        picture(tmp_path / "in" / "a.jpg")
        os.rename(tmp_path / "in" / "a.jpg", tmp_path / "in" / name)
    picture(tmp_path / "in" / "deep" / "a.jpg")
    os.rename(tmp_path / "in" / "deep" / "a.jpg", tmp_path / "in" / "deep" / names[3])
    (tmp_path / "in" / "bro\nken.jpg").write_bytes(b"x")
    done = run("scripts/predict.py", "--model", model, "in", "--output", "out", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "bro\\nken.jpg" in done.stderr, done.stderr
    found = sorted(os.listdir(tmp_path / "out"))
    assert len(found) == 7 and set(names) - set(found) == set()
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [row["file_name"] for row in content["images"] if "lat" in row["file_name"]] == [f"in/{names[4]}"]
