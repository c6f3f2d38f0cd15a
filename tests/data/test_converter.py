"""Conversion: rules for images and boxes, records of other programs, kills, a full disk."""

import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from src.data.pipeline import evaluation_batches
from src.data.records import prepare_records
from src.data.records.files import all_files, count_rows
from src.data.records.writer import _load, conversion_lock
from src.data.sample import Sample, boxes_array
from src.data.tiles import Tiling
from src.utils.errors import UserError
from tests.helpers.paths import ROOT
from tests.helpers.records import IDS, config, instances, rows_of


def test_boxes_are_clipped_to_the_size_of_the_file(folder):
    # images of 60 x 40, annotated as 30 x 40: the box must not be clipped at 30
    def change(content):
        for image in content["images"]:
            image["width"] = 30
        content["annotations"][0]["bbox"] = [50, 30, 50, 50]
        content["annotations"][1]["bbox"] = [100, 100, 5, 5]  # completely outside: dropped, and its image too
        content["annotations"][2]["bbox"] = [-5, -5, 20, 20]

    instances(folder, "train2017", change)
    rows = rows_of(prepare_records(config(folder), True))
    assert rows[IDS[0]][1] == [[30, 50, 40, 60, 1]] and IDS[1] not in rows and rows[IDS[2]][1] == [[0, 0, 15, 15, 1]]
    assert rows[IDS[3]][1] == [[6, 5, 24, 28, 1]]


def test_evaluation_keeps_images_without_boxes(folder):
    instances(folder, "val2017", lambda content: content.update(annotations=content["annotations"][:1]))
    records = prepare_records(config(folder), False)
    assert sorted(rows_of(records)) == list(IDS) and rows_of(records)[IDS[4]][1] == []


def make_published(folder, is_training=True):
    """Make records as other programs write them: only the 16 files."""
    records = prepare_records(config(folder), is_training)
    os.remove(records.files[0][:-1] + ".json")
    return records


def test_published_records_are_read_as_they_are(folder):
    records = make_published(folder)
    before = {path: (os.stat(path).st_mtime_ns, os.path.getsize(path)) for path in all_files(records.files[0][:-1])}
    # they need neither annotations nor images
    for path in list((folder / "coco" / "annotations").iterdir()):
        path.rename(path.with_suffix(".moved"))
    again = prepare_records(config(folder), True)
    assert again.count == 5 and again.ids is None and sorted(again.rows) == list(IDS)
    assert before == {path: (os.stat(path).st_mtime_ns, os.path.getsize(path)) for path in before}


def test_published_evaluation_records(folder):
    make_published(folder, is_training=False)
    records = prepare_records(config(folder), False)
    assert records.annotation_file == str(folder / "coco" / "annotations" / "instances_val2017.json")
    seen = [records.dataset_id(row) for ids, _, _ in evaluation_batches(records, config(folder)) for row in ids]
    assert sorted(seen) == list(IDS)


@pytest.mark.parametrize("damage", ["cut", "empty", "no index", "other index", "header"])
def test_damaged_records_of_others_are_converted_again(folder, damage):
    path = make_published(folder).files[2]
    assert count_rows(path[:-1]) == 5
    if damage == "cut":
        os.truncate(path, os.path.getsize(path) - 1)
    elif damage == "empty":
        os.truncate(path, 0)
    elif damage == "no index":
        os.remove(path + ".db")
    elif damage == "other index":
        os.replace(path[:-1] + "7.db", path + ".db")
    else:
        with open(path, "r+b") as handle:
            handle.seek(8)
            handle.write(b"\0\0\0\0")
    assert sorted(rows_of(prepare_records(config(folder), True))) == list(IDS)


def test_an_interrupted_move_is_not_taken_for_published_records(folder):
    prefix = prepare_records(config(folder), True).files[0][:-1]
    with open(prefix + ".json", "w") as handle:
        handle.write('{"unfinished": true}')
    before = os.stat(prefix + "0").st_mtime_ns
    assert prepare_records(config(folder), True).count == 5 and os.stat(prefix + "0").st_mtime_ns != before


def test_a_moved_folder_works_and_renamed_files_are_reported(folder, caplog, log_lines):
    prepare_records(config(folder), True)
    os.rename(folder / "records", folder / "elsewhere")
    cfg = config(folder, "--mindrecord_dir=elsewhere")
    before = {path: os.stat(path).st_mtime_ns for path in (folder / "elsewhere").iterdir()}
    assert sorted(rows_of(prepare_records(cfg, True))) == list(IDS)
    assert before == {path: os.stat(path).st_mtime_ns for path in before}
    # to another name: not read but logged, and the files are not touched
    for path in list((folder / "elsewhere").iterdir()):
        path.rename(path.with_name(path.name.replace("ssd.", "x.")))
    (folder / "elsewhere" / "x.mindrecord.json").unlink()
    caplog.clear()
    assert prepare_records(cfg, True).count == 5
    assert any("x.mindrecord0" in line and "renamed" in line for line in log_lines())
    # another set renamed to our name: an error, and not overwritten
    for path in list((folder / "elsewhere").iterdir()):
        path.unlink() if path.name.startswith("ssd.") else path.rename(path.with_name(path.name.replace("x.", "ssd.")))
    assert prepare_records(cfg, True).count == 5  # with the original name again
    for path in list((folder / "elsewhere").iterdir()):
        path.unlink() if path.suffix == ".json" else path.rename(path.with_name(path.name.replace("ssd.", "ssd_eval.")))
    with pytest.raises(UserError, match=r"ssd_eval.mindrecord\* were renamed.*ssd.mindrecord0"):
        prepare_records(cfg, False)


