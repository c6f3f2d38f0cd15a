"""mAP against pycocotools run apart on the written files, and the edges that crash it."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.errors import UserError
from src.evaluation.coco_evaluator import CocoEvaluator
from src.evaluation.postprocess import postprocess
from src.evaluation.table import format_table
from tests import oracles

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


def apart(annotation_file, predictions, image_ids=None):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotation_file)
        run = COCOeval(truth, truth.loadRes(predictions), "bbox")
        if image_ids is not None:
            run.params.imgIds = image_ids
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


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
    np.testing.assert_allclose(result["stats"], apart(file, str(tmp_path / "predictions.json")), atol=1e-12)
    np.testing.assert_allclose(
        result["stats_published"], apart(file, str(tmp_path / "predictions.json"), [10, 12]), atol=1e-12
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


def test_postprocessing_equals_the_slow_loop():
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 0.7, (150, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.3, (150, 2))], 1).astype(np.float32)
    scores = rng.uniform(0, 1, (150, 4)).astype(np.float32)
    got = postprocess(boxes, scores, (90, 120), 0.3, 0.6, 20)
    want = []
    for label in (1, 2, 3):
        rows = [k for k in range(150) if scores[k, label] > 0.3]
        pixels = [[boxes[k, 0] * 90, boxes[k, 1] * 120, boxes[k, 2] * 90, boxes[k, 3] * 120] for k in rows]
        want += [(label, pixels[j]) for j in oracles.nms(pixels, [scores[k, label] for k in rows], 0.6, 20)]
    assert got[2].tolist() == [label for label, _ in want]
    np.testing.assert_allclose(got[0], [box for _, box in want], rtol=1e-5)
