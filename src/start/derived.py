"""The derived annotations of a start: COCO files for train and val that point at the original pictures."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Dict, List, Sequence

from src.data.sample import Sample
from src.start.pictures import Pictures
from src.utils.output import write_json
from src.utils.text import escape_surrogates


def fingerprint(sources: Sequence[str]) -> str:
    """Of annotation files: their paths, sizes and times."""
    rows = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in sources]
    return hashlib.sha256(json.dumps(rows).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def write_part(target: str, name: str, samples: Sequence[Sample], data: Pictures, folder: str) -> None:
    """Write `target/instances_{name}.json`, and `target/{name}`, a link to the folder of the set.

    Paths are relative to that folder; where links cannot be made, and for pictures elsewhere, they are absolute.
    """
    os.makedirs(target, exist_ok=True)
    linked = _link(os.path.join(target, name), folder)
    images, annotations = [], []
    ids = _ids(samples)
    for sample, image_id in zip(samples, ids):
        inside = sample.path.startswith(folder.rstrip(os.sep) + os.sep)
        path = os.path.relpath(sample.path, folder) if linked and inside else sample.path
        image = {"id": image_id, "file_name": escape_surrogates(path), "height": sample.height, "width": sample.width}
        images.append(image)
        for row in data.rows.get(sample.path, []) if data.rows else _rows(sample):
            annotations.append(dict(row, id=len(annotations) + 1, image_id=image_id))
    categories = [{"id": label, "name": class_name} for label, class_name in enumerate(data.classes) if label > 0]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(os.path.join(target, f"instances_{name}.json"), content)


def _link(path: str, folder: str) -> bool:
    """Make a link to a folder; a plain empty folder where that is not possible."""
    if os.path.islink(path) and os.readlink(path) == folder:
        return True
    try:
        if os.path.islink(path):
            os.remove(path)
        os.symlink(folder, path, target_is_directory=True)
        return True
    except (OSError, NotImplementedError):
        os.makedirs(path, exist_ok=True)
        return False


def _ids(samples: Sequence[Sample]) -> List[object]:
    ids = [sample.image_id for sample in samples]
    return ids if len(set(ids)) == len(ids) else list(range(1, len(ids) + 1))


def _rows(sample: Sample) -> List[Dict[str, object]]:
    rows = []
    difficult = [False] * len(sample.boxes) if sample.difficult is None else sample.difficult.tolist()
    for (y1, x1, y2, x2, label), hard in zip(sample.boxes.tolist(), difficult):
        box = {"category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        rows.append(dict(box, iscrowd=int(hard)))
    return rows
