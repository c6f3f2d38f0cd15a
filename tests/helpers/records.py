"""A small COCO set, its records and their rows."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np

from src.config import load_config
from src.data.records.files import boxes_of_row

IDS = (3, 40, 500, 6000, 70000)


def write_coco_set(folder):
    """Write five images with a box each, for training and for evaluation."""
    for part in ("annotations", "train2017", "val2017"):
        os.makedirs(folder / "coco" / part)
    rng = np.random.default_rng(0)
    for split in ("train2017", "val2017"):
        images, annotations = [], []
        for k, image_id in enumerate(IDS):
            image = cv2.GaussianBlur(rng.integers(0, 255, (40 + k, 60, 3)).astype(np.uint8), (0, 0), 2)
            cv2.imwrite(str(folder / "coco" / split / f"{image_id}.jpg"), image)
            images.append({"id": image_id, "file_name": f"{image_id}.jpg", "height": 40 + k, "width": 60})
            annotations.append(
                {
                    "id": k + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [5, 6, 20 + k, 18],
                    "area": 9,
                    "iscrowd": 0,
                }
            )
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
        (folder / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def config(folder, *more):
    """The configuration for `write_coco_set`."""
    return load_config(
        [
            f"--data_path={folder}",
            "--coco_root=coco",
            "--mindrecord_dir=records",
            "--num_classes=2",
            "--classes=['background', 'person']",
            "--img_shape=[128, 128]",
            "--batch_size=2",
            "--device_target=CPU",
            *more,
        ]
    )


def rows_of(records):
    """{image id: (bytes of the image file, boxes)} of all records."""
    import mindspore.dataset as ds

    data = ds.MindDataset(records.files[0], ["img_id", "image", "annotation"], shuffle=False)
    return {
        int(img_id[0]): (image.tobytes(), boxes_of_row(annotation).tolist())
        for img_id, image, annotation in data.create_tuple_iterator(num_epochs=1, output_numpy=True)
    }


def instances(folder, split, change):
    """Change an annotation file in place."""
    path = folder / "coco" / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
