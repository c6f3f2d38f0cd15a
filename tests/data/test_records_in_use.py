"""Several data sets, class lists, runs and programs in one folder of records: none changes the files of another."""

import json
import os
import shutil
import subprocess
import sys

import mindspore.dataset as ds
import numpy as np
import pytest

from src.data.records import missing_evaluation_set, prepare_records
from src.data.records.files import all_files, boxes_of_row
from src.evaluation.evaluate import build_evaluator
from src.utils.errors import UserError
from tests.helpers.paths import ROOT
from tests.helpers.small_sets import config, make_set

DOG_FIRST = ("--classes=['background', 'dog', 'cat', 'cow']",)


def labels(records):
    """Label of every box, by image id."""
    rows = ds.MindDataset(records.files[0], ["img_id", "annotation"], shuffle=False)
    return {
        int(img_id[0]): boxes_of_row(annotation)[:, 4].tolist()
        for img_id, annotation in rows.create_tuple_iterator(num_epochs=1, output_numpy=True)
    }


def contents(files):
    return {path: open(path, "rb").read() for path in files}


def perfect_map(cfg, records):
    """mAP of the ground truth itself as detections, from the annotation file of the records."""
    evaluator = build_evaluator(records, cfg)
    with open(records.annotation_file) as handle:
        truth = json.load(handle)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    measured = {records.dataset_id(img_id) for img_id in records.rows.tolist()}
    for image in truth["images"]:
        if image["id"] in measured:
            objects = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
            boxes = np.array([[y, x, y + h, x + w] for x, y, w, h in (a["bbox"] for a in objects)], np.float64)
            scores = np.full(len(objects), 0.9)
            label = np.array([cfg.classes.index(names[a["category_id"]]) for a in objects])
            evaluator.add(image["id"], boxes.reshape(-1, 4), scores, label)
    return evaluator.summarize()["mAP"]


@pytest.mark.parametrize("dataset", ["coco", "voc", "other"])
def test_two_class_lists_have_separate_files(tmp_path, dataset):
    make_set(tmp_path, 3)
    first_cfg = config(tmp_path, f"--dataset={dataset}")
    second_cfg = config(tmp_path, f"--dataset={dataset}", *DOG_FIRST)
    first = prepare_records(first_cfg, False)
    before = contents(all_files(first.files[0][:-1]))
    second = prepare_records(second_cfg, False)
    assert first.files[0] != second.files[0] and contents(before) == before
    assert perfect_map(first_cfg, first) == perfect_map(second_cfg, second) == pytest.approx(1.0)
    if dataset != "other":  # a list file names classes by their number
        swapped = {0: 0, 1: 2, 2: 1, 3: 3}
        assert labels(second) == {
            image_id: [swapped[label] for label in row] for image_id, row in labels(first).items()
        }
    # both are found again, without a conversion
    after = contents(all_files(second.files[0][:-1]))
    assert prepare_records(first_cfg, False).files == first.files
    assert prepare_records(second_cfg, False).files == second.files
    assert contents(before) == before and contents(after) == after


def test_two_voc_sets_below_one_data_path(tmp_path):
    """A, B, then A again: each is compared with the right ground truth."""
    make_set(tmp_path / "one", 4)
    make_set(tmp_path / "two", 2)
    configs = [
        config(tmp_path, "--dataset=voc", f"--voc_root={name}/voc", "--voc_json=annotations/voc_instances_val.json")
        for name in ("one", "two")
    ]
    for cfg, count in ((configs[0], 4), (configs[1], 2), (configs[0], 4)):
        records = prepare_records(cfg, False)
        assert records.count == count and perfect_map(cfg, records) == pytest.approx(1.0)


def test_an_open_reader_keeps_its_records(tmp_path):
    content = make_set(tmp_path, 3)
    cfg = config(tmp_path)
    reader = prepare_records(cfg, False)
    before, files = labels(reader), contents(all_files(reader.files[0][:-1]))
    content["annotations"] = [dict(a, category_id=7) for a in content["annotations"]]
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    changed = prepare_records(cfg, False)
    assert labels(reader) == before and contents(files) == files
    assert set(sum(labels(changed).values(), [])) == {2}
    # when the outdated records are not read any more, the next change replaces them
    flat = reader.files[0]
    del reader
    content["annotations"] = [dict(a, category_id=1000) for a in content["annotations"]]
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    again = prepare_records(cfg, False)
    assert again.files[0] == flat and set(sum(labels(again).values(), [])) == {3}


