"""Errors by kind equal a slow loop over the definitions, and the package tidecv where it is installed."""

import time

import numpy as np
import pytest

from src.evaluation.error_kinds import ADVICE, KINDS, cost_of_errors, error_report, find_errors
from src.evaluation.scoring import Detections, Truth
from tests.helpers.scored_sets import IMAGES, random_set

CATEGORIES = 4


def every_category(seed, **options):
    """A random set (`random_set`) in which every category has ground truth."""
    truth, found = random_set(seed, categories=CATEGORIES + 1, **options)
    kept = found.category < CATEGORIES
    return truth, Detections(*(column[kept] for column in found))


SETS = [
    every_category(1),
    every_category(2, grid=False),
    every_category(3, crowds=0.5, grid=False),
    every_category(4, weak=150, grid=False),
    every_category(5, most=40, grid=False),
    every_category(6, sizes=(20, 40), grid=False),
]


def overlap(one, two, crowd=False):
    width = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    height = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = one[2] * one[3]
    return width * height / (area if crowd else area + two[2] * two[3] - width * height)


class Slow:
    """The definitions as loops. points: (score, category, right, kind, number of the object that a fix matches)."""

    def __init__(self, truth, found):
        self.points, self.objects, self.missed, self.unmatched = [], [], [], []
        self.hidden = set()  # points that lie in a crowd
        for image in range(IMAGES):
            self._image(truth, found, image)

    def _image(self, truth, found, image):
        given = [k for k in range(len(truth.image)) if truth.image[k] == image]
        objects, crowds = [k for k in given if not truth.crowd[k]], [k for k in given if truth.crowd[k]]
        rows = [k for k in range(len(found.image)) if found.image[k] == image]
        rows = sorted(rows, key=lambda k: -found.scores[k])[:100]
        matched, right = set(), {}
        for row in rows:
            own = [k for k in objects if truth.category[k] == found.category[row] and k not in matched]
            best = max(own, key=lambda k: overlap(found.boxes[row], truth.boxes[k]), default=None)
            if best is not None and overlap(found.boxes[row], truth.boxes[best]) >= 0.5:
                right[row] = best
                matched.add(best)
        taken, usable = set(), set()
        for row in rows:
            kind = target = None
            if row not in right:
                kind, target = self._kind(truth, found, row, objects)
                if target in matched or target in taken:
                    target = None
                if target is not None:
                    taken.add(target)
                    usable.add(target)
                inside = [overlap(found.boxes[row], truth.boxes[k], True) for k in crowds]
                same = [truth.category[k] == found.category[row] for k in crowds]
                if any(value > 0.5 and is_same for value, is_same in zip(inside, same)):
                    self.hidden.add(len(self.points))
            category = None if target is None else truth.category[target]
            self.points.append((found.scores[row], found.category[row], row in right, kind, category))
        self.objects += [truth.category[k] for k in objects]
        self.unmatched += [truth.category[k] for k in objects if k not in matched]
        self.missed += [truth.category[k] for k in objects if k not in matched | usable]

    @staticmethod
    def _kind(truth, found, row, objects):
        values = {k: overlap(found.boxes[row], truth.boxes[k]) for k in objects}
        own = {k: v for k, v in values.items() if truth.category[k] == found.category[row]}
        others = {k: v for k, v in values.items() if k not in own}
        best, other = max(own, key=own.get, default=None), max(others, key=others.get, default=None)
        if best is not None and 0.1 <= own[best] <= 0.5:
            return "localisation", best
        if other is not None and others[other] >= 0.5:
            return "classification", other
        if best is not None and own[best] >= 0.5:
            return "duplicate", None
        return ("background" if max(values.values(), default=0) <= 0.1 else "both"), None

    def cost(self):
        def remove(rows, categories):
            rows = list(rows)
            for category in categories:
                rows.remove(category)
            return rows

        shown = [point for row, point in enumerate(self.points) if row not in self.hidden]
        before = self.mean([(score, category, right) for score, category, right, _, _ in shown], self.objects)
        # of equal scores, what was wrong comes first
        shown.sort(key=lambda point: point[2])
        plain = [(score, category, right) for score, category, right, _, _ in shown]
        result = {"AP50": before, "kinds": {}}
        for kind in KINDS[:-1]:
            points = []
            ordered = sorted(enumerate(self.points), key=lambda item: item[1][2])
            for row, (score, category, right, its, target) in ordered:
                if its == kind and target is not None:
                    points.append((score, target, True))
                elif its != kind and row not in self.hidden:
                    points.append((score, category, right))
            count = sum(point[3] == kind for point in self.points)
            result["kinds"][kind] = {"count": count, "dAP50": max(self.mean(points, self.objects) - before, 0)}
        after = self.mean(plain, remove(self.objects, self.missed))
        result["kinds"]["missed"] = {"count": len(self.missed), "dAP50": max(after - before, 0)}
        result["false_positives"] = self.mean([p for p in plain if p[2]], self.objects) - before
        result["false_negatives"] = self.mean(plain, remove(self.objects, self.unmatched)) - before
        return result

    def mean(self, points, objects):
        values = []
        for category in sorted(set(self.objects)):
            rows = sorted((p for p in points if p[1] == category), key=lambda p: -p[0])
            positives = objects.count(category)
            if rows or positives:
                values.append(average(rows, positives) if positives else 0.0)
        return sum(values) / len(values) if values else 0.0


def average(rows, positives):
    curve, true = [], 0
    for number, row in enumerate(rows, 1):
        true += row[2]
        curve.append((true / positives, true / number))
    return sum(max((p for r, p in curve if r >= recall), default=0) for recall in np.arange(101) / 100) / 101


