"""A set of a few images in all three formats."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np

from src.config import load_config
from tests.helpers.annotations import thing


def make_set(folder, count, categories=((0, "cat"), (7, "dog"), (1000, "cow")), boxes=True):
    """Write `count` images with two boxes each, ids from 0 with gaps, in all three formats."""
    rng = np.random.default_rng(5)
    for part in ("coco/annotations", "coco/val2017", "voc/eval/Images", "voc/eval/Annotations"):
        os.makedirs(folder / part)
    content = {"images": [], "annotations": [], "categories": [{"id": c, "name": n} for c, n in reversed(categories)]}
    lines = []
    for number in range(count):
        height, width = 90 + 10 * number, 120
        image = cv2.GaussianBlur(rng.integers(0, 255, (height, width, 3)).astype(np.uint8), (0, 0), 3)
        name, image_id, xml = f"{3 * number}.png", 3 * number, ""
        cv2.imwrite(str(folder / "coco" / "val2017" / name), image)
        cv2.imwrite(str(folder / "voc" / "eval" / "Images" / name), image)
        content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        lines.append(name)
        for k in range(2 * boxes):
            label = (number + k) % 3
            x, y, w, h = 10 + 30 * k, 15, 40 + 5 * number, 50
            content["annotations"].append(
                {"id": 2 * number + k, "image_id": image_id, "category_id": categories[label][0], "bbox": [x, y, w, h]}
            )
            xml += thing(categories[label][1], x + 1, y + 1, x + w + 1, y + h + 1)
            lines[-1] += f" {x},{y},{x + w},{y + h},{label + 1}"
        (folder / "voc" / "eval" / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{xml}</annotation>")
    (folder / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (folder / "list.txt").write_text("\n".join(lines))
    return content


def config(folder, *more):
    """The configuration for `make_set`."""
    return load_config(
        [
            f"--data_path={folder}",
            "--coco_root=coco",
            "--voc_root=voc",
            "--voc_json=voc.json",
            "--anno_path=list.txt",
            "--image_dir=coco/val2017",
            "--num_classes=4",
            "--classes=['background', 'cat', 'dog', 'cow']",
            "--img_shape=[128, 128]",
            "--device_target=CPU",
            *more,
        ]
    )
