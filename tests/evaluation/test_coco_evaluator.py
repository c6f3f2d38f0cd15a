"""Metrics against a separate run of pycocotools on the written files, and edge cases in which pycocotools crashes."""

import json

import numpy as np
import pytest

from src.boxes.postprocess import postprocess
from src.evaluation.coco_evaluator import CocoEvaluator
from src.evaluation.metrics_table import format_table
from src.utils.errors import UserError
from tests import oracles
from tests.helpers.metrics import pycocotools_stats

CLASSES = ["background", "cat", "dog", "cow"]


def write(path, ids=(1, 2, 3), images=(10, 11, 12), first_annotation=1, crowd_in=None, drop=()):
    """Three images of 100 x 200, two boxes each; categories in reversed order."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 200} for i in images],
        "categories": [{"id": c, "name": n} for c, n in list(zip(ids, CLASSES[1:]))[::-1]],
        "annotations": [],
    }
    for number, image in enumerate(images):
        for k in range(2):
            label = (number + k) % 2
            row = {
                "id": first_annotation + len(content["annotations"]),
                "image_id": image,
                "category_id": ids[label],
                "bbox": [10 + 80 * k, 5 + 10 * number, 40, 30],
                "area": 1200,
                "iscrowd": int(image == crowd_in and k == 1),
            }
            content["annotations"].append({key: value for key, value in row.items() if key not in drop})
    path.write_text(json.dumps(content))
    return str(path), content


def perfect(evaluator, content, ids=(1, 2, 3), score=0.9, shift=0.0):
    for image in content["images"]:
        rows = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array(
            [
                [a["bbox"][1] + shift, a["bbox"][0], a["bbox"][1] + a["bbox"][3] + shift, a["bbox"][0] + a["bbox"][2]]
                for a in rows
            ]
        ) / [100, 200, 100, 200]
        scores = np.zeros((len(rows), 4), np.float32)
        for k, a in enumerate(rows):
            scores[k, 1 + list(ids).index(a["category_id"])] = score - 0.1 * k
        evaluator.update(
            np.int64(image["id"]) if isinstance(image["id"], int) else image["id"], boxes, scores, (100, 200)
        )


def test_equals_pycocotools_run_apart(tmp_path):
    file, content = write(tmp_path / "a.json", crowd_in=11)
    evaluator = CocoEvaluator(file, CLASSES)
    rng = np.random.default_rng(0)
    perfect(evaluator, content, shift=4.0)
    for image in content["images"][:2]:  # and noise in two of them
        corner = rng.uniform(0, 0.6, (80, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (80, 2))], 1).astype(np.float32)
        evaluator.update(image["id"], boxes, rng.uniform(0, 0.9, (80, 4)).astype(np.float32), (100, 200))
    evaluator.save(str(tmp_path / "predictions.json"))
    result = evaluator.summarize()
    np.testing.assert_allclose(result["stats"], pycocotools_stats(file, str(tmp_path / "predictions.json")), atol=1e-12)
    np.testing.assert_allclose(
        result["stats_published"], pycocotools_stats(file, str(tmp_path / "predictions.json"), [10, 12]), atol=1e-12
    )
    assert (result["images"], result["images_published"]) == (3, 2)


@pytest.mark.parametrize("ids", [(1, 2, 3), (0, 7, 1000), (3, 2, 1)])
@pytest.mark.parametrize("first_annotation", [0, 1])
@pytest.mark.parametrize("drop", [(), ("iscrowd", "area"), ("id",)])
def test_perfect_detections_score_one(tmp_path, ids, first_annotation, drop):
    file, content = write(tmp_path / "a.json", ids, first_annotation=first_annotation, drop=drop)
    evaluator = CocoEvaluator(file, CLASSES)
    perfect(evaluator, content, ids)
    result = evaluator.summarize()
    assert result["mAP"] == pytest.approx(1.0) and result["mAP_published"] == pytest.approx(1.0)
    assert {d["category_id"] for d in evaluator.detections} == set(ids[:2])


def test_duplicate_annotation_ids_do_not_lower_the_score(tmp_path):
    file, content = write(tmp_path / "a.json")
    for annotation in content["annotations"]:
        annotation["id"] = 5
    (tmp_path / "a.json").write_text(json.dumps(content))
    evaluator = CocoEvaluator(file, CLASSES)
    perfect(evaluator, content)
    assert evaluator.summarize()["mAP"] == pytest.approx(1.0)


def test_string_image_ids(tmp_path):
    file, content = write(tmp_path / "a.json", images=("x1", "y 2", "z"))
    evaluator = CocoEvaluator(file, CLASSES)
    perfect(evaluator, content)
    assert evaluator.summarize()["mAP"] == pytest.approx(1.0)


def test_no_detection_is_a_result(tmp_path):
    file, content = write(tmp_path / "a.json")
    evaluator = CocoEvaluator(file, CLASSES, min_score=0.999)
    perfect(evaluator, content)
    evaluator.save(str(tmp_path / "predictions.json"))
    assert json.loads((tmp_path / "predictions.json").read_text()) == []
    result = evaluator.summarize()
    assert result["mAP"] == 0.0 and result["stats"] == [0.0] * 12 and "no detection" in result["note"]


def test_no_ground_truth_is_said_in_words(tmp_path):
    file, content = write(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(json.dumps(dict(content, annotations=[])))
    evaluator = CocoEvaluator(str(tmp_path / "b.json"), CLASSES)
    perfect(evaluator, content)
    result = evaluator.summarize()
    assert result["mAP"] == 0.0 and result["note"] and "-1" not in format_table(result)


def test_table_shows_an_absent_class_and_leaves_it_out(tmp_path):
    file, content = write(tmp_path / "a.json")
    evaluator = CocoEvaluator(file, CLASSES)
    perfect(evaluator, content)
    result = evaluator.summarize()
    rows = {row["name"]: row for row in result["per_class"]}
    assert rows["cow"]["AP"] is None and rows["cat"]["AP"] == pytest.approx(1.0) and rows["cat"]["boxes"] == 3
    line = next(line for line in format_table(result).splitlines() if line.startswith("cow"))
    assert "absent" in line


def test_order_of_images_and_repeats_do_not_matter(tmp_path):
    file, content = write(tmp_path / "a.json")
    one, two, three = (CocoEvaluator(file, CLASSES) for _ in range(3))
    perfect(one, content)
    perfect(two, dict(content, images=content["images"][::-1]))
    three.extend(one.detections)
    three.extend(one.detections[:2])
    assert one.detections == two.detections == three.detections
    assert one.summarize()["stats"] == three.summarize()["stats"]


def test_unknown_image_is_one_clear_line(tmp_path):
    evaluator = CocoEvaluator(write(tmp_path / "a.json")[0], CLASSES)
    with pytest.raises(UserError, match="99"):
        evaluator.update(99, np.zeros((0, 4)), np.zeros((0, 4)), (10, 10))


def random_boxes(rng, count, low=0.02, high=0.4):
    corner = rng.uniform(0, 0.6, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(low, high, (count, 2))], 1).astype(np.float32)


def random_set(path, rng, images=12):
    """Boxes of all three sizes, crowds, and a category that is not in CLASSES."""
    ids = {"cat": 17, "dog": 3, "cow": 90, "ghost": 5}
    content = {
        "images": [{"id": 5 * k, "file_name": f"{k}.jpg", "height": 300, "width": 400} for k in range(images)],
        "categories": [{"id": category_id, "name": name} for name, category_id in ids.items()],
        "annotations": [],
    }
    for image in content["images"][1:]:
        for y1, x1, y2, x2 in random_boxes(rng, int(rng.integers(1, 8))).tolist():
            box = [x1 * 400, y1 * 300, (x2 - x1) * 400, (y2 - y1) * 300]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.choice(list(ids.values()))),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(rng.uniform() < 0.05),
                }
            )
    path.write_text(json.dumps(content))
    return str(path), content, ids


def near(rng, content, ids, image):
    """Boxes near the ground truth of an image and random ones; many scores are equal."""
    rows = [a for a in content["annotations"] if a["image_id"] == image["id"] and a["category_id"] != ids["ghost"]]
    boxes, scores = random_boxes(rng, 40), rng.uniform(0, 0.4, (40, 4))
    for k, a in enumerate(rows):
        x, y, w, h = a["bbox"]
        boxes[k] = (np.array([y, x, y + h, x + w]) + rng.normal(0, 3, 4)) / [300, 400, 300, 400]
        scores[k, CLASSES.index({v: n for n, v in ids.items()}[a["category_id"]])] = rng.uniform(0.2, 1)
    return boxes, np.round(scores, 1).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_random_sets_equal_pycocotools_in_both_protocols(tmp_path, seed):
    rng = np.random.default_rng(seed)
    file, content, ids = random_set(tmp_path / "a.json", rng)
    evaluator = CocoEvaluator(file, CLASSES)
    for k in rng.permutation(len(content["images"])):
        image = content["images"][k]
        evaluator.update(np.int32(image["id"]), *near(rng, content, ids, image), np.array([300, 400], np.int32))
    evaluator.save(str(tmp_path / "predictions.json"))
    result = evaluator.summarize()
    listed = sorted(category_id for name, category_id in ids.items() if name != "ghost")
    crowded = {a["image_id"] for a in content["annotations"] if a["iscrowd"]}  # a crowd of ghosts too
    subset = {a["image_id"] for a in content["annotations"] if a["category_id"] in listed} - crowded
    predictions = str(tmp_path / "predictions.json")
    np.testing.assert_array_equal(result["stats"], pycocotools_stats(file, predictions, categories=listed))
    np.testing.assert_array_equal(
        result["stats_published"], pycocotools_stats(file, predictions, sorted(subset), listed)
    )
    assert 0.05 < result["mAP"] < 0.95 and result["images_published"] == len(subset) < len(content["images"])
    present = [row["AP"] for row in result["per_class"] if row["AP"] is not None]
    assert np.mean(present) == pytest.approx(result["mAP"])
    assert np.mean([row["AP50"] for row in result["per_class"]]) == pytest.approx(result["stats"][1])
    assert np.mean([row["AR100"] for row in result["per_class"]]) == pytest.approx(result["stats"][8])


def test_a_subset_without_images_is_said_in_words(tmp_path):
    file, content = write(tmp_path / "a.json", images=(7,), crowd_in=7)
    evaluator = CocoEvaluator(file, CLASSES)
    perfect(evaluator, content)
    result = evaluator.summarize()
    assert result["mAP"] == pytest.approx(1.0)
    assert result["mAP_published"] == 0.0 and result["images_published"] == 0 and "published" in result["note"]


@pytest.mark.parametrize("ids", [("c", "a", "b"), (1, "a", 3)])
def test_category_ids_that_are_words(tmp_path, ids):
    file, content = write(tmp_path / "a.json", ids, images=(1, "two", 2**40))
    evaluator = CocoEvaluator(file, CLASSES)
    perfect(evaluator, content, ids)
    assert evaluator.summarize()["mAP"] == pytest.approx(1.0)


def test_numpy_types_of_another_rank_become_plain_json(tmp_path):
    file, _ = write(tmp_path / "a.json")
    evaluator = CocoEvaluator(file, CLASSES)
    box = np.array([10, 5, 40, 30], np.float32)
    evaluator.extend([{"image_id": np.int64(10), "category_id": np.int32(1), "bbox": box, "score": np.float32(0.5)}])
    evaluator.save(str(tmp_path / "sub" / "predictions.json"))
    assert json.loads((tmp_path / "sub" / "predictions.json").read_text()) == evaluator.detections
    assert evaluator.detections == [{"image_id": 10, "category_id": 1, "bbox": [10, 5, 40, 30], "score": 0.5}]
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["predictions.json"]


def test_other_number_of_classes_is_refused_with_both_numbers(tmp_path):
    evaluator = CocoEvaluator(write(tmp_path / "a.json")[0], CLASSES)
    with pytest.raises(ValueError, match="7 columns.*4 classes"):
        evaluator.update(10, np.zeros((3, 4)), np.zeros((3, 7)), (10, 10))


def test_rows_that_are_no_numbers_are_left_out():
    boxes = np.array([[0, 0, 0.5, 0.5], [np.nan, 0, 1, 1], [0, 0, 1, np.inf]], np.float32)
    scores = np.array([[0, 0.9], [0, 0.9], [0, 0.9]], np.float32)
    found = postprocess(boxes, scores, (10, 20))
    assert found[0].tolist() == [[0, 0, 5, 10]] and found[2].tolist() == [1]
    assert len(postprocess(boxes, np.full((3, 2), np.nan), (10, 20))[1]) == 0


@pytest.mark.parametrize("least", [0.02, 0.3, 0.9, 2.0])  # nearly all pairs .. none
def test_postprocessing_equals_the_slow_loop(least):
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 0.7, (150, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.3, (150, 2))], 1).astype(np.float32)
    scores = rng.uniform(0, 1, (150, 4)).astype(np.float32)
    got = postprocess(boxes, scores, (90, 120), least, 0.6, 20)
    want = []
    for label in (1, 2, 3):
        rows = [k for k in range(150) if scores[k, label] > least]
        pixels = [[float(v) * size for v, size in zip(boxes[k], (90, 120, 90, 120))] for k in rows]
        want += [(label, pixels[j]) for j in oracles.nms(pixels, [scores[k, label] for k in rows], 0.6, 20)]
    assert got[2].tolist() == [label for label, _ in want]
    assert got[0].tolist() == [box for _, box in want]
