"""The drawn data set: reproducible, valid COCO, and varied enough for a detector."""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time

import cv2
import pytest

from src.data.readers.coco import load_coco_json
from tests.disks import small_disk
from tests.helpers.paths import ROOT


def draw(folder, *more):
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, "scripts", "draw_shapes.py"), "--output", str(folder), *more],
        capture_output=True,
        text=True,
    )


def digests(folder):
    return {
        os.path.relpath(os.path.join(where, name), folder): hashlib.sha256(
            open(os.path.join(where, name), "rb").read()
        ).hexdigest()
        for where, _, names in os.walk(folder)
        for name in names
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "a"
    assert draw(folder, "--train", "60", "--val", "3", "--image_size", "128").returncode == 0
    return folder


def test_the_same_arguments_give_the_same_files(drawn):
    other = drawn.parent / "b"
    assert draw(other, "--train", "60", "--val", "3", "--image_size", "128").returncode == 0
    assert digests(drawn) == digests(other)
    assert "already drawn" in draw(drawn, "--train", "60", "--val", "3", "--image_size", "128").stdout


def test_annotations_are_coco_and_need_no_repair(drawn, log_lines):
    content = load_coco_json(str(drawn / "annotations" / "instances_train2017.json"))
    assert log_lines(logging.WARNING) == []
    assert {c["name"]: c["id"] for c in content["categories"]} == {"stop sign": 13, "sports ball": 37, "kite": 38}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    assert {a["category_id"] for a in content["annotations"]} == {13, 37, 38}
    assert any(a["iscrowd"] for a in content["annotations"])
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        assert 0 <= x and 0 <= y and w > 0 and h > 0 and x + w <= width and y + h <= height


def test_some_files_are_really_grey(drawn):
    content = json.loads((drawn / "annotations" / "instances_train2017.json").read_text())
    kinds = [
        cv2.imread(str(drawn / "train2017" / image["file_name"]), cv2.IMREAD_UNCHANGED).ndim
        for image in content["images"]
    ]
    assert 2 <= kinds.count(2) <= 25 and kinds.count(3) > 30


def test_a_foreign_folder_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    done = draw(tmp_path, "--train", "1", "--val", "1")
    assert done.returncode == 2 and done.stderr.startswith("error:") and os.listdir(tmp_path) == ["mine.txt"]


SMALL = ["--train", "3", "--val", "2", "--image_size", "64"]


def test_only_what_it_drew_is_replaced(tmp_path):
    folder = tmp_path / "a"
    assert draw(folder, "--train", "5", "--val", "2", "--image_size", "64").returncode == 0
    mine = {"train2017/mine.jpg": "1", "ssd_mindrecord/records": "2", "notes.txt": "3", "new/deep/x": "4"}
    for name, text in mine.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    assert draw(folder, *SMALL, "--seed", "2").returncode == 0
    assert {name: (folder / name).read_text() for name in mine} == mine
    assert draw(tmp_path / "b", *SMALL, "--seed", "2").returncode == 0
    ours = {name: value for name, value in digests(folder).items() if name not in mine}
    assert ours == digests(tmp_path / "b") and len(ours) == 8


@pytest.mark.parametrize("change", ["changed", "put there", "a folder", "a file for its folder"])
def test_a_file_of_the_users_is_never_replaced(tmp_path, change):
    folder = tmp_path / "a"
    assert draw(folder, *SMALL).returncode == 0
    name = folder / "train2017" / ("000000001030.jpg" if change == "put there" else "000000001009.jpg")
    if change == "a folder":
        name.unlink()
        name.mkdir()
    elif change == "a file for its folder":
        for path in (folder / "train2017").iterdir():
            path.unlink()
        (folder / "train2017").rmdir()
        (folder / "train2017").write_text("mine")
    else:
        name.write_text("mine")
    before = digests(folder)
    done = draw(folder, "--train", "4", "--val", "2", "--image_size", "64", "--seed", "2")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "move them away" in done.stderr, done.stderr
    assert digests(folder) == before and not (folder / ".drawing").exists()


def test_what_is_missing_is_drawn_again_and_what_was_changed_stays(tmp_path):
    folder = tmp_path / "a"
    assert draw(folder, *SMALL).returncode == 0
    before = digests(folder)
    (folder / "val2017" / "000000501016.jpg").unlink()
    changed = folder / "train2017" / "000000001009.jpg"
    changed.write_text("mine")
    done = draw(folder, *SMALL)
    assert done.returncode == 0 and "changed since: 1 of them, first train2017/000000001009.jpg" in done.stdout
    assert changed.read_text() == "mine"
    after = digests(folder)
    assert {name for name in before if before[name] != after[name]} == {"train2017/000000001009.jpg"}


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"files": 3}', b'{"files": {"../x": "0", "/x": "0"}}', b"\xff\0"])
def test_a_damaged_list_loses_nothing(tmp_path, content):
    folder = tmp_path / "a"
    assert draw(folder, *SMALL).returncode == 0
    before = digests(folder)
    (folder / "drawn.json").write_bytes(content)
    assert draw(folder, *SMALL).returncode == 0 and digests(folder) == before
    (folder / "drawn.json").write_bytes(content)
    done = draw(folder, *SMALL, "--seed", "2")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert {**digests(folder), "drawn.json": ""} == {**before, "drawn.json": ""}


