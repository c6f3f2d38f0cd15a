"""A drawn set in a folder for each format."""

import json
import shutil

import pytest

from scripts.draw_shapes import draw_split
from tests.helpers.tool_formats import write_all


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder for each format, with the same 12 + 6 drawn pictures."""
    folder, apart = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("sets")
    for split, count in (("train2017", 12), ("val2017", 6)):
        path = folder / "coco" / "annotations" / f"instances_{split}.json"
        draw_split(str(folder / "coco" / split), str(path), count, [5, len(split)], 160, 1)
        content = json.loads(path.read_text())
        for row in content["annotations"]:  # the other formats have no crowds
            row["iscrowd"] = 0
        path.write_text(json.dumps(content))
    write_all(folder)
    for name in ("coco", "voc", "yolo", "labelme", "cvat"):
        shutil.copytree(folder / name, apart / name)
    for name, files in (("other", ("list_train.txt", "list_val.txt")), ("label_studio", ("train.json", "val.json"))):
        shutil.copytree(folder / "coco", apart / name, ignore=shutil.ignore_patterns("annotations"))
        for file in files:
            shutil.copy(folder / file, apart / name)
    return folder, apart
