"""src/inference/results.py: detections.json against json.dumps of plain rows."""

import json

import numpy as np

from src.inference.results import CocoResults

CLASSES = ["background", "cat", '椅子 "x"']


def detections(count, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 300, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(1, 99, (count, 2))])
    return boxes, np.sort(rng.integers(1, 3, count)), rng.uniform(0.1, 1, count).astype(np.float32)


def expected(pictures):
    """The content for [(name, shape, (boxes, labels, scores), more)]."""
    images, rows = [], []
    for number, (name, shape, (boxes, labels, scores), more) in enumerate(pictures, 1):
        images.append({"id": number, "file_name": name, "height": shape[0], "width": shape[1], **more})
        for (y1, x1, y2, x2), label, score in zip(boxes.tolist(), labels.tolist(), scores.tolist()):
            row = {"id": len(rows) + 1, "image_id": number, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            rows.append({**row, "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "score": score})
    categories = [{"id": 1, "name": CLASSES[1]}, {"id": 2, "name": CLASSES[2]}]
    return {"images": images, "categories": categories, "annotations": rows}


def test_the_file_is_what_json_writes(tmp_path):
    pictures = [(f"bild {k} ü.jpg", (300, 400 + k), detections(k % 7, k), {}) for k in range(300)]
    pictures.append(("clip.mp4", (20, 30), detections(3, 1), {"frame": 0}))
    found = CocoResults(CLASSES, 100)
    for name, shape, rows, more in pictures:
        found.add(name, shape, rows, **more)
    found.save(str(tmp_path / "x.json"))
    assert (tmp_path / "x.json").read_text() == json.dumps(expected(pictures))
    assert found.reduced == 0
    labels = np.concatenate([rows[1] for _, _, rows, _ in pictures])
    assert found.count_by_class() == [0, (labels == 1).sum(), (labels == 2).sum()]


def test_without_detections_or_pictures(tmp_path):
    found = CocoResults(CLASSES, 100)
    found.save(str(tmp_path / "x.json"))
    assert json.loads((tmp_path / "x.json").read_text()) == expected([])
    found.add("a.jpg", (1, 2), detections(0, 0))
    found.save(str(tmp_path / "x.json"))
    assert json.loads((tmp_path / "x.json").read_text()) == expected([("a.jpg", (1, 2), detections(0, 0), {})])


def test_of_many_the_best_are_kept_in_their_order(tmp_path):
    boxes, labels, scores = detections(500, 5)
    found = CocoResults(CLASSES, 100)
    found.add("a.jpg", (300, 400), (boxes, labels, scores))
    found.add("b.jpg", (300, 400), detections(100, 6))
    found.save(str(tmp_path / "x.json"))
    kept = scores >= np.sort(scores)[-100]
    best = expected([("a.jpg", (300, 400), (boxes[kept], labels[kept], scores[kept]), {})])["annotations"]
    rows = json.loads((tmp_path / "x.json").read_text())["annotations"]
    assert rows[:100] == best and len(rows) == 200
    assert found.reduced == 1 and found.max_score == scores.max()
