"""Checks of the results of `scripts/rehearsal.py`, stage by stage, against the data that was drawn."""

from __future__ import annotations

import glob
import json
import math
import os
import re
from typing import List

from benchmarks.rehearsal import run as running

PREDICTED = 1000
CLASSES = 80


class Checks:
    """Checks of the results of a rehearsal in a folder. A check takes the output of its stage and returns "" or what is
    wrong.

    data: folder of the drawn set; checkpoint: path of the newest one; mount: see `read_only_mount`; before: listing of
    the data folder after it was drawn.
    """

    def __init__(self, folder: str, scale: float):
        self.folder, self.scale = folder, scale
        self.data = self.path("coco2017")
        self.checkpoint = ""
        self.mount: List[str] = []
        self.before: List[tuple] = []

    def path(self, name: str) -> str:
        """Path of a file or folder of the rehearsal."""
        return os.path.join(self.folder, name)

    def predicted(self) -> int:
        """Number of images for predict.py."""
        return max(int(round(PREDICTED * self.scale)), 5)

    def _drawn(self) -> dict:
        with open(os.path.join(self.data, "drawn.json"), encoding="utf-8") as handle:
            return json.load(handle)

    def drawn(self, _: str) -> str:
        """Make the data folder read-only."""
        self.mount = running.read_only_mount(self.data)
        if not self.mount:
            running.take_write_permission(self.data)
            print("no read-only mount here: write permission is removed instead, and listings are compared", flush=True)
        self.before = running.listing(self.data)
        return ""

    def counts(self, _: str) -> str:
        """check_data.py counts the images and boxes that were drawn."""
        with open(self.path("check.json"), encoding="utf-8") as handle:
            report = json.load(handle)
        for split, drawn in zip(("train", "val"), self._drawn().values()):
            found = {key: report[split].get(key) for key in ("images", "images_with_boxes", "boxes")}
            expected = {key: drawn[key] for key in found}
            if found != expected:
                return f"{split}: {found} found, {expected} drawn"
        return ""

    def _trained(self) -> int:
        return self._drawn()["train2017"]["images_with_boxes"]

    def records(self, output: str) -> str:
        """Every image with a box was converted."""
        expected = f"{self._trained()} training images"
        return "" if expected in output else f"the output lacks '{expected}'"

    def epoch(self, output: str) -> str:
        """All full batches were read."""
        batches = self._trained() // 16
        expected = f"read {16 * batches} images in {batches} batches"
        return "" if expected in output else f"the output lacks '{expected}'"

    def _newest(self) -> str:
        found = glob.glob(os.path.join(glob.escape(self.path("run")), "ckpt_0", "ssd-*.ckpt"))
        return max(found, key=os.path.getmtime, default="")

    def training(self, _: str) -> str:
        """The stopped run saved a checkpoint."""
        self.checkpoint = self._newest()
        return "" if self.checkpoint else "no checkpoint was saved"

    def resumed(self, output: str) -> str:
        """The run continued at the next step and saved another checkpoint."""
        epoch, step = map(int, re.findall(r"\d+", os.path.basename(self.checkpoint)))
        expected = (f"resumed: epoch {epoch}, step {step + 1},", f"resumed: epoch {epoch + 1}, step 1,")
        if not any(line in output for line in expected):
            return f"the output lacks '{expected[0]}'"
        before, self.checkpoint = self.checkpoint, self._newest()
        return "" if self.checkpoint != before else "no further checkpoint was saved"

    def evaluation(self, folder: str) -> str:
        """Every image was evaluated, with a detection of every class."""
        with open(os.path.join(self.path(folder), "evaluation.json"), encoding="utf-8") as handle:
            report = json.load(handle)
        images = self._drawn()["val2017"]["images"]
        found, expected = (report["images"], report["detections"]), (images, CLASSES * images)
        return "" if found == expected else f"(images, detections) are {found}, not {expected}"

    def equal(self) -> str:
        """Two processes give the same metrics as one, up to rounding in the network: each process has half of the
        threads, and with another number of threads MindSpore adds in another order."""
        reports = []
        for folder in ("eval_1", "eval_2"):
            with open(os.path.join(self.path(folder), "evaluation.json"), encoding="utf-8") as handle:
                reports.append(json.load(handle)["stats"])
        close = all(math.isclose(one, two, rel_tol=1e-4, abs_tol=1e-6) for one, two in zip(*reports))
        return "" if close else f"one process: {reports[0]}, two: {reports[1]}"

    def file(self, name: str) -> str:
        """The file was written."""
        return "" if os.path.isfile(self.path(name)) else f"{name} was not written"

    def predictions(self) -> str:
        """Every image is listed, with a detection of every class, and has a drawing."""
        with open(os.path.join(self.path("detections"), "detections.json"), encoding="utf-8") as handle:
            content = json.load(handle)
        found, detections = len(content["images"]), len(content["annotations"])
        if detections != CLASSES * found:
            return f"{detections} detections in {found} pictures, not {CLASSES} in each"
        drawings = len(glob.glob(os.path.join(glob.escape(self.path("detections")), "*.jpg")))
        expected = self.predicted()
        return "" if found == drawings == expected else f"{found} pictures and {drawings} drawings, not {expected}"
