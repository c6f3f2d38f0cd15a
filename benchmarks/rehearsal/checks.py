"""What each stage of `scripts/rehearsal.py` must leave, compared with what was drawn."""

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
    """The results of a rehearsal in a folder. A check gives "" or what is wrong; its argument is a stage's output.

    data: the drawn set; checkpoint: the newest; mount: see `read_only_mount`; before: the data folder's listing.
    """

    def __init__(self, folder: str, scale: float):
        self.folder, self.scale = folder, scale
        self.data = self.path("coco2017")
        self.checkpoint = ""
        self.mount: List[str] = []
        self.before: List[tuple] = []

    def path(self, name: str) -> str:
        """Of a file or folder of the rehearsal."""
        return os.path.join(self.folder, name)

    def predicted(self) -> int:
        """Pictures that predict.py gets."""
        return max(int(round(PREDICTED * self.scale)), 5)

    def _drawn(self) -> dict:
        with open(os.path.join(self.data, "drawn.json"), encoding="utf-8") as handle:
            return json.load(handle)

    def drawn(self, _: str) -> str:
        """The set is there; from here on it is only read."""
        self.mount = running.read_only_mount(self.data)
        if not self.mount:
            running.take_write_permission(self.data)
            print("no read-only mount here: write permission is taken away, and the listing compared", flush=True)
        self.before = running.listing(self.data)
        return ""

    def counts(self, _: str) -> str:
        """check_data.py counts what was drawn."""
        with open(self.path("check.json"), encoding="utf-8") as handle:
            report = json.load(handle)
        for split, drawn in zip(("train", "val"), self._drawn().values()):
            found = {key: report[split].get(key) for key in ("images", "images_with_boxes", "boxes")}
            wanted = {key: drawn[key] for key in found}
            if found != wanted:
                return f"{split}: {found} found, {wanted} drawn"
        return ""

    def _trained(self) -> int:
        return self._drawn()["train2017"]["images_with_boxes"]

    def records(self, output: str) -> str:
        """Every image with a box became a row."""
        wanted = f"{self._trained()} training images"
        return "" if wanted in output else f"the output lacks '{wanted}'"

    def epoch(self, output: str) -> str:
        """Every row of the full batches came."""
        batches = self._trained() // 16
        wanted = f"read {16 * batches} images in {batches} batches"
        return "" if wanted in output else f"the output lacks '{wanted}'"

    def _newest(self) -> str:
        found = glob.glob(os.path.join(glob.escape(self.path("run")), "ckpt_0", "ssd-*.ckpt"))
        return max(found, key=os.path.getmtime, default="")

    def training(self, _: str) -> str:
        """The stopped run left a checkpoint."""
        self.checkpoint = self._newest()
        return "" if self.checkpoint else "no checkpoint was saved"

    def resumed(self, output: str) -> str:
        """The run went on at the next step."""
        epoch, step = map(int, re.findall(r"\d+", os.path.basename(self.checkpoint)))
        wanted = (f"resumed: epoch {epoch}, step {step + 1},", f"resumed: epoch {epoch + 1}, step 1,")
        if not any(line in output for line in wanted):
            return f"the output lacks '{wanted[0]}'"
        again, self.checkpoint = self.checkpoint, self._newest()
        return "" if self.checkpoint != again else "no further checkpoint was saved"

    def evaluation(self, folder: str) -> str:
        """Every image was evaluated, with a detection of every class."""
        with open(os.path.join(self.path(folder), "evaluation.json"), encoding="utf-8") as handle:
            report = json.load(handle)
        images = self._drawn()["val2017"]["images"]
        found, wanted = (report["images"], report["detections"]), (images, CLASSES * images)
        return "" if found == wanted else f"(images, detections) are {found}, not {wanted}"

    def equal(self) -> str:
        """Two processes give the figures of one, up to the last bits of the network: each process has half of the
        threads, and MindSpore adds in another order then."""
        reports = []
        for folder in ("eval_1", "eval_2"):
            with open(os.path.join(self.path(folder), "evaluation.json"), encoding="utf-8") as handle:
                reports.append(json.load(handle)["stats"])
        close = all(math.isclose(one, two, rel_tol=1e-4, abs_tol=1e-6) for one, two in zip(*reports))
        return "" if close else f"one process: {reports[0]}, two: {reports[1]}"

    def file(self, name: str) -> str:
        """It is there."""
        return "" if os.path.isfile(self.path(name)) else f"{name} was not written"

    def predictions(self) -> str:
        """Every picture is listed, with a detection of every class, and drawn."""
        with open(os.path.join(self.path("detections"), "detections.json"), encoding="utf-8") as handle:
            content = json.load(handle)
        found, detections = len(content["images"]), len(content["annotations"])
        if detections != CLASSES * found:
            return f"{detections} detections in {found} pictures, not {CLASSES} in each"
        drawings = len(glob.glob(os.path.join(glob.escape(self.path("detections")), "*.jpg")))
        wanted = self.predicted()
        return "" if found == drawings == wanted else f"{found} pictures and {drawings} drawings, not {wanted}"
