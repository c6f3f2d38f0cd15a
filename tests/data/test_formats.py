"""One drawn set in all seven formats gives the same samples, records, ground truth and metrics."""

import json
import os
import shutil

import numpy as np
import pytest

from scripts.draw_shapes import draw_split
from src.data.inspect.check import check_splits
from src.data.readers import READERS, read_dataset
from src.data.records import prepare_records
from src.evaluation.coco_evaluator import CocoEvaluator
from tests.helpers.records import rows_of
from tests.helpers.tool_formats import FORMATS, config, write_all


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A drawn set without crowd boxes, which the other formats cannot express; ids count from 0 in each split."""
    folder = tmp_path_factory.mktemp("formats")
    for split, count in (("train2017", 12), ("val2017", 6)):
        path = folder / "coco" / "annotations" / f"instances_{split}.json"
        draw_split(str(folder / "coco" / split), str(path), count, [5, len(split)], 160, 1)
        content = json.loads(path.read_text())
        new = {image["id"]: number for number, image in enumerate(content["images"])}
        for image in content["images"]:
            name = f"{new[image['id']]:06d}.jpg"
            os.rename(folder / "coco" / split / image["file_name"], folder / "coco" / split / name)
            image.update(id=new[image["id"]], file_name=name)
        for row in content["annotations"]:
            x, y, width, height = row["bbox"]
            row.update(image_id=new[row["image_id"]], iscrowd=0, area=width * height)
        path.write_text(json.dumps(content))
    write_all(folder)
    return folder


def test_all_formats_are_here():
    assert set(FORMATS) == set(READERS)


@pytest.mark.parametrize("dataset", FORMATS[1:])
@pytest.mark.parametrize("is_training", [True, False])
def test_samples(drawn, dataset, is_training):
    want, got = (read_dataset(config(drawn, name), is_training).samples for name in ("coco", dataset))
    assert len(want) == (12 if is_training else 6)
    for one, other in zip(want, got):
        assert (one.image_id, os.path.basename(one.path)) == (other.image_id, os.path.basename(other.path))
        assert np.array_equal(one.boxes, other.boxes) and one.boxes.dtype == other.boxes.dtype


@pytest.mark.parametrize("dataset", FORMATS)
def test_check_data_finds_nothing(drawn, dataset):
    for report in check_splits(config(drawn, dataset), ["train", "val"], decode=True):
        assert [fault["kind"] for fault in report["faults"]] == []


@pytest.fixture(scope="module")
def of_coco(drawn):
    return results(drawn, "coco")


def results(folder, dataset):
    """(training rows, evaluation rows, boxes of the ground truth, metrics of disturbed boxes) of a format."""
    cfg = config(folder, dataset)
    rows = [rows_of(prepare_records(cfg, is_training)) for is_training in (True, False)]
    path = prepare_records(cfg, False).annotation_file
    with open(path, encoding="utf-8") as handle:
        content = json.load(handle)
    names = {row["id"]: row["name"] for row in content["categories"]}
    truth = sorted((row["image_id"], names[row["category_id"]], row["bbox"]) for row in content["annotations"])
    evaluator, rng = CocoEvaluator(path, cfg.classes), np.random.default_rng(3)
    for image_id, (_, boxes) in sorted(rows[1].items()):
        boxes = np.array(boxes)
        moved = boxes[:, :4] + rng.normal(0, 3, (len(boxes), 4))
        evaluator.add(image_id, moved, rng.uniform(0.1, 1, len(boxes)), boxes[:, 4])
    return (*rows, truth, evaluator.summarize()["stats"])


@pytest.mark.parametrize("dataset", FORMATS[1:])
def test_records_and_metrics(drawn, of_coco, dataset):
    assert results(drawn, dataset) == of_coco
    assert 0.1 < of_coco[-1][0] < 1


@pytest.mark.parametrize("dataset, part", [("yolo", "images/train"), ("labelme", "train")])
def test_files_that_appear_or_change_make_records_outdated(drawn, tmp_path, dataset, part):
    shutil.copytree(drawn / dataset, tmp_path / dataset)
    cfg, folder = config(tmp_path, dataset), tmp_path / dataset / part
    written = prepare_records(cfg, True)
    assert written.count == 12
    del written
    labels = tmp_path / dataset / {"yolo": "labels/train", "labelme": "train"}[dataset]
    ending = {"yolo": ".txt", "labelme": ".json"}[dataset]
    shutil.copy(folder / "000003.jpg", folder / "000099.jpg")
    text = (labels / f"000003{ending}").read_text()
    (labels / f"000099{ending}").write_text(text.replace("000003.jpg", "000099.jpg"))
    assert prepare_records(cfg, True).count == 13
    (labels / f"000099{ending}").write_text("" if dataset == "yolo" else '{"shapes": [], "imagePath": "000099.jpg"}')
    assert prepare_records(cfg, True).count == 12  # without objects


def test_a_yolo_set_without_val(drawn, tmp_path):
    shutil.copytree(drawn / "yolo", tmp_path / "yolo")
    path = tmp_path / "yolo" / "data.yaml"
    whole = path.read_text()
    for text in (whole.replace("val: images/val\n", ""), whole.replace("images/val", "absent")):
        path.write_text(text)
        reports = check_splits(config(tmp_path, "yolo"), ["train", "val"], decode=False)
        (fault,) = reports[1]["faults"]
        assert "there is no evaluation set" in fault["kind"] and not fault["refused"]
        assert reports[0]["images"] == 12
