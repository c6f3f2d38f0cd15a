"""The report contains the metrics of the evaluation, and a real browser shows it offline."""

import base64
import csv
import html.parser
import json
import os
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from src.evaluation.coco_evaluator import CocoEvaluator
from src.evaluation.report import write_report

CLASSES = ["background", "cat", "dog", "cow & calf"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Six images of 100 x 100 with two boxes each; cats are detected, dogs are detected as cows, cows are missed."""
    folder = tmp_path_factory.mktemp("report")
    boxes = {1: [10, 10, 40, 40], 2: [55, 50, 30, 40]}
    annotations = [
        {
            "id": 2 * k + n,
            "image_id": k,
            "category_id": label,
            "bbox": boxes[n],
            "area": boxes[n][2] * boxes[n][3],
            "iscrowd": 0,
        }
        for k in range(6)
        for n, label in ((1, 1 + k % 3), (2, 1))
    ]
    content = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": 100, "width": 100} for k in range(6)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES) if k],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    evaluator = CocoEvaluator(str(folder / "truth.json"), CLASSES, 0.1)
    for k in range(6):
        rows = []
        for x, y, w, h, label in [(*boxes[1], 1 + k % 3), (*boxes[2], 1)]:
            if label < 3:
                rows.append(([y, x, y + h, x + w], label if label == 1 else 3, 0.9 - 0.1 * k))
        evaluator.add(
            k, np.array([r[0] for r in rows], float), np.array([r[2] for r in rows]), np.array([r[1] for r in rows])
        )
    result = evaluator.summarize()
    rng = np.random.default_rng(0)
    paths, _ = write_report(
        evaluator,
        result,
        lambda image_id: rng.integers(0, 255, (100, 100, 3)).astype(np.uint8),
        str(folder),
        "x.ckpt",
        0.9,
    )
    return paths, result, folder


def test_one_file_that_cannot_be_written_does_not_stop_the_others(written, tmp_path, monkeypatch):
    _, result, folder = written
    lost = {}
    monkeypatch.setattr("src.utils.errors._lost", lost)
    (tmp_path / "report.html").mkdir()
    evaluator = CocoEvaluator(str(folder / "truth.json"), CLASSES, 0.1)
    pixels = np.zeros((100, 100, 3), np.uint8)
    paths, _ = write_report(evaluator, result, lambda image_id: pixels, str(tmp_path), "x.ckpt", 0.9)
    assert sorted(paths) == ["evaluation.csv", "evaluation.json"] == sorted(set(os.listdir(tmp_path)) - {"report.html"})
    assert list(lost) == [str(tmp_path / "report.html")]


def test_json_and_csv_hold_the_same_figures(written):
    paths, result, folder = written
    metrics = json.loads(open(paths["evaluation.json"], encoding="utf-8").read())
    assert metrics["stats"] == result["stats"] and metrics["per_class"] == result["per_class"]
    assert metrics["diagnosis"] == []
    # 8 cats found, 2 dogs found as cows, 2 cows not found
    least = metrics["confusion_min_score"]
    assert least < 0.5 and metrics["confusion"] == [[0, 0, 0, 0], [0, 8, 0, 0], [0, 0, 0, 2], [2, 0, 0, 0]]
    assert metrics["curves"]["classes"]["cat"][50] == 1.0 and metrics["curves"]["classes"]["dog"] == [0.0] * 101
    with open(paths["evaluation.csv"], encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))
    assert [float(row[4]) for row in rows[1:13]] == result["stats"]
    assert rows[15][0] == "cat" and float(rows[15][2]) == result["per_class"][0]["AP"]
    assert sorted(os.listdir(folder)) == ["evaluation.csv", "evaluation.json", "report.html", "truth.json"]


class Tables(html.parser.HTMLParser):
    """Cells of the tables by their id."""

    def __init__(self):
        super().__init__()
        self.tables, self.table, self.cell = {}, None, None

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.table = self.tables.setdefault(dict(attributes).get("id"), [])
        elif tag == "tr" and self.table is not None:
            self.table.append([])
        elif tag in ("td", "th") and self.table:
            self.table[-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        if self.cell and self.table and self.table[-1]:
            self.table[-1][-1] += data


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_in_a_browser(written, tmp_path):
    paths, result, _ = written
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [BROWSER, *flags.split(), "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}"]
    command += ["--enable-logging=stderr", "--dump-dom", f"file://{paths['report.html']}#sort=AP50"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    dom, log = done.stdout.decode(), done.stderr.decode(errors="replace")
    assert done.returncode == 0 and "CONSOLE" not in log, log[-2000:]
    tables = Tables()
    tables.feed(dom)
    shown = [row[4:6] for row in tables.tables["metrics"][1:]]
    assert shown == [
        [f"{v:.4f}" if v >= 0 else "-" for v in pair] for pair in zip(result["stats"], result["stats_published"])
    ]
    intervals = json.loads(open(paths["evaluation.json"], encoding="utf-8").read())["intervals"]
    want = [f"{low:.4f} to {high:.4f}" for low, high in (intervals["mAP"], intervals["AP50"])]
    assert [row[6] for row in tables.tables["metrics"][1:]] == [*want, *[""] * 10]
    assert tables.tables["classes"][1][5] == "1.0000 to 1.0000"  # cat
    # the address sorts the table by AP50: the script ran in the browser
    assert [row[0] for row in tables.tables["classes"][1:]] == ["cat", "dog", "cow & calf"]
    fifties = [float(row[3]) for row in tables.tables["classes"][1:]]
    assert fifties == sorted(fifties, reverse=True) and fifties[0] == 1.0
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", dom)  # nothing is fetched
    pictures = [base64.b64decode(data) for data in re.findall(r"data:image/\w+;base64,([^\"']+)", dom)]
    assert len(pictures) == 2 + 6  # two charts, every image once
    assert all(cv2.imdecode(np.frombuffer(data, np.uint8), 1) is not None for data in pictures)
