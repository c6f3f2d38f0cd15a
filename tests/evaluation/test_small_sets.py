"""Metrics do not depend on the batch size, and a note explains sets without detections or ground truth."""

import json
import pickle

import numpy as np
import pytest

from src.data.records import prepare_records
from src.evaluation.evaluate import build_evaluator, collect_detections
from src.evaluation.metrics_table import format_table
from src.inference.detector import NetworkDetector, build_inference
from src.inference.metadata import metadata_from_config
from src.models.build import build_model
from src.utils.device import init_device, prepare_environment
from src.utils.distributed import Communicator
from tests.helpers.small_sets import config, make_set


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network with random weights that finds many boxes at min_score 0.5."""
    prepare_environment()
    cfg = config(tmp_path_factory.mktemp("none"))
    init_device(cfg)
    return build_inference(build_model(cfg), cfg)


def run(network, cfg):
    records = prepare_records(cfg, False)
    evaluator = build_evaluator(records, cfg)
    collect_detections(NetworkDetector(network, metadata_from_config(cfg)), records, cfg, evaluator)
    return evaluator, evaluator.summarize()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_figures_for_any_batch(network, tmp_path, count):
    make_set(tmp_path, count)
    seen = []
    for batch in (1, 2, 7):
        evaluator, result = run(network, config(tmp_path, f"--batch_size={batch}", "--min_score=0.45"))
        assert result["images"] == count and result["detections"] > 0
        seen.append((result["stats"], result["stats_published"], result["detections"]))
    assert seen[0] == seen[1] == seen[2]


class Simulated(Communicator):
    """A communicator that keeps the detections of each rank and returns all of them on the last rank."""

    def __init__(self, rank, size, kept):
        self.rank, self.size, self.kept = rank, size, kept

    def gather(self, value):
        self.kept.append(pickle.loads(pickle.dumps(value)))
        return self.kept if self.rank == self.size - 1 else None


@pytest.mark.parametrize("count", [1, 4, 5])
def test_figures_for_any_number_of_ranks(network, tmp_path, count):
    make_set(tmp_path, count)
    cfg = config(tmp_path, "--batch_size=2", "--min_score=0.45")
    records, seen = prepare_records(cfg, False), []
    for size in (1, 2, 3, 8):
        kept = []
        for rank in range(size):
            evaluator = build_evaluator(records, cfg)
            collect_detections(
                NetworkDetector(network, metadata_from_config(cfg)),
                records,
                cfg,
                evaluator,
                Simulated(rank, size, kept),
            )
        result = evaluator.summarize()
        seen.append((result["stats"], result["stats_published"], result["detections"], evaluator.detections))
    assert seen[0][2] > 0 and all(one == seen[0] for one in seen)


@pytest.mark.parametrize("dataset", ["coco", "voc", "other"])
def test_no_detection(network, tmp_path, dataset):
    make_set(tmp_path, 3)
    evaluator, result = run(network, config(tmp_path, f"--dataset={dataset}", "--min_score=0.999"))
    evaluator.save(str(tmp_path / "predictions.json"))
    assert json.loads((tmp_path / "predictions.json").read_text()) == []
    assert result["mAP"] == 0.0 and result["images"] == 3
    assert "no detection at all" in format_table(result)


@pytest.mark.parametrize("dataset", ["coco", "voc", "other"])
def test_no_ground_truth(network, tmp_path, dataset):
    make_set(tmp_path, 3, boxes=False)
    _, result = run(network, config(tmp_path, f"--dataset={dataset}", "--min_score=0.45"))
    assert result["mAP"] == 0.0 and result["images"] == 3 and "no ground truth box" in format_table(result)
    assert "-1" not in format_table(result)


@pytest.mark.parametrize("dataset", ["coco", "voc", "other"])
@pytest.mark.parametrize("categories", [(0, 1, 2), (1, 2, 3), (0, 7, 1000), (90, 5, 2**40)])
def test_perfect_detections_give_one(tmp_path, dataset, categories):
    content = make_set(tmp_path, 4, categories=tuple(zip(categories, ("cat", "dog", "cow"))))
    cfg = config(tmp_path, f"--dataset={dataset}")
    records = prepare_records(cfg, False)
    evaluator = build_evaluator(records, cfg)
    with open(records.annotation_file) as handle:
        truth = json.load(handle)
    names = {c["id"]: c["name"] for c in truth["categories"]}
    assert {a["image_id"] for a in truth["annotations"]} == {0, 3, 6, 9} or dataset == "other"
    for image in truth["images"]:
        objects = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([[y, x, y + h, x + w] for x, y, w, h in (a["bbox"] for a in objects)], np.float64)
        boxes /= [image["height"], image["width"]] * 2
        scores = np.zeros((len(objects), 4))
        scores[np.arange(len(objects)), [cfg.classes.index(names[a["category_id"]]) for a in objects]] = 0.9
        evaluator.update(image["id"], boxes, scores, (image["height"], image["width"]))
    assert evaluator.summarize()["mAP"] == pytest.approx(1.0)
    if dataset == "coco":
        assert {d["category_id"] for d in evaluator.detections} == {a["category_id"] for a in content["annotations"]}


def test_annotation_file_changed_between_conversion_and_evaluation(tmp_path):
    make_set(tmp_path, 3)
    first = prepare_records(config(tmp_path), False)
    assert first.count == 3
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["images"] = [dict(image, id=image["id"] + 100) for image in content["images"][:2]]
    content["annotations"] = [
        dict(a, image_id=a["image_id"] + 100) for a in content["annotations"] if a["image_id"] < 6
    ]
    (tmp_path / "coco" / "annotations" / "instances_other.json").write_text(json.dumps(content))
    second = prepare_records(config(tmp_path, "--instances_set=annotations/instances_other.json"), False)
    assert second.count == 2 and second.annotation_file.endswith("instances_other.json")
    evaluator = build_evaluator(second, config(tmp_path))
    evaluator.update(100, np.zeros((1, 4)), np.zeros((1, 4)), (90, 120))
