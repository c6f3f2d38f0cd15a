"""CVAT and Label Studio against hand-made files: what is read, repaired, left out, refused."""

import json

import pytest

from src.data.readers.find_images import path_of_reference
from src.data.readers.shapes import rotated
from tests.helpers.annotations import noted, table
from tests.helpers.tool_files import picture, read, refused

# CVAT


def cvat(folder, body, head='<?xml version="1.0" encoding="utf-8"?>\n', encoding="utf-8"):
    text = f"{head}<annotations>\n<version>1.1</version>\n{body}\n</annotations>"
    (folder / "annotations.xml").write_bytes(text.encode(encoding))


def image(name, *shapes, number=0, more=""):
    inside = "\n".join(shapes)
    return f'<image id="{number}" name="{name}" width="200" height="100" {more}>\n{inside}\n</image>'


def box(label, xtl, ytl, xbr, ybr, more=""):
    return (
        f'<box label="{label}" occluded="0" xtl="{xtl}" ytl="{ytl}" xbr="{xbr}" ybr="{ybr}" z_order="0" {more}></box>'
    )


def test_cvat_rules(tmp_path):
    for name in ("a.jpg", "day/b.jpg"):
        picture(tmp_path / "images" / name)
    first = image(
        "a.jpg",
        box("cat", "10.40", "20.60", "30.50", "40.50"),
        '<polygon label="dog" occluded="1" points="1.00,2.00;11.00,2.00;6.00,22.60"><attribute/></polygon>',
        '<polyline label="dog" points="1,2;3,4"/>',
        box("sofa", 1, 1, 2, 2),
        box("dog", 50, 20, 90, 40, 'rotation="90.0"'),  # around its centre
        '<skeleton label="dog"><points label="x" points="1,2"/></skeleton>',
        number=4,
    )
    cvat(tmp_path, first + image("day/b.jpg", box("dog", 180, 90, 250, 130), number=2))
    data = read(tmp_path, "cvat")
    want = [
        (4, "a.jpg", [[21, 10, 40, 30, 1], [2, 1, 23, 11, 2], [10, 60, 50, 80, 2]]),
        (2, "b.jpg", [[90, 180, 130, 250, 2]]),
    ]
    assert table(data) == want and (data.samples[0].width, data.samples[1].file_name) == (200, "day/b.jpg")
    warnings, errors = noted(data)
    assert not errors
    assert warnings["shapes are neither boxes nor polygons (left out)"][1] == [
        "polyline in line 7",
        "skeleton in line 10",
    ]
    assert warnings["boxes are rotated (the upright box around them is used)"][0] == 1
    assert warnings["objects of a class that 'classes' does not list (dropped)"] == (1, ["sofa in line 8"])


def test_cvat_subsets(tmp_path):
    parts = {"a": "Train", "b": "Validation", "c": "Train"}
    for name, subset in parts.items():
        picture(tmp_path / "images" / subset / f"{name}.jpg")
    rows = (
        image(f"{name}.jpg", box("cat", 1, 1, 9, 9), number=number, more=f'subset="{subset}"')
        for number, (name, subset) in enumerate(parts.items())
    )
    cvat(tmp_path, "".join(rows))
    assert [row[:2] for row in table(read(tmp_path, "cvat"))] == [(0, "a.jpg"), (2, "c.jpg")]
    assert [row[:2] for row in table(read(tmp_path, "cvat", is_training=False))] == [(1, "b.jpg")]
    assert not noted(read(tmp_path, "cvat"))[1]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "gb2312", "utf-8-sig"])
def test_cvat_encodings(tmp_path, encoding):
    picture(tmp_path / "a.jpg")
    declared = encoding.replace("-sig", "")
    head = f'<?xml version="1.0" encoding="{declared}"?>\r\n'
    cvat(tmp_path, image("a.jpg", box("cat", 1, 1, 9, 9)), head, encoding)
    assert table(read(tmp_path, "cvat"))[0][2] == [[1, 1, 9, 9, 1]]