def test_a_kill_between_two_files_is_repaired(tmp_path):
    folder = tmp_path / "a"
    assert draw(folder, "--train", "5", "--val", "2", "--image_size", "64").returncode == 0
    code = (
        "import os, sys; sys.path.insert(0, '.'); import scripts.draw_shapes as it\n"
        "real, count = os.replace, [0]\n"
        "def replace(a, b):\n"
        "    count[0] += '.drawing' in str(a) and '.part-' not in str(a)\n"
        "    os._exit(9) if count[0] == 3 else real(a, b)\n"
        "os.replace = replace\n"
        "it.main(sys.argv[1:])"
    )
    words = ["--output", str(folder), *SMALL, "--seed", "2"]
    assert subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT).returncode == 9
    (folder / "train2017" / "mine").write_text("mine")
    assert draw(folder, *SMALL, "--seed", "3").returncode == 0
    assert draw(tmp_path / "b", *SMALL, "--seed", "3").returncode == 0
    after = digests(folder)
    assert after.pop("train2017/mine") and after == digests(tmp_path / "b")


def test_a_full_disk_leaves_the_older_set_or_nothing(tmp_path):
    with small_disk(tmp_path / "disk", 300) as disk:
        done = draw(os.path.join(disk, "a"), "--train", "600", "--val", "1", "--image_size", "64")
        assert done.returncode == 1 and "No space left on device" in done.stderr and done.stderr.count("\n") == 1
        assert os.listdir(disk) == []
        assert draw(os.path.join(disk, "a"), *SMALL).returncode == 0
        before = digests(os.path.join(disk, "a"))
        assert draw(os.path.join(disk, "a"), "--train", "600", "--val", "1", "--image_size", "64").returncode == 1
        assert digests(os.path.join(disk, "a")) == before


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_drawing(tmp_path, number, status):
    words = [sys.executable, os.path.join(ROOT, "scripts", "draw_shapes.py"), "--output", str(tmp_path / "a")]
    process = subprocess.Popen([*words, "--train", "5000"], stderr=subprocess.DEVNULL)
    end = time.time() + 60
    while not (tmp_path / "a" / ".drawing" / "train2017").exists() and time.time() < end:
        time.sleep(0.01)
    second = draw(tmp_path / "a", *SMALL)
    assert second.returncode == 2 and f"another drawing (process {process.pid}" in second.stderr
    process.send_signal(number)
    assert process.wait(60) == status
    if number != signal.SIGKILL:
        assert not (tmp_path / "a").exists()
    assert draw(tmp_path / "a", *SMALL).returncode == 0
    assert sorted(os.listdir(tmp_path / "a")) == ["annotations", "drawn.json", "train2017", "val2017"]


def test_the_smallest_pictures(tmp_path):
    assert draw(tmp_path / "a", "--train", "150", "--val", "1", "--image_size", "64").returncode == 0
    content = load_coco_json(str(tmp_path / "a" / "annotations" / "instances_train2017.json"))
    assert any(a["iscrowd"] for a in content["annotations"])
    assert {max(image["width"], image["height"]) for image in content["images"]} == {64}


@pytest.mark.parametrize(
    "option", ["--image_size=63", "--image_size=100000", "--train=0", "--val=-1", "--train=80000", "--seed=-1"]
)
def test_numbers_out_of_range(tmp_path, option):
    done = draw(tmp_path / "a", option)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "must lie in" in done.stderr
    assert not (tmp_path / "a").exists()
