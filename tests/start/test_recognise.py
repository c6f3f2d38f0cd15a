"""Recognition of the formats, and what is read and written of them."""

import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest

from src.start.derived import write_part
from src.start.pictures import read_pictures
from src.start.recognise import recognise, split_of
from tests.helpers.lines import line_of
from tests.helpers.tool_formats import FORMATS

CLASSES = ["stop sign", "sports ball", "kite"]
SORTED = ["kite", "sports ball", "stop sign"]
IN_ORDER = ("coco", "yolo")


def table(samples):
    """{name of an image: sorted boxes without labels}."""
    return {os.path.basename(sample.path): sorted(sample.boxes[:, :4].tolist()) for sample in samples}


@pytest.mark.parametrize("dataset", FORMATS)
def test_each_format_is_recognised_and_read(sets, dataset):
    folder = str(sets[1] / dataset)
    found = recognise(folder)
    assert found.dataset == dataset and re.search(r": .*\.\w+ (has|is) ", found.line)
    data, want = read_pictures(found, folder), read_pictures(recognise(str(sets[1] / "coco")), str(sets[1] / "coco"))
    assert {name: table(part) for name, part in data.parts.items()} == {
        name: table(part) for name, part in want.parts.items()
    }
    names = CLASSES if dataset in IN_ORDER else [f"class {n}" for n in (1, 2, 3)] if dataset == "other" else SORTED
    assert data.classes == ["background", *names] and data.absent == []


def test_class_names_of_a_list_are_next_to_it(sets, tmp_path):
    folder = shutil.copytree(sets[1] / "other", tmp_path / "set")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    assert read_pictures(recognise(str(folder)), str(folder)).classes == ["background", *CLASSES]


@pytest.mark.parametrize("dataset", ["coco", "voc", "other", "labelme", "cvat", "label_studio"])
def test_one_file_or_folder_without_a_split(sets, tmp_path, dataset):
    """What lies in one folder and names no split is one part, wherever the pictures are."""
    source, folder = sets[1] / dataset, tmp_path / "photos"
    if dataset == "coco":
        shutil.copytree(source / "train2017", folder / "pictures")
        shutil.copy(source / "annotations" / "instances_train2017.json", folder / "labels.json")
    elif dataset == "voc":  # VOC's original layout
        shutil.copytree(source / "train" / "Images", folder / "JPEGImages")
        shutil.copytree(source / "train" / "Annotations", folder / "Annotations")
    elif dataset in ("labelme", "cvat"):
        shutil.copytree(source / "train", folder)
    else:
        shutil.copytree(source / "train2017", folder / "train2017")
        shutil.copy(source / ("list_train.txt" if dataset == "other" else "train.json"), folder / "labels.x")
        os.rename(folder / "labels.x", folder / ("labels.txt" if dataset == "other" else "labels.json"))
    found = recognise(str(folder))
    assert (found.dataset, [part.name for part in found.parts]) == (dataset, [""])
    data = read_pictures(found, str(folder))
    assert list(data.parts) == [""] and len(data.samples) == 12


def test_words_of_a_path_name_the_split():
    assert [split_of(path) for path in ("train/a.xml", "instances_val2017.json", "valid/x", "a/b.json")] == [
        "train",
        "val",
        "val",
        "",
    ]
    assert split_of("training.json") == "train" and split_of("trained.json") == "" and split_of("test-1.xml") == "test"


def test_folders_that_are_not_one_set(sets, tmp_path):
    line_of(lambda: recognise(str(sets[0])), "several formats", "coco (", "yolo (yolo/data.yaml)", "--dataset")
    assert recognise(str(sets[0]), "yolo").dataset == "yolo"
    line_of(lambda: recognise(str(tmp_path)), "neither pictures nor annotations", "give the folder")
    line_of(lambda: recognise(str(tmp_path / "no")), "does not exist")
    cv2.imwrite(str(tmp_path / "1.jpg"), np.zeros((40, 40, 3), np.uint8))
    line_of(lambda: recognise(str(tmp_path)), "1 pictures but no annotations", "label the pictures")
    (tmp_path / "1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    line_of(lambda: recognise(str(tmp_path)), "1.txt", "no data.yaml", "names: [")
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text('{"images": [], "annotations": [], "categories": []}')
    line_of(lambda: recognise(str(tmp_path)), "2 annotation files", "one.json", "two.json", "keep one")


def test_derived_annotations(sets, tmp_path):
    """Pictures stay where they are; boxes are those of the set, of COCO as written."""
    folder = str(sets[1] / "coco")
    before = {path: os.stat(path).st_mtime_ns for path, _, _ in os.walk(folder)}
    data = read_pictures(recognise(folder), folder)
    write_part(str(tmp_path / "data"), "val", data.parts["val"], data, folder)
    content = json.loads((tmp_path / "data" / "instances_val.json").read_text())
    source = json.loads((sets[1] / "coco" / "annotations" / "instances_val2017.json").read_text())
    assert sorted(row["bbox"] for row in content["annotations"]) == sorted(row["bbox"] for row in source["annotations"])
    for image in content["images"]:
        path = tmp_path / "data" / "val" / image["file_name"]
        assert os.path.realpath(path).startswith(os.path.realpath(folder))
    assert before == {path: os.stat(path).st_mtime_ns for path, _, _ in os.walk(folder)}