@pytest.mark.parametrize(
    "body, words",
    [
        ("<image", ["annotations.xml: not valid XML", "line"]),
        ("", ["no <image>"]),
        ('<track id="0" label="cat"></track>', ["line 4", "CVAT for video"]),
        (image("a.jpg", box("cat", "nan", 1, 9, 9)), ["line 5", "xtl=nan"]),
        (image("a.jpg", box("cat", 1, 1, "inf", 9)), ["line 5", "xbr=inf"]),
        (image("a.jpg", '<box label="cat" xtl="1" ytl="2" xbr="3"/>'), ["line 5", "ybr=None"]),
        (image("a.jpg", '<polygon label="cat" points="1,2;3,4;x,6"/>'), ["line 5", "x,6"]),
        (image("a.jpg", '<polygon label="cat"/>'), ["line 5"]),
        (image("", box("cat", 1, 1, 9, 9)), ["line 4", "no name"]),
        (image("a.jpg") + image("a.jpg", number=1), ["listed twice", "a.jpg", "line 4"]),
        (image("a.jpg", box("", 1, 1, 9, 9)), ["line 5", "no class name"]),
        (image("none.jpg", box("cat", 1, 1, 9, 9)), ["images are missing", "none.jpg"]),
    ],
)
def test_cvat_files_that_are_refused(tmp_path, body, words):
    picture(tmp_path / "a.jpg")
    cvat(tmp_path, body)
    refused(tmp_path, "cvat", *words)


def test_cvat_other_files(tmp_path):
    refused(tmp_path, "cvat", "anno_path: no such file or folder", "CVAT for images")
    (tmp_path / "annotations.xml").write_text("<annotation><object/></annotation>")
    refused(tmp_path, "cvat", "line 1", "not a CVAT file", "<annotation>")
    (tmp_path / "annotations.xml").write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotations/>')
    refused(tmp_path, "cvat", "entities")
    (tmp_path / "annotations.xml").write_bytes(b"<annotations>\xff</annotations>")
    refused(tmp_path, "cvat", "not valid XML")


# Label Studio


def task(number, reference, *results, **more):
    annotation = {"id": 1, "result": list(results), "was_cancelled": False, "updated_at": "2024-01-02"}
    return {"id": number, "data": {"image": reference}, "annotations": [annotation], "predictions": [], **more}


def rectangle(label, x, y, width, height, rotation=0, **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, "rectanglelabels": [label]}
    return {"type": "rectanglelabels", "original_width": 200, "original_height": 100, "value": value, **more}


def studio(folder, *tasks):
    (folder / "tasks.json").write_text(json.dumps(list(tasks)))


def test_label_studio_rules(tmp_path):
    for name in ("a.jpg", "day/b.jpg", "night/b.jpg", "d.png", "e f.jpg"):
        picture(tmp_path / "photos" / name)
    plain = {"type": "rectangle", "id": "r", "original_width": 200, "original_height": 100}
    plain["value"] = {"x": 10, "y": 10, "width": 20, "height": 20}
    named = {"type": "labels", "id": "r", "value": {"labels": ["cat"]}}
    points = {"points": [[5, 10], [10, 10], [7, 30.5]], "polygonlabels": ["dog"]}
    older = {"result": [rectangle("cat", 0, 0, 1, 1)], "updated_at": "2024-01-01"}
    newer = {"result": [rectangle("dog", 50, 50, 10, 10)], "updated_at": "2024-01-03"}
    studio(
        tmp_path,
        task(11, "/data/upload/3/0123abcd-a.jpg", plain, named, {"type": "choices", "value": {"choices": ["x"]}}),
        task(5, "s3://bucket/sets/night/b.jpg", dict(rectangle("cat", 0, 0, 1, 1), type="polygonlabels", value=points)),
        task(6, "https://host/x/day/b.jpg?X-Amz=1", rectangle("cat", 25, 50, 10, 40, 90)),
        dict(task(7, "/data/local-files/?d=photos/d.png"), annotations=[older, newer]),
        task(8, "/data/local-files/?d=photos%2Fe%20f.jpg", rectangle("sofa", 1, 1, 2, 2), {"type": "brushlabels"}),
        dict(task(9, "x.jpg"), annotations=[{"result": [], "was_cancelled": True}]),
        dict(task(10, "y.jpg"), annotations=[], predictions=[{"result": [rectangle("cat", 1, 1, 9, 9)]}]),
    )
    data = read(tmp_path, "label_studio", "--image_dir=photos")
    want = [
        (11, "a.jpg", [[10, 20, 30, 60, 1]]),
        (5, "b.jpg", [[10, 10, 30, 20, 2]]),  # 30.5: half to even
        (6, "b.jpg", [[50, 10, 70, 50, 1]]),  # 20 x 40 at (50, 50), turned around that corner
        (7, "d.png", [[50, 100, 60, 120, 2]]),
    ]
    assert table(data) == want
    assert [sample.file_name for sample in data.samples[1:3]] == ["night/b.jpg", "day/b.jpg"]
    assert [sample.image_id for sample in data.left_out] == [8]
    warnings, errors = noted(data)
    assert not errors and warnings["tasks are skipped or not labelled (left out)"] == (2, ["task 9", "task 10"])
    assert warnings["tasks have several annotations (the ground truth or else the newest is used)"] == (1, ["task 7"])
    assert warnings["results are neither rectangles nor polygons (left out)"] == (1, ["brushlabels in task 8"])


