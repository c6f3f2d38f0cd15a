"""Paired differences equal a plain loop with pycocotools over the resampled sets; files that do not fit are refused."""

import hashlib
import json
import os

import cv2
import numpy as np
import pytest

from src.evaluation.bootstrap import draw_weights
from src.evaluation.coco_evaluator import CocoEvaluator
from src.evaluation.comparison import compare, comparison_table, verdict
from src.evaluation.detections import as_rows
from src.evaluation.ground_truth import GroundTruth
from tests.helpers.programs import run
from tests.helpers.scored_sets import IMAGES, pycocotools, random_set, resampled, without_ties_in_an_image

NAMES = ["background", "cat", "dog", "owl", "yak"]


def written(folder, truth, images=IMAGES):
    """An annotation file of a `Truth`; image and category ids begin with 1."""
    content = {
        "images": [{"id": k + 1, "file_name": f"{k + 1}.png", "height": 400, "width": 400} for k in range(images)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES) if k],
        "annotations": [
            {"id": n, "image_id": i + 1, "category_id": c + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for n, (i, c, box, area, crowd) in enumerate(zip(*(column.tolist() for column in truth)), 1)
        ],
    }
    path = os.path.join(str(folder), "truth.json")
    with open(path, "w", encoding="utf-8") as handle:
        json.dump(content, handle)
    return path


def changed(found, seed):
    """Other detections of the same set: boxes moved, scores of another order, some left out."""
    rng = np.random.default_rng(seed)
    keep = rng.uniform(size=len(found.scores)) < 0.8
    scores = np.clip(found.scores + rng.normal(0, 0.1, len(found.scores)), 0, 1)
    found = found._replace(boxes=np.abs(found.boxes + rng.normal(0, 3, found.boxes.shape)) + 1, scores=scores)
    return type(found)(*(column[keep] for column in found))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    given, first = random_set(7)
    return given, GroundTruth(written(tmp_path_factory.mktemp("set"), given), NAMES), first, changed(first, 1)


def test_differences_are_those_of_pycocotools_on_the_same_resamples(pair):
    given, truth, *sides = pair
    sides = [without_ties_in_an_image(found) for found in sides]
    weights = draw_weights(IMAGES, 6, seed=2)
    result = compare(truth, *sides, weights=weights)
    rows = {"mAP": [], "AP50": [], "cat": []}
    for row in [np.ones(IMAGES, int), *weights]:
        runs = [pycocotools(resampled(given, row), resampled(found, row), 4) for found in sides]
        rows["mAP"].append([one.stats[0] for one in runs])
        rows["AP50"].append([one.stats[1] for one in runs])
        rows["cat"].append([one.eval["precision"][:, :, 0, 0, 2].mean() for one in runs])
    for name, got in (("mAP", result["mAP"]), ("AP50", result["AP50"]), ("cat", result["classes"]["cat"]["AP"])):
        values = np.array(rows[name])
        difference = values[:, 1] - values[:, 0]
        assert [got["first"], got["second"], got["difference"]] == pytest.approx([*values[0], difference[0]], abs=1e-12)
        assert got["interval"] == pytest.approx(np.percentile(difference[1:], [2.5, 97.5]).tolist(), abs=1e-12)
        assert difference.any()
    assert set(result["classes"]) == {"cat", "dog", "owl"}  # no ground truth of yak


def test_equal_sets_differ_by_nothing(pair):
    _, truth, first, _ = pair
    result = compare(truth, first, first)
    for row in (result["mAP"], result["AP50"], *(one["AP"] for one in result["classes"].values())):
        assert (row["difference"], row["interval"], row["beyond_chance"]) == (0, [0, 0], False)
    assert result["changed"] == [] and verdict(result).startswith("no difference is beyond chance")


def test_changed_images_by_a_plain_count(pair):
    """The images of the evaluator, matched one by one (`match_detections`), at the threshold of `score_thresholds`."""
    from src.evaluation.analysis import match_detections

    _, truth, *sides = pair
    values, thresholds = [], []
    for found in sides:
        evaluator = CocoEvaluator(truth.annotation_file, NAMES, 0.0)
        evaluator.merge(found)
        evaluator.summarize()
        least = evaluator.score_thresholds()["overall"]["threshold"]
        shown = [
            (len(match_detections(one, least, True)), int((one.scores >= least).sum())) for one in evaluator.images()
        ]
        values.append([2 * right - total for right, total in shown])
        thresholds.append(least)
    result = compare(truth, *sides, weights=draw_weights(IMAGES, 2))
    assert result["score_thresholds"] == pytest.approx(thresholds)
    expected = {k + 1: b - a for k, (a, b) in enumerate(zip(*values)) if a != b}
    assert {row["image_id"]: row["change"] for row in result["changed"]} == expected
    sizes = [abs(row["change"]) for row in result["changed"]]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) > 3


def test_nothing_found_and_single_images(pair, tmp_path):
    _, truth, first, _ = pair
    nothing = type(first)(*(column[:0] for column in first))
    result = compare(truth, nothing, first)
    assert result["mAP"]["first"] == 0 and result["mAP"]["beyond_chance"] and "higher in B" in verdict(result)
    assert result["score_thresholds"][0] is None
    given, found = random_set(7)
    given = type(given)(*(column[given.image == 1] for column in given))._replace(
        image=np.zeros((given.image == 1).sum(), int)
    )
    one = GroundTruth(written(tmp_path, given, 1), NAMES)
    result = compare(one, nothing, nothing)
    assert result["mAP"]["interval"] is None and "no intervals" in verdict(result)
    assert "   -" in comparison_table(result)