@pytest.mark.parametrize("number", range(len(SETS)))
def test_equals_a_slow_loop(number):
    truth, found = SETS[number]
    cost, want = cost_of_errors(find_errors(truth, found), CATEGORIES), Slow(truth, found).cost()
    assert {kind: row["count"] for kind, row in cost["kinds"].items()} == {
        kind: row["count"] for kind, row in want["kinds"].items()
    }
    for kind in KINDS:
        assert cost["kinds"][kind]["dAP50"] == pytest.approx(want["kinds"][kind]["dAP50"], abs=1e-9)
    for name in ("AP50", "false_positives", "false_negatives"):
        assert cost[name] == pytest.approx(want[name], abs=1e-9)


def test_the_sets_hold_every_kind():
    counts = [[row["count"] for row in cost_of_errors(find_errors(*one), CATEGORIES)["kinds"].values()] for one in SETS]
    assert np.array(counts).max(0).min() > 0 and find_errors(*SETS[2]).ignored.any()


@pytest.mark.parametrize("number", range(len(SETS)))
def test_equals_tidecv(number):
    tidecv = pytest.importorskip("tidecv")
    truth, found = SETS[number]
    given, made = tidecv.Data("truth"), tidecv.Data("found")
    for image in range(IMAGES):
        given.add_image(image, str(image))
        made.add_image(image, str(image))
    for image, category, box, _, crowd in zip(*(column.tolist() for column in truth)):
        (given.add_ignore_region if crowd else given.add_ground_truth)(image, category, box)
    for image, category, box, score in zip(*(column.tolist() for column in found)):
        made.add_detection(image, category, score, box)
    tide = tidecv.TIDE()
    run = tide.evaluate(given, made, mode=tidecv.TIDE.BOX)
    main, special = (next(iter(rows.values())) for rows in tide.get_all_errors().values())
    cost = cost_of_errors(find_errors(truth, found), CATEGORIES)
    names = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), KINDS))
    print([round(run.ap, 4), *(f"{name} {value:.4f}" for name, value in {**main, **special}.items())])
    assert 100 * cost["AP50"] == pytest.approx(run.ap, abs=0.01)
    for name, kind in names.items():
        assert 100 * cost["kinds"][kind]["dAP50"] == pytest.approx(main[name], abs=0.01)
    assert 100 * cost["false_positives"] == pytest.approx(special["FalsePos"], abs=0.01)
    assert 100 * cost["false_negatives"] == pytest.approx(special["FalseNeg"], abs=0.01)
    counts = run.count_errors()
    assert {names[error.short_name]: number for error, number in counts.items()} == {
        kind: row["count"] for kind, row in cost["kinds"].items()
    }


def test_by_hand():
    """One image: an object that is found, one found as another class, one missed; a second box on the first object, a
    box half on the second one, and one on nothing."""
    box = np.array([[0, 0, 10, 10], [100, 0, 10, 10], [200, 0, 10, 10]], float)
    truth = Truth(np.zeros(3, int), np.array([0, 0, 1]), box, np.full(3, 100.0), np.zeros(3, bool))
    boxes = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 9], [100, 0, 10, 10], [105, 0, 10, 10], [105, 0, 10, 10], [400, 0, 10, 10]], float
    )
    found = Detections(np.zeros(6, int), np.array([0, 0, 1, 0, 1, 1]), boxes, np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]))
    errors = find_errors(truth, found)
    assert [KINDS[k] if k >= 0 else "right" for k in errors.kind] == [
        "right",
        "duplicate",
        "classification",
        "localisation",
        "both",
        "background",
    ]
    assert errors.fixed.tolist() == [-1, -1, 0, -1, -1, -1] and errors.missed.tolist() == [False, False, True]
    report = error_report(truth, found, 2)
    assert report["largest"] == "missed" or report["kinds"][report["largest"]]["dAP50"] > 0
    assert report["advice"] == ADVICE[report["largest"]]


def test_nothing_to_report():
    truth, found = SETS[0]
    nothing = Detections(*(column[:0] for column in found))
    assert error_report(truth, nothing, CATEGORIES) is None
    assert error_report(Truth(*(column[:0] for column in truth)), found, CATEGORIES) is None


def test_half_a_million_detections_take_a_few_seconds():
    rng = np.random.default_rng(0)
    images, objects = 5000, 36000
    corner, size = rng.uniform(0, 500, (objects, 2)), rng.uniform(10, 200, (objects, 2))
    truth = Truth(
        np.sort(rng.integers(images, size=objects)),
        rng.integers(80, size=objects),
        np.hstack([corner, size]),
        size.prod(1),
        rng.uniform(size=objects) < 0.01,
    )
    per_image = [np.flatnonzero(truth.image == image) for image in range(images)]
    rows = np.concatenate([rng.choice(one if len(one) else np.arange(objects), 100) for one in per_image])
    category = np.where(rng.uniform(size=len(rows)) < 0.7, truth.category[rows], rng.integers(80, size=len(rows)))
    boxes = truth.boxes[rows] + rng.normal(0, 1, (len(rows), 4)) * truth.boxes[rows][:, [2, 3, 2, 3]] * 0.15
    found = Detections(np.repeat(np.arange(images), 100), category, np.maximum(boxes, 1), rng.uniform(size=len(rows)))
    start = time.process_time()
    error_report(truth, found, 80)
    seconds = time.process_time() - start
    print(f"{seconds:.2f} s")
    assert seconds < 15