@pytest.mark.parametrize("dataset", ["voc", "other"])
@pytest.mark.parametrize("damage", ["emptied", "cut", "missing"])
@pytest.mark.parametrize("which", ["_instances.json", ".json"])
def test_side_files_never_need_deleting(tmp_path, dataset, which, damage):
    make_set(tmp_path, 3)
    cfg = config(tmp_path, f"--dataset={dataset}")
    path = prepare_records(cfg, False).files[0][:-1] + which
    size = os.path.getsize(path)
    if damage == "missing":
        os.remove(path)
    else:
        os.truncate(path, 0 if damage == "emptied" else size // 2)
    records = prepare_records(cfg, False)
    assert records.count == 3 and perfect_map(cfg, records) == pytest.approx(1.0)


@pytest.mark.parametrize("dataset", ["coco", "voc", "other"])
def test_records_or_everything_may_be_moved(tmp_path, dataset, caplog, log_lines):
    make_set(tmp_path / "a", 3)
    cfg = config(tmp_path / "a", f"--dataset={dataset}")
    prepare_records(cfg, False)
    os.rename(tmp_path / "a" / "ssd_mindrecord", tmp_path / "a" / "moved")
    cfg = config(tmp_path / "a", f"--dataset={dataset}", "--mindrecord_dir=moved")
    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "a" / "moved").iterdir()}
    records = prepare_records(cfg, False)
    assert perfect_map(cfg, records) == pytest.approx(1.0)
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
    del records
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    cfg = config(tmp_path / "b", f"--dataset={dataset}", "--mindrecord_dir=moved")
    assert any("converting" in line for line in log_lines())  # at the first conversion
    caplog.clear()
    assert perfect_map(cfg, prepare_records(cfg, False)) == pytest.approx(1.0)
    assert log_lines() and not [line for line in log_lines() if "converting" in line]


def make_foreign(cfg):
    """Make records as other programs write them: only the 16 files."""
    records = prepare_records(cfg, False)
    prefix = records.files[0][:-1]
    del records
    for name in os.listdir(os.path.dirname(prefix)):
        path = os.path.join(os.path.dirname(prefix), name)
        if path not in all_files(prefix):
            os.remove(path)
    return prefix


def test_published_records_of_a_list_file_are_not_used(tmp_path, caplog, log_lines):
    """Their x and y are swapped: the list file is converted, and the published files stay."""
    make_set(tmp_path, 3)
    cfg = config(tmp_path, "--dataset=other")
    prefix = make_foreign(cfg)
    files = contents(all_files(prefix))
    caplog.clear()
    records = prepare_records(cfg, False)
    assert any("x and y swapped" in line for line in log_lines())
    assert records.files[0] != prefix + "0" and perfect_map(cfg, records) == pytest.approx(1.0)
    assert contents(files) == files


def test_published_evaluation_records_lack_images(tmp_path, caplog, log_lines):
    """The published conversion skipped images with a crowd box: only the images in the records are evaluated."""
    content = make_set(tmp_path, 4)
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(dict(content, images=content["images"][:3], annotations=content["annotations"][:6])))
    cfg = config(tmp_path)
    make_foreign(cfg)
    path.write_text(json.dumps(content))
    records = prepare_records(cfg, False)
    caplog.clear()
    evaluator = build_evaluator(records, cfg)
    assert any("3 of the 4 images" in line for line in log_lines())
    assert len(evaluator.images()) == 3 and perfect_map(cfg, records) == pytest.approx(1.0)
    assert evaluator.summarize()["images"] == 3


def test_records_of_another_annotation_file_are_refused(tmp_path):
    content = make_set(tmp_path, 3)
    cfg = config(tmp_path)
    make_foreign(cfg)
    images = [dict(image, id=image["id"] + 100) for image in content["images"]]
    annotations = [dict(a, image_id=a["image_id"] + 100) for a in content["annotations"]]
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(dict(content, images=images, annotations=annotations)))
    with pytest.raises(UserError, match="3 of 3 images in the records are not in .*first id 0"):
        build_evaluator(prepare_records(cfg, False), cfg)