def test_classes_that_records_of_others_do_not_fit(folder):
    instances(folder, "train2017", lambda content: content["categories"].append({"id": 2, "name": "dog"}))
    instances(folder, "train2017", lambda content: content["annotations"][0].update(category_id=2))
    two = ("--num_classes=3", "--classes=['background', 'person', 'dog']")
    os.remove(prepare_records(config(folder, *two), True).files[0][:-1] + ".json")
    with pytest.raises(UserError, match="class 2.*num_classes"):
        prepare_records(config(folder), True)


def test_a_broken_image_leaves_the_old_records(folder):
    prepare_records(config(folder), True)
    (folder / "coco" / "train2017" / "40.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="40.jpg: the file is empty"):
        prepare_records(config(folder), True)
    assert count_rows(str(folder / "records" / "ssd.mindrecord")) == 5
    assert not [name for name in os.listdir(folder / "records") if name.startswith(".")]


def test_other_formats_and_orientations(folder):
    train = folder / "coco" / "train2017"
    image = cv2.imread(str(train / "3.jpg"))
    (train / "3.jpg").write_bytes(cv2.imencode(".png", image)[1].tobytes())  # PNG under the name .jpg works
    (train / "40.jpg").write_bytes(b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 40)
    (train / "500.jpg").write_bytes(b"<html>")
    with pytest.raises(UserError, match="broken image .*40.jpg: not a JPEG"):
        prepare_records(config(folder), True)
    records = prepare_records(config(folder, "--max_bad_images=2"), True)
    assert sorted(rows_of(records)) == [3, 6000, 70000]
    listed = (folder / "records" / "bad_images_train.txt").read_text().splitlines()
    assert [os.path.basename(line.split(":")[0]) for line in listed] == ["40.jpg", "500.jpg"]


def test_one_converter_at_a_time(folder, tmp_path):
    code = (
        "import sys; from src.data.records import prepare_records; from tests.helpers.records import config\n"
        "from src.utils.log import setup_logging; setup_logging()\n"
        "print(prepare_records(config(sys.argv[1]), True).count)"
    )
    environment = dict(os.environ, PYTHONPATH=ROOT, GLOG_v="4")
    command = [sys.executable, "-c", code, str(folder)]
    runs = [
        subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    printed = "".join(out for out, _ in outputs)
    assert printed.count("converting 5 images") == 1 and printed.count("up to date") == 1, printed


def test_a_conversion_killed_at_any_moment(folder, tmp_path):
    environment = dict(os.environ, PYTHONPATH=ROOT, GLOG_v="4")
    run = subprocess.run(
        [sys.executable, "-m", "tests.data.kill_converter", str(folder), os.environ.get("KILLS", "8")],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    digests = re.findall(r"digest (\w+)", run.stdout)
    assert len(digests) == int(os.environ.get("KILLS", "8")) and len(set(digests)) == 1, run.stdout
    assert int(re.search(r"killed (\d+)", run.stdout).group(1)) > 0


def test_the_folder_is_held_by_one_process(tmp_path):
    with conversion_lock(str(tmp_path / "records")):
        code = (
            "import fcntl, os, sys\n"
            "try: fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "except BlockingIOError: print('held')"
        )
        run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "records")], stdout=subprocess.PIPE, text=True)
        assert run.stdout.strip() == "held"
    assert not (tmp_path / "records").exists()  # nothing was written, nothing is left


def test_no_room_is_said_before_anything_is_written(folder, monkeypatch):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 1))
    with pytest.raises(UserError, match=r"records has 1 bytes free, the records need about \d+"):
        prepare_records(config(folder), True)
    assert not (folder / "records").exists()


def test_pixels_are_those_of_the_file(folder):
    source = cv2.imread(str(folder / "coco" / "train2017" / "3.jpg"))
    stored = rows_of(prepare_records(config(folder), True))[3][0]
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR), source)


def test_16_bit_images_that_become_black_are_logged_at_conversion(tmp_path):
    dark = np.full((20, 30), 900, np.uint16)
    dark[5:9, 5:9] = 1000
    cv2.imwrite(str(tmp_path / "dark.png"), dark)
    cv2.imwrite(str(tmp_path / "full.png"), dark * 60)
    sample = Sample(1, str(tmp_path / "dark.png"), boxes_array([]))
    *_, reason, odd = _load(sample, Tiling())
    assert reason == "" and odd.startswith("16-bit images become black")
    assert _load(Sample(1, str(tmp_path / "full.png"), boxes_array([])), Tiling())[-2:] == ("", "")
