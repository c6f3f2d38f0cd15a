"""Each reader against hand-made tables."""

import json
import os

import pytest

from src.data.issues import Issues
from src.data.readers import READERS, read_dataset
from src.data.readers.coco import coco_json, load_coco_json
from src.data.records.prepare import check_images_exist
from src.utils.errors import UserError
from tests.helpers.annotations import coco, config, noted, table, thing, voc


def test_coco_rules(tmp_path):
    coco(
        tmp_path,
        [
            {"image_id": 5, "category_id": 7, "bbox": [10.5, 20.5, 30.2, 40.4]},  # round half to even: 10, 20; 41, 61
            {"image_id": 5, "category_id": 0, "bbox": [1, 2, 3, 4], "iscrowd": 1},  # a crowd is a training target
            {"image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4]},  # not listed
            {"image_id": 5, "category_id": 0, "bbox": [180, 90, 50, 50]},  # beyond the image: clipped at conversion
            {"image_id": 6, "category_id": 0, "bbox": [10.6, 10.4, 0.3, 20]},  # no width by rounding
            {"image_id": 6, "category_id": 0, "bbox": [10, 10, 0, 20]},
        ],
    )  # no width
    want = [(5, "5.jpg", [[20, 10, 61, 41, 2], [2, 1, 6, 4, 1], [90, 180, 140, 230, 1]])]
    assert table(read_dataset(config(tmp_path), True)) == want
    assert table(read_dataset(config(tmp_path), False)) == want + [(6, "6.jpg", [])]


@pytest.mark.parametrize(
    "annotation, words",
    [
        ({"image_id": 5, "category_id": 99, "bbox": [1, 2, 3, 4]}, ["annotation 1", "99", "instances_train2017.json"]),
        ({"image_id": 77, "category_id": 7, "bbox": [1, 2, 3, 4]}, ["annotation 1", "77"]),
        ({"image_id": 5, "category_id": 7, "bbox": [1, 2, 3]}, ["annotation 1", "bbox"]),
        ({"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, float("nan")]}, ["annotation 1", "bbox"]),
        ({"image_id": 5, "category_id": 7, "bbox": "1,2,3,4"}, ["annotation 1", "bbox"]),
    ],
)
def test_coco_that_cannot_be_repaired_is_one_line(tmp_path, annotation, words):
    coco(tmp_path, [annotation])
    with pytest.raises(UserError) as error:
        read_dataset(config(tmp_path), True)
    assert all(word in str(error.value) for word in words)


def test_coco_missing_things_are_named(tmp_path):
    with pytest.raises(UserError, match="coco_root.*no such folder"):
        read_dataset(config(tmp_path), True)
    os.makedirs(tmp_path / "coco")
    with pytest.raises(UserError, match="annotation file not found.*instances_train2017.json"):
        read_dataset(config(tmp_path), True)
    coco(tmp_path, [], categories=((1, "sofa"),))
    with pytest.raises(UserError, match="none of its categories"):
        read_dataset(config(tmp_path), True)


def test_voc_rules(tmp_path):
    size = "<size><width>200</width><height>100</height></size>"
    voc(tmp_path, "7.xml", "<filename>IMG_7</filename>" + size + thing("cat", 11, 21, 31, "45.70000076293945"), "7.JPG")
    voc(
        tmp_path,
        "b.xml",
        "<filename>sub/b.jpg</filename>" + size + thing("dog", 0, 0, 50, 60) + thing("sofa", 1, 1, 9, 9),
        "b.Jpeg",
    )
    want = [(7, "7.JPG", [[20, 10, 44, 30, 1]]), (0, "b.Jpeg", [[0, 0, 59, 49, 2]])]
    assert table(read_dataset(config(tmp_path, "--dataset=voc"), True)) == want


def test_voc_without_image_or_number_is_one_line(tmp_path):
    voc(tmp_path, "a.xml", thing("cat", 1, 2, 3, 4), None)
    with pytest.raises(UserError, match="1 annotation files have no image.*a.xml"):
        read_dataset(config(tmp_path, "--dataset=voc"), True)
    voc(tmp_path, "a.xml", thing("cat", 1, 2, "x", 4), "a.jpg")
    with pytest.raises(UserError, match="xmax"):
        read_dataset(config(tmp_path, "--dataset=voc"), True)
    voc(tmp_path, "a.xml", "<object>", "a.jpg")
    with pytest.raises(UserError, match="not valid XML"):
        read_dataset(config(tmp_path, "--dataset=voc"), True)


def test_list_rules(tmp_path):
    os.makedirs(tmp_path / "images")
    (tmp_path / "list.txt").write_bytes(
        b"\xef\xbb\xbfmy cats/a b.jpg 0,259,401,459,2\r\n\r\nc.jpg\t1,2,3,4,1  30,40,10,20,2\r\nempty.jpg\r\n"
    )
    want = [(0, "a b.jpg", [[259, 0, 459, 401, 2]]), (1, "c.jpg", [[2, 1, 4, 3, 1], [20, 10, 40, 30, 2]])]
    data = read_dataset(config(tmp_path, "--dataset=other"), True)
    assert table(data) == want and data.samples[0].path == str(tmp_path / "images" / "my cats" / "a b.jpg")
    assert table(read_dataset(config(tmp_path, "--dataset=other"), False)) == want + [(2, "empty.jpg", [])]


@pytest.mark.parametrize("line", ["a.jpg 1,2,3,4,3", "a.jpg 1,2,3,4,0", "a.jpg 1,2,x,4,1"])
def test_list_faults_name_the_line(tmp_path, line):
    os.makedirs(tmp_path / "images")
    (tmp_path / "list.txt").write_text(f"ok.jpg 1,2,3,4,1\n{line}\n")
    with pytest.raises(UserError, match="line 2"):
        read_dataset(config(tmp_path, "--dataset=other"), True)


def coco_with(folder, change):
    coco(
        folder,
        [
            {"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4]},
            {"image_id": 6, "category_id": 0, "bbox": [5, 6, 7, 8]},
        ],
    )
    path = folder / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return READERS["coco"](config(folder), True)


def test_rows_with_one_id_are_named(tmp_path):
    data = coco_with(tmp_path, lambda c: c["images"].append({"id": 5, "file_name": "other.jpg"}))
    assert noted(data)[1]["image ids are given to two different rows"] == (1, ["5 (5.jpg and other.jpg)"])


def test_ids_of_another_type_are_matched_and_reported(tmp_path):
    def change(content):
        content["annotations"][0].update(image_id="5", category_id=7.0)
        content["annotations"][1].update(image_id=6.0)
        content["images"][1].update(id=6.0, width="60", height=50.0)

    data = coco_with(tmp_path, change)
    assert [(s.image_id, s.boxes.tolist()) for s in data.samples] == [(5, [[2, 1, 6, 4, 2]]), (6, [[6, 5, 14, 12, 1]])]
    repaired, refused = noted(data)
    assert not refused and type(data.samples[1].image_id) is int
    number, places = repaired[
        "annotations whose image_id differs in type from the id that it refers to (matched by value)"
    ]
    assert number == 2 and places[0] == "annotation 1: '5' is a string, the id 5 a number"
    number, places = repaired["image sizes are not positive integers (the image file's size is used)"]
    assert (number, places) == (1, ["image 6: width '60' is a string"]) and data.samples[1].height == 50


@pytest.mark.parametrize("value", ["005", " x", "5.0", "77"])
def test_ids_that_are_texts_and_mean_nothing_are_reported_as_texts(tmp_path, value):
    data = coco_with(tmp_path, lambda c: c["annotations"][0].update(image_id=value))
    places = noted(data)[1]["annotations whose image_id the file does not list"][1]
    assert places == [f"annotation 1: {value!r} (a string, the file's ids are numbers)"]


def test_a_text_is_not_matched_where_it_is_an_id_itself(tmp_path):
    def change(content):
        content["images"].append({"id": "5", "file_name": "text.jpg"})
        content["annotations"][0].update(image_id="5")

    data = coco_with(tmp_path, change)
    assert [(s.image_id, len(s.boxes)) for s in data.samples] == [(5, 0), (6, 1), ("5", 1)]


def test_boxes_of_texts_are_reported(tmp_path):
    data = coco_with(tmp_path, lambda c: c["annotations"][0].update(bbox=["1", "2", "3", "4"]))
    ((_, places),) = noted(data)[1].values()
    assert places == ["annotation 1: ['1', '2', '3', '4'] (a string in place of numbers)"]


@pytest.mark.parametrize(
    "old, new",
    [('"annotations": [', '"annotations": [], "annotations": ['), ('"bbox": [1,', '"bbox": [9, 9, 9, 9], "bbox": [1,')],
)
def test_keys_given_twice_are_refused(tmp_path, old, new):
    coco_with(tmp_path, lambda c: None)
    path = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=r"1 keys are given twice.*'(annotations|bbox)'"):
        read_dataset(config(tmp_path), True)


def test_json_in_other_encodings(tmp_path):
    coco_with(tmp_path, lambda c: None)
    path = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    want, text = table(read_dataset(config(tmp_path), True)), path.read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes(text.replace(", ", ",\r\n").encode(encoding))
        assert table(read_dataset(config(tmp_path), True)) == want
    path.write_bytes(b" \n")
    with pytest.raises(UserError, match="not valid JSON: the file is empty"):
        read_dataset(config(tmp_path), True)


@pytest.mark.parametrize(
    "given, there, path, name, kind",
    [
        ("sub/a.jpg", "sub/a.jpg", "sub/a.jpg", "sub/a.jpg", ""),
        ("./sub//a.jpg", "sub/a.jpg", "sub/a.jpg", "sub/a.jpg", ""),
        ("sub\\a.jpg", "sub/a.jpg", "sub/a.jpg", "sub/a.jpg", "a correction of their path (backslashes)"),
        ("images/a.jpg", "a.jpg", "a.jpg", "a.jpg", "the folder's name, images/"),
        ("images\\a.jpg", "a.jpg", "a.jpg", "a.jpg", "the folder's name, images/"),
        ("images/a.jpg", "images/a.jpg", "images/a.jpg", "images/a.jpg", ""),
        ("a%20b.jpg", "a b.jpg", "a b.jpg", "a b.jpg", "percent-encoded"),
        ("a%20b.jpg", "a%20b.jpg", "a%20b.jpg", "a%20b.jpg", ""),
        ("../x.jpg", "../x.jpg", "../x.jpg", "ROOT/x.jpg", "images lie outside"),
        ("ROOT/x.jpg", "../x.jpg", "../x.jpg", "ROOT/x.jpg", "images lie outside"),
        ("ROOT/images/a.jpg", "a.jpg", "a.jpg", "a.jpg", ""),
    ],
)
def test_paths(tmp_path, given, there, path, name, kind):
    images = tmp_path / "images"
    os.makedirs((images / there).resolve().parent, exist_ok=True)
    images.mkdir(exist_ok=True)
    (images / there).write_bytes(b"x")
    given, name = given.replace("ROOT", str(tmp_path)), name.replace("ROOT", str(tmp_path))
    (tmp_path / "list.txt").write_text(f"{given} 1,2,3,4,1\n")
    (tmp_path / "coco").mkdir()
    os.symlink(images, tmp_path / "coco" / "images")
    data = read_dataset(config(tmp_path, "--dataset=other"), False)
    assert data.samples[0].path == os.path.normpath(str(images / path)) and data.samples[0].file_name == name
    kinds = [kind for kind in noted(data)[0] if "no box" not in kind]
    assert len(kinds) == bool(kind) and all(kind in noted_kind for noted_kind in kinds)


def test_equal_names_in_two_folders_stay_apart(tmp_path):
    os.makedirs(tmp_path / "images")
    (tmp_path / "list.txt").write_text("a/1.jpg 1,2,3,4,1\nb/1.jpg 1,2,3,4,2\n")
    cfg = config(tmp_path, "--dataset=other")
    content = coco_json(read_dataset(cfg, False), [0, 1], None, {0: (9, 9), 1: (9, 9)}, list(cfg.classes))
    assert [image["file_name"] for image in content["images"]] == ["a/1.jpg", "b/1.jpg"]
    (tmp_path / "list.txt").write_text("a/1.jpg 1,2,3,4,1\n./a/1.jpg 1,2,3,4,2\n")
    with pytest.raises(UserError, match="images are listed twice: line 2: a/1.jpg .also in line 1"):
        read_dataset(cfg, False)


def test_list_of_windows(tmp_path):
    os.makedirs(tmp_path / "images")
    (tmp_path / "list.txt").write_bytes("caf\u00e9.jpg 1,2,3,4,1\r\nb.jpg 1,2,3,4,2\r\n".encode("utf-16"))
    assert [name for _, name, _ in table(read_dataset(config(tmp_path, "--dataset=other"), True))] == [
        "caf\u00e9.jpg",
        "b.jpg",
    ]


def test_list_of_widths_and_heights_is_reported(tmp_path):
    os.makedirs(tmp_path / "images")
    (tmp_path / "list.txt").write_text("a.jpg 50,60,20,30,1 70,80,10,10,2\nb.jpg 5,6,20,30,1 70,8,10,10,2\n")
    kinds = noted(READERS["other"](config(tmp_path, "--dataset=other"), True))[0]
    assert any(
        "file has reversed corners in 3 of 4 boxes: they look like x, y, width, height" in kind for kind in kinds
    )


def test_images_without_a_box_are_counted(tmp_path, caplog, log_lines):
    coco(tmp_path, [{"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4]}], images=((5, 9, 9), (6, 9, 9), (8, 9, 9)))
    os.makedirs(tmp_path / "images")
    (tmp_path / "list.txt").write_text("a.jpg 1,2,3,4,1\nb.jpg\nc.jpg\n")
    voc(tmp_path, "a.xml", thing("cat", 1, 2, 3, 4), "a.jpg")
    voc(tmp_path, "b.xml", "", "b.jpg")
    voc(tmp_path, "c.xml", thing("sofa", 1, 2, 3, 4), "c.jpg")
    for dataset in ("coco", "other", "voc"):
        caplog.clear()
        assert len(read_dataset(config(tmp_path, f"--dataset={dataset}"), True).samples) == 1
        (line,) = [line for line in log_lines() if "left out of training" in line]
        assert "2 of 3 images have no box of the listed classes and are left out" in line


def test_iscrowd_of_another_type_counts_by_value(tmp_path):
    def change(content):
        content["annotations"][0].update(iscrowd=True)
        content["annotations"][1].update(iscrowd="1")
        content["annotations"] += [dict(content["annotations"][0], id=3, iscrowd=None, area="9")]

    repaired, refused = noted(coco_with(tmp_path, change))
    assert not refused
    kind = "annotations have an iscrowd of another type (matched by value)"
    assert repaired[kind] == (2, ["annotation 1: True", "annotation 2: '1'"])
    assert repaired["annotations without 'iscrowd' (taken as 0)"] == (1, ["3"])
    assert repaired["annotations without a usable 'area' (taken from the box)"] == (1, ["3"])
    content = load_coco_json(str(tmp_path / "coco" / "annotations" / "instances_train2017.json"))
    assert [row["iscrowd"] for row in content["annotations"]] == [1, 1, 0]


@pytest.mark.parametrize("value", [2, -1, "yes", [1], 0.5])
def test_an_iscrowd_that_is_none_is_refused(tmp_path, value):
    refused = noted(coco_with(tmp_path, lambda c: c["annotations"][0].update(iscrowd=value)))[1]
    assert refused == {"annotations have an iscrowd that is neither 0 nor 1": (1, [f"annotation 1: {value!r}"])}


def test_one_faulty_row_is_one_fault(tmp_path):
    refused = noted(coco_with(tmp_path, lambda c: c["images"][0].update(file_name=5)))[1]
    assert refused == {"image rows without a usable 'file_name', ids": (1, ["5"])}


@pytest.mark.parametrize("rest", ["1, 1, 8, 8, 1", "1;1;8;8;1", "1 1 8 8 1"])
def test_boxes_of_a_list_that_are_not_recognised_are_no_loss(tmp_path, rest):
    """Such a line is a path without boxes. Training skips images without boxes, but missing images are an error."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(b"x")
    (tmp_path / "list.txt").write_text(f"a.png 1,1,8,8,1\nb.png {rest}\n")
    cfg = config(tmp_path, "--dataset=other", "--image_dir=images", "--anno_path=list.txt")
    with pytest.raises(
        UserError, match=r"1 of 2 images are missing: .*b.png.* \(the folder has b.png; the rest of the"
    ):
        check_images_exist(read_dataset(cfg, True))


def test_places_are_one_line():
    issues = Issues()
    issues.warn("names", "a\nb\u2028c\u00a0d ü中 e")
    assert issues.all()[0].places == ["a\\nb\\u2028c\\xa0d ü中 e"]