def test_a_given_voc_json_is_used(tmp_path, caplog, log_lines):
    make_set(tmp_path, 3)
    cfg = config(tmp_path, "--dataset=voc")
    records = prepare_records(cfg, False)
    written = tmp_path / "voc" / "voc.json"  # the copy below voc_root, as written by the published scripts
    assert records.annotation_file != str(written) and json.loads(written.read_text())["images"]
    with open(records.annotation_file) as handle:
        truth = json.load(handle)
    # a file of the user for the same images, with one box less
    truth.pop("info")
    truth["annotations"] = truth["annotations"][:-1]
    written.write_text(json.dumps(truth))
    records = prepare_records(cfg, False)
    assert records.annotation_file == str(written) and perfect_map(cfg, records) == pytest.approx(1.0)
    assert json.loads(written.read_text()) == truth
    # its ids are used instead of those of the conversion; image names may lack their extension
    images = [dict(row, id=f"x{row['id']}", file_name=os.path.splitext(row["file_name"])[0]) for row in truth["images"]]
    annotations = [dict(row, image_id=f"x{row['image_id']}") for row in truth["annotations"]]
    written.write_text(json.dumps(dict(truth, images=images, annotations=annotations)))
    records = prepare_records(cfg, False)
    assert records.annotation_file == str(written) and perfect_map(cfg, records) == pytest.approx(1.0)
    assert sorted(records.ids.values()) == sorted(row["id"] for row in images)
    # nested too deeply for Python's reader
    written.write_text("[" * 100000)
    assert prepare_records(cfg, False).annotation_file != str(written)
    # a file for other images is logged and not used
    written.write_text(json.dumps(dict(truth, images=truth["images"][:2])))
    caplog.clear()
    records = prepare_records(cfg, False)
    assert any("is not used: it lacks 1 of the 3 images" in line for line in log_lines())
    assert records.annotation_file != str(written) and perfect_map(cfg, records) == pytest.approx(1.0)


def test_notes_of_version_1_2_1_are_replaced(tmp_path):
    make_set(tmp_path, 3)
    cfg = config(tmp_path)
    prefix = prepare_records(cfg, False).files[0][:-1]
    with open(prefix + ".json", "w") as handle:
        json.dump({"sizes": [], "fingerprint": {}, "count": 3, "ids": None, "annotation_file": ""}, handle)
    for ending in (".origin.json", ".rows.npz"):
        open(prefix + ending, "w").close()
    records = prepare_records(cfg, False)
    assert records.files[0] == prefix + "0" and records.count == 3
    assert not os.path.exists(prefix + ".origin.json") and not os.path.exists(prefix + ".rows.npz")


def test_a_training_set_alone_can_be_converted(tmp_path):
    """It is logged in one line, with status 0; with run_eval it is an error before anything is converted."""
    make_set(tmp_path, 3)
    os.rename(tmp_path / "coco" / "val2017", tmp_path / "coco" / "train2017")
    annotations = tmp_path / "coco" / "annotations"
    os.rename(annotations / "instances_val2017.json", annotations / "instances_train2017.json")
    command = [sys.executable, os.path.join(ROOT, "train.py"), "--device_target=CPU", "--data_path=."]
    command += ["--coco_root=coco", "--feature_extractor_base_param=", "--output_path=output", "--num_classes=4"]
    command += ["--classes=['background', 'cat', 'dog', 'cow']"]
    run = subprocess.run([*command, "--run_eval=True"], cwd=tmp_path, capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 2 and "there is no evaluation set" in last and not (tmp_path / "ssd_mindrecord").exists()
    run = subprocess.run([*command, "--only_create_dataset=True"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "3 training images, no evaluation set (" in run.stdout and (tmp_path / "ssd_mindrecord").exists()
    # the annotations of both splits, as in COCO's archive, and the images of one
    shutil.copy(annotations / "instances_train2017.json", annotations / "instances_val2017.json")
    run = subprocess.run([*command, "--only_create_dataset=True"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and f"no evaluation set ({tmp_path}/coco/val2017)" in run.stdout, run.stderr


def test_an_evaluation_set_may_lie_outside_the_folder_that_its_split_names(tmp_path):
    make_set(tmp_path, 2)
    cfg = config(tmp_path)
    assert missing_evaluation_set(cfg) == ""
    annotations = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    os.rename(tmp_path / "coco" / "val2017", tmp_path / "pictures")
    assert missing_evaluation_set(cfg) == str(tmp_path / "coco" / "val2017")
    content = json.loads(annotations.read_text())
    for row in content["images"]:
        row["file_name"] = str(tmp_path / "pictures" / row["file_name"])
    annotations.write_text(json.dumps(content))
    assert missing_evaluation_set(cfg) == "" and prepare_records(cfg, False).count == 2
