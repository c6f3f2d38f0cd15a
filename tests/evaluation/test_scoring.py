"""Metrics, classes and curves equal pycocotools' to the last bit, and numbers are written as by Python."""

import json

import numpy as np
import pytest

from src.evaluation.coco_evaluator import CocoEvaluator
from src.evaluation.decimals import texts
from src.evaluation.scoring import Detections, Truth, accumulate, coco_metrics, match
from tests.helpers.scored_sets import IMAGES, pycocotools, random_set

CLASSES = ["background", "cat", "dog", "cow", "bird"]


KINDS = {
    "ties": {},
    "no grid": {"grid": False},
    "many crowds": {"crowds": 0.6},
    "crowds only": {"crowds": 1.1},
    "no crowd": {"crowds": 0},
    "crowded images": {"most": 40, "categories": 2},
    "more than 100 detections": {"weak": 260},
    "more than 100, no ties": {"weak": 260, "grid": False},
    "small only": {"sizes": (2, 20)},
    "large only": {"sizes": (120, 190)},
    "one category": {"categories": 1},
    "no ground truth": {"most": 1},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_every_number_is_pycocotools(kind, seed):
    options = KINDS[kind]
    truth, found = random_set(seed, **options)
    categories = options.get("categories", 4)
    matching = match(truth, found, categories)
    for images in (None, np.random.default_rng(seed).uniform(size=IMAGES) < 0.6):
        scores, expected = accumulate(matching, images), pycocotools(truth, found, categories, images)
        np.testing.assert_array_equal(scores.precision, expected.eval["precision"])
        np.testing.assert_array_equal(scores.recall, expected.eval["recall"])
        assert coco_metrics(scores) == expected.stats.tolist()
    if kind in ("ties", "no grid"):
        assert 0.02 < coco_metrics(accumulate(matching))[0] < 0.98


def test_without_any_detection():
    truth, found = random_set(0)
    nothing = Detections(*(column[:0] for column in found))
    scores, expected = accumulate(match(truth, nothing, 4)), pycocotools(truth, nothing, 4)
    np.testing.assert_array_equal(scores.precision, expected.eval["precision"])
    np.testing.assert_array_equal(scores.recall, expected.eval["recall"])
    assert coco_metrics(scores) == expected.stats.tolist()


def test_overlaps_at_a_threshold_and_of_equal_size():
    # IoU 0.5 and 0.75 exactly; then two ground truths with the same overlap, of which the later one is matched
    truth = Truth(
        np.zeros(4, int),
        np.zeros(4, int),
        np.array([[0, 0, 10, 10], [100, 0, 8, 10], [200, 0, 10, 10], [202, 0, 10, 10]], float),
        np.full(4, 100.0),
        np.zeros(4, bool),
    )
    boxes = np.array([[0, 0, 10, 5], [100, 0, 6, 10], [201, 0, 10, 10], [202, 0, 10, 10]], float)
    found = Detections(np.zeros(4, int), np.zeros(4, int), boxes, np.array([0.9, 0.8, 0.7, 0.6]))
    matching, expected = match(truth, found, 1), pycocotools(truth, found, 1)
    assert matching.matched[0, :, 0].tolist() == [True] + [False] * 9
    assert matching.matched[0, :, 1].tolist() == [True] * 6 + [False] * 4
    np.testing.assert_array_equal(accumulate(matching).recall, expected.eval["recall"])
    np.testing.assert_array_equal(accumulate(matching).precision, expected.eval["precision"])


def files(tmp_path, truth, image_ids, category_ids):
    """An annotation file with ids of any type, whose images are not sorted by id."""
    columns = [column.tolist() for column in truth]
    content = {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": 400, "width": 400}
            for image_id in image_ids[::-1]
        ],
        "categories": [{"id": category_id, "name": name} for category_id, name in zip(category_ids, CLASSES[1:])],
        "annotations": [
            {
                "id": number,
                "image_id": image_ids[i],
                "category_id": category_ids[c],
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
            for number, (i, c, box, area, crowd) in enumerate(zip(*columns), 1)
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return str(tmp_path / "truth.json")


def fill(evaluator, found, image_ids, positions):
    for position in positions:
        rows = found.image == position
        x, y, w, h = found.boxes[rows].T
        evaluator.add(
            image_ids[position], np.stack([y, x, y + h, x + w], 1), found.scores[rows], found.category[rows] + 1
        )


@pytest.mark.parametrize("ids", ["numbers", "words"])
@pytest.mark.parametrize("chosen", [None, range(2, 11)])
def test_the_evaluator_hands_these_numbers_on(tmp_path, ids, chosen):
    truth, found = random_set(5, weak=120)
    # sides that are unchanged by conversion to corners and back
    found = found._replace(boxes=np.round(found.boxes))
    image_ids = [7 * k for k in range(IMAGES)] if ids == "numbers" else [f"{k:02} {k}.jpg" for k in range(IMAGES)]
    category_ids = [3, 8, 11, 90] if ids == "numbers" else ["a", "b", "c", "d"]
    file = files(tmp_path, truth, image_ids, category_ids)
    selected = None if chosen is None else [image_ids[k] for k in chosen]
    evaluator = CocoEvaluator(file, CLASSES, image_ids=selected)
    measured = np.isin(np.arange(IMAGES), range(IMAGES) if chosen is None else chosen)
    fill(evaluator, found, image_ids, np.flatnonzero(measured)[::-1])
    result = evaluator.summarize()
    everything = pycocotools(truth, found, 4, measured)
    crowded, boxes = (np.isin(np.arange(IMAGES), image) for image in (truth.image[truth.crowd], truth.image))
    subset = pycocotools(truth, found, 4, measured & boxes & ~crowded)
    assert result["stats"] == everything.stats.tolist() and result["mAP"] == result["stats"][0]
    assert result["stats_published"] == subset.stats.tolist()
    assert (result["images"], result["images_published"]) == (measured.sum(), (measured & boxes & ~crowded).sum())
    curves = evaluator.curves()["classes"]
    for place, row in enumerate(result["per_class"]):
        precision = everything.eval["precision"][:, :, place, 0, 2]
        if row["name"] == "bird":
            assert row["AP"] is None and row["boxes"] == 0 and "bird" not in curves
            continue
        recall = everything.eval["recall"][:, place, 0, 2]
        assert (row["AP"], row["AP50"], row["AR100"]) == (precision.mean(), precision[0].mean(), recall.mean())
        assert curves[row["name"]] == precision[0].round(4).tolist()


def test_saved_detections_are_what_json_writes(tmp_path):
    truth, found = random_set(6, grid=False)
    image_ids = ['ü " ,', *range(1, IMAGES)]
    file = files(tmp_path, truth, image_ids, [1, "zwei", 3, 4])
    evaluator = CocoEvaluator(file, CLASSES)
    fill(evaluator, found, image_ids, range(IMAGES))
    evaluator.save(str(tmp_path / "predictions.json"))
    assert len(evaluator.detections) == len(found.scores)
    assert (tmp_path / "predictions.json").read_bytes() == json.dumps(evaluator.detections).encode()


def test_arrays_of_other_ranks_and_images_given_again(tmp_path):
    truth, found = random_set(7)
    image_ids = list(range(IMAGES))
    file = files(tmp_path, truth, image_ids, [1, 2, 3, 4])
    alone, *shards = (CocoEvaluator(file, CLASSES) for _ in range(4))
    fill(alone, found, image_ids, range(IMAGES))
    for rank, evaluator in enumerate(shards):  # the first image again at the end of the last shard
        fill(evaluator, found, image_ids, [*range(rank, IMAGES, 3), 0] if rank == 2 else range(rank, IMAGES, 3))
    for evaluator in shards[1:]:
        shards[0].merge(evaluator.arrays())
    assert shards[0].detections == alone.detections and shards[0].summarize() == alone.summarize()
    shards[0].clear()
    assert shards[0].detections == [] and shards[0].curves()["classes"] == {}


def written(values):
    return [bytes(row[row != 0]).decode() for row in texts(values)]


@pytest.mark.parametrize("kind", ["pixels", "scores", "wide", "ties", "round", "neighbours", "odd"])
def test_decimals_are_those_of_repr(kind):
    rng = np.random.default_rng(0)
    tens = 10.0 ** np.arange(-6, 9)
    values = {
        "pixels": rng.uniform(0, 1, 20000).astype(np.float32) * np.array([480.0, 640.0, 333.0, 1.0]).repeat(5000),
        "scores": rng.uniform(0, 1, 20000).astype(np.float32).astype(np.float64),
        "wide": 10 ** rng.uniform(-7, 9, 20000),
        "ties": rng.integers(1, 2**24, 20000) / 2.0 ** rng.integers(0, 50, 20000),
        "round": np.round(rng.uniform(0, 1000, 20000), 2),
        "neighbours": np.r_[np.nextafter(tens, 0), tens, np.nextafter(tens, 1e9), 2.0 ** np.arange(-30, 30)],
        "odd": np.array([0.0, -0.0, -1.5, 5e-324, 1e16, 1e22, 1.7e308, 0.1 + 0.2, 1 / 3, 2 / 3]),
    }[kind]
    assert written(values) == [repr(value) for value in values.tolist()]