@pytest.fixture
def folders(pair, tmp_path):
    """Output folders a and b with their predictions, and the annotation file."""
    given, truth, *sides = pair
    path = written(tmp_path, given)
    with open(path, "rb") as handle:
        checksum = hashlib.sha256(handle.read()).hexdigest()
    metrics = {"classes": NAMES, "annotation_file": path, "annotation_sha256": checksum, "image_ids": None}
    for name, found in zip("ab", sides):
        os.makedirs(tmp_path / name)
        rows = as_rows(found, truth.image_ids, truth.category_ids)
        (tmp_path / name / "predictions.json").write_text(json.dumps(rows))
        (tmp_path / name / "evaluation.json").write_text(json.dumps(metrics))
    return tmp_path


def test_the_program(folders, pair):
    for number in range(1, IMAGES + 1):
        cv2.imwrite(str(folders / f"{number}.png"), np.full((400, 400, 3), 128, np.uint8))
    done = run("scripts/compare.py", "a", "b", "--output", "out", "--json", "c.json", "--count", 3, cwd=folders)
    assert done.returncode == 0, done.stderr
    content = json.loads((folders / "c.json").read_text())
    expected = json.loads(json.dumps(compare(*pair[1:])))
    assert {key: content[key] for key in expected} == expected
    assert f"{expected['mAP']['difference']:+.4f}" in done.stdout and verdict(expected) in done.stdout
    names = sorted(os.listdir(folders / "out"))
    assert names == [f"{n:02}_{row['image_id']}.png" for n, row in enumerate(expected["changed"][:3], 1)]
    page = cv2.imread(str(folders / "out" / names[0])).astype(int)
    left, right = page[:, : page.shape[1] // 2], page[:, page.shape[1] // 2 :]
    assert left.shape == right.shape and (left != right).any()
    assert all((np.abs(half - [70, 220, 70]).max(-1) < 12).sum() > 50 for half in (left, right))  # ground truth
    # bare files, and pictures elsewhere
    words = ["a/predictions.json", "b/predictions.json", "--annotations", "truth.json", "--json", "d.json"]
    done = run("scripts/compare.py", *words, cwd=folders)
    assert done.returncode == 0 and json.loads((folders / "d.json").read_text())["mAP"] == expected["mAP"], done.stderr


def edit(path, **values):
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **values)))


def first_row(folder, **values):
    path = folder / "a" / "predictions.json"
    rows = json.loads(path.read_text())
    rows[0].update(values)
    path.write_text(json.dumps(rows))


WRONG = {
    "no such file or folder: b2": lambda f: os.rename(f / "b", f / "b3"),
    "has no predictions.json": lambda f: os.remove(f / "b" / "predictions.json"),
    "is not valid JSON": lambda f: (f / "b" / "predictions.json").write_text('[{"image_id"'),
    "(a list of detections)": lambda f: (f / "b" / "predictions.json").write_text("{}"),
    "is not an evaluation.json": lambda f: (f / "b" / "evaluation.json").write_text("[]"),
    "different annotation files": lambda f: edit(f / "b" / "evaluation.json", annotation_sha256="0"),
    "different classes": lambda f: edit(f / "b" / "evaluation.json", classes=NAMES[:3]),
    "different images": lambda f: edit(f / "b" / "evaluation.json", image_ids=[1, 2]),
    "it has changed since": lambda f: edit(f / "truth.json", info="new"),
    "annotation file not found": lambda f: os.remove(f / "truth.json"),
    "do not name their annotation file": lambda f: [os.remove(f / name / "evaluation.json") for name in "ab"],
    "row 1: image_id 99 is not": lambda f: first_row(f, image_id=99),
    "row 1: image_id [1] is not": lambda f: first_row(f, image_id=[1]),
    "row 1: category_id 99 is not": lambda f: first_row(f, category_id=99),
    "row 1: bbox must be four": lambda f: first_row(f, bbox=[1, 2, 3]),
    "and score a number": lambda f: first_row(f, score=float("nan")),
    "row 1 is not a detection": lambda f: first_row(f, score=None),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_compared_is_one_line(folders, words, capsys, monkeypatch):
    from scripts.compare import main
    from src.utils.errors import run_main

    monkeypatch.setattr("scripts.compare.SignalGuard.install", lambda self: None)
    monkeypatch.setattr("scripts.compare.setup_logging", lambda: None)
    WRONG[words](folders)
    second = "b2" if "b2" in words else "b"
    monkeypatch.chdir(folders)
    assert run_main(main, ["a", second, "--json", "c.json"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and words in error[0]
    assert not (folders / "c.json").exists()


def test_a_report_names_its_ground_truth(pair, tmp_path):
    """evaluation.json of a part of the images leads back to the same ground truth."""
    from src.evaluation.comparison_files import common_truth, find_evaluation, read_detections
    from src.evaluation.report import write_report

    truth = pair[1]
    evaluator = CocoEvaluator(truth.annotation_file, NAMES[:3], 0.0, image_ids=[2, 3, 5, 6])
    for image_id in (2, 5):
        evaluator.add(image_id, np.array([[10.0, 10, 60, 50]]), np.array([0.5]), np.array([2]))
    evaluator.save(str(tmp_path / "predictions.json"))
    pixels = np.zeros((400, 400, 3), np.uint8)
    write_report(evaluator, evaluator.summarize(), lambda image_id: pixels, str(tmp_path), "x.ckpt", 0.9)
    side = find_evaluation(str(tmp_path))
    again = common_truth([side, side])
    assert again.image_ids == [2, 3, 5, 6] and again.names() == ["cat", "dog"]
    for got, expected in zip(read_detections(side, again), evaluator.arrays()):
        np.testing.assert_array_equal(got, expected)