def test_label_studio_size_of_the_file(tmp_path):
    picture(tmp_path / "a.jpg", 50, 60)
    studio(tmp_path, task(1, "a.jpg", rectangle("cat", 50, 50, 50, 50, original_width=None)))
    assert table(read(tmp_path, "label_studio")) == [(1, "a.jpg", [[25, 30, 50, 60, 1]])]
    (tmp_path / "a.jpg").write_bytes(b"<html>")
    refused(tmp_path, "label_studio", "task 1", "original_width", "cannot be read")


@pytest.mark.parametrize(
    "content, words",
    [
        ('[\n{"id": 1,\n}]', ["tasks.json", "not valid JSON", "line 3"]),
        ("{}", ["tasks.json", "list of tasks"]),
        ('[{"id": 1, "image": "a.jpg", "label": []}]', ["JSON-MIN"]),
        ('[{"id": 1, "data": {"text": "x"}, "annotations": [{"result": []}]}]', ["task 1", "no image in 'data'"]),
        ('[{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": 5}]}]', ["task 1", "no list 'result'"]),
        ('[{"id": 1, "data": {"image": "a.jpg"}, "annotations": 5}]', ["task 1", "'annotations'"]),
    ],
)
def test_label_studio_files_that_are_refused(tmp_path, content, words):
    picture(tmp_path / "a.jpg")
    (tmp_path / "tasks.json").write_text(content)
    refused(tmp_path, "label_studio", *words)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (rectangle("cat", float("nan"), 1, 2, 3), ["task 3", "finite"]),
        (rectangle("cat", 1, 1, float("inf"), 3), ["task 3", "finite"]),
        (rectangle("cat", 1, 1, None, 3), ["task 3", "finite"]),
        (rectangle("cat", 10, 10, -2, 3), ["task 3", "width"]),
        (rectangle("cat", 90, 1, 150, 3), ["task 3", "percent", "150"]),
        (rectangle("", 1, 1, 2, 3), ["task 3", "no class name"]),
        ({"type": "polygonlabels", "original_width": 9, "original_height": 9,
          "value": {"points": [[1, 2]], "polygonlabels": ["cat"]}}, ["task 3", "points"]),
    ],
)  # fmt: skip
def test_label_studio_results_that_are_refused(tmp_path, wrong, words):
    picture(tmp_path / "a.jpg")
    studio(tmp_path, task(3, "a.jpg", wrong))
    refused(tmp_path, "label_studio", *words)


def test_label_studio_images(tmp_path):
    studio(tmp_path, task(3, "/data/upload/1/none.jpg", rectangle("cat", 1, 1, 9, 9)))
    refused(tmp_path, "label_studio", "images are missing", "none.jpg")
    for folder in "xy":
        picture(tmp_path / folder / "none.jpg")
    refused(tmp_path, "label_studio", "name that several files have", "x/none.jpg")
    refused(tmp_path, "label_studio", "image_dir: no such folder", more=["--image_dir=absent"])
    studio(*[tmp_path, *(task(k, "s3://b/x/none.jpg", rectangle("cat", 1, 1, 9, 9)) for k in (3, 4))])
    refused(tmp_path, "label_studio", "two tasks", "task 3, task 4")


def test_paths_of_references():
    for reference, path in (
        ("C:\\a\\b.jpg", "C:/a/b.jpg"),
        ("/data/local-files/?d=a%20b/c.jpg&x=1", "a b/c.jpg"),
        ("s3://bucket/a%20b.jpg", "bucket/a%20b.jpg"),
        ("https://host/a%20b.jpg?sign=1", "host/a b.jpg"),
    ):
        assert path_of_reference(reference) == path


def test_rotation_is_clockwise_around_the_given_point():
    xs, ys = rotated(10, 20, 4, 2, 90, (10, 20))
    assert [round(value, 9) for value in (*xs, *ys)] == [10, 10, 8, 8, 20, 24, 24, 20]
