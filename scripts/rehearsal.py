#!/usr/bin/env python3
"""A rehearsal at the size of COCO: runs every program once, on drawn images, with limited resources.

    python3 scripts/rehearsal.py --work DIR [--scale 0.01] [--fill_page_cache] [--keep] [--json FILE]

118,287 + 5,000 images of 64 x 64 with 860,001 + 36,781 boxes are drawn, checked and converted; an epoch of batches is
read; a training is started, stopped and resumed; all 5,000 validation images are evaluated by one process and by two; a
checkpoint is exported; 1,000 images are predicted. The network input is 128 x 128. Every stage may open 256 files, has
no home directory, and must not write to the data folder. Prints a table of seconds and memory. The exit status is 1 if
a stage failed or a process used more than 2 GiB.

--scale reduces the numbers (0.01: a few minutes). --fill_page_cache fills the memory with cached pages before each
stage that loads a checkpoint, as an epoch over COCO does; this slows down other users of the machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import sys
from typing import Callable, List, NamedTuple, Optional

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from benchmarks.rehearsal import run as running  # noqa: E402
from benchmarks.rehearsal.checks import Checks  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.output import write_json  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
CONFIG = os.path.join(ROOT, "config", "ssd_resnet50_fpn_config_cpu.yaml")
LIMIT_MB = 2147  # 2 GiB
FIXED_BYTES, BYTES_AT_FULL_SCALE = 1_400_000_000, 2_200_000_000
LAST_LINES = 12
SIZE = ["--img_shape=[128, 128]", "--feature_extractor_base_param="]
# one detection per class and image with any weights: 400,000 in an evaluation at full size
THRESHOLDS = ["--min_score=0", "--max_boxes=1"]


class Stage(NamedTuple):
    """A command and the check of its result.

    check: output of the command -> "" or what is wrong; needs: stages that must have passed before; stopped: the
    command gets a SIGTERM after some steps; loads: it loads a checkpoint.
    """

    name: str
    words: Callable[[], List[str]]
    check: Callable[[str], str]
    needs: tuple = ()
    stopped: bool = False
    loads: bool = False


class Rehearsal(Checks):
    """Runs all stages; everything is written below one folder.

    rows: the results, one dict per stage.
    """

    def __init__(self, folder: str, scale: float, fill_page_cache: bool):
        super().__init__(folder, scale)
        self.fill_page_cache = fill_page_cache
        self.logs, self.cwd = self.path("logs"), self.path("cwd")
        self.rows: List[dict] = []

    def _in(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _program(self, name: str, *more: str) -> List[str]:
        return [sys.executable, os.path.join(ROOT, name), f"--config_path={CONFIG}", f"--data_path={self.folder}",
                "--coco_root=coco2017", f"--mindrecord_dir={self.path('records')}", *SIZE, *more]  # fmt: skip

    def stages(self) -> List[Stage]:
        """All stages in their order."""
        train = ["train.py", "--batch_size=4", "--lr=0.001", "--epoch_size=100", f"--output_path={self.path('run')}"]
        train += THRESHOLDS  # predict.py takes them from the run
        evaluate = ["eval.py", *THRESHOLDS, "--batch_size=16"]
        several = ["--run_distribute=True", "--device_num=2"]
        return [
            Stage(
                "draw",
                lambda: [
                    sys.executable,
                    f"{ROOT}/benchmarks/rehearsal/data.py",
                    "draw",
                    self.data,
                    "--scale",
                    str(self.scale),
                ],
                self.drawn,
            ),
            Stage(
                "check_data.py",
                lambda: self._program("scripts/check_data.py", f"--json={self.path('check.json')}"),
                self.counts,
                ("draw",),
            ),
            Stage(
                "train.py --only_create_dataset",
                lambda: self._program("train.py", "--only_create_dataset=True"),
                self.records,
                ("draw",),
            ),
            Stage(
                "pipeline, one epoch",
                lambda: [
                    sys.executable,
                    f"{ROOT}/benchmarks/rehearsal/data.py",
                    "read",
                    *self._program("", "--batch_size=16")[2:],
                ],
                self.epoch,
                ("train.py --only_create_dataset",),
            ),
            Stage("train.py", lambda: self._program(*train), self.training, ("draw",), stopped=True),
            Stage(
                "train.py --resume",
                lambda: self._program(*train, "--resume"),
                self.resumed,
                ("train.py",),
                stopped=True,
                loads=True,
            ),
            Stage(
                "eval.py",
                lambda: self._program(
                    *evaluate, f"--checkpoint_file_path={self.checkpoint}", f"--output_path={self.path('eval_1')}"
                ),
                lambda output: self.evaluation("eval_1"),
                ("train.py",),
                loads=True,
            ),
            Stage(
                "eval.py, 2 ranks",
                lambda: [
                    *(self._mpirun()),
                    *self._program(
                        *evaluate,
                        *several,
                        f"--checkpoint_file_path={self.checkpoint}",
                        f"--output_path={self.path('eval_2')}",
                    ),
                ],
                lambda output: self.evaluation("eval_2") or self.equal(),
                ("eval.py",),
                loads=True,
            ),
            *(
                Stage(
                    f"export.py, {kind}",
                    lambda kind=kind: self._program(
                        "export.py",
                        "--batch_size=1",
                        f"--checkpoint_file_path={self.checkpoint}",
                        f"--file_name={self.path('model')}",
                        f"--file_format={kind}",
                    ),
                    lambda output, kind=kind: self.file(f"model.{kind.lower()}"),
                    ("train.py",),
                    loads=True,
                )
                for kind in ("MINDIR", "ONNX")
            ),
            Stage("predict.py", self._predict, lambda output: self.predictions(), ("train.py",), loads=True),
        ]

    def _mpirun(self) -> List[str]:
        candidate = os.path.join(os.path.dirname(sys.executable), "mpirun")
        found = candidate if os.path.exists(candidate) else shutil.which("mpirun")
        if not found:
            raise LookupError("mpirun not found")
        return [found, "-allow-run-as-root", "-n", "2"]

    def _predict(self) -> List[str]:
        pictures = self.path("pictures")
        os.makedirs(pictures)
        names = sorted(os.listdir(os.path.join(self.data, "train2017")))[: self.predicted()]
        for name in names:
            shutil.copy(os.path.join(self.data, "train2017", name), pictures)
        words = [sys.executable, f"{HERE}/predict.py", f"--model={self.checkpoint}", pictures]
        return [*words, f"--output={self.path('detections')}"]

    def run(self) -> None:
        """Run all stages; the results are in `rows`."""
        for folder in (self.logs, self.cwd):
            os.makedirs(folder)
        for number, stage in enumerate(self.stages(), 1):
            row = self._row(stage, os.path.join(self.logs, f"{number:02d}.log"))
            self.rows.append(row)
            peak = "" if row["peak_mb"] is None else f"{row['seconds']:.0f} s, {row['peak_mb']:.0f} MB: "
            print(f"{row['stage']}: {peak}{row['status']}", flush=True)
            for line in row.pop("last_lines"):
                print(f"    {line}", flush=True)

    def _row(self, stage: Stage, log: str) -> dict:
        row = {"stage": stage.name, "seconds": None, "peak_mb": None, "process": "", "status": "", "last_lines": []}
        failed = {done["stage"] for done in self.rows if done["status"].startswith(("FAILED", "not run"))}
        over = {done["stage"] for done in self.rows if done["status"].startswith("FAILED: used")}
        missing = [name for name in stage.needs if name in failed - over]
        if missing:
            return dict(row, status=f"not run: needs {missing[0]}")
        try:
            words = stage.words()
        except LookupError as error:
            return dict(row, status=f"not run: {error}")
        done = self._run(stage, words, log)
        reason = self._reason(stage, done)
        last = [line for line in done.output.splitlines() if line.strip()][-LAST_LINES:] if reason else []
        return dict(
            row, seconds=round(done.seconds, 1), peak_mb=round(done.peak_mb), process=done.largest,
            status=f"FAILED: {reason}" if reason else "ok", last_lines=last,
        )  # fmt: skip

    def _run(self, stage: Stage, words: List[str], log: str) -> running.Finished:
        environment = running.limited_environment(
            OMPI_MCA_rmaps_base_oversubscribe="1", PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe"
        )
        if stage.name != "draw":
            words = [*self.mount, *words]
        stop_when = _has_trained if stage.stopped else None
        if not (stage.loads and self.fill_page_cache):
            return running.run(words, self.cwd, log, environment, stop_when)
        with running.full_page_cache(self.folder) as free:
            if free > running.STARVED:
                print(f"{stage.name}: the page cache is not full, {free >> 20} MB are still free", flush=True)
            return running.run(words, self.cwd, log, environment, stop_when)

    def _reason(self, stage: Stage, done: running.Finished) -> str:
        """Why a stage failed, "" if it passed."""
        if done.status not in ((0, 143) if stage.stopped else (0,)):
            return f"exit status {done.status}"
        try:
            wrong = stage.check(done.output)
        except (OSError, ValueError, LookupError, TypeError) as error:
            wrong = f"its result cannot be read ({type(error).__name__}: {error})"
        if wrong:
            return wrong
        if self.before and running.listing(self.data) != self.before:
            return "it changed the data folder"
        if "Traceback (most recent call last)" in done.output:
            return "a traceback in its output"
        return f"used {done.peak_mb:.0f} MB, more than {LIMIT_MB}" if done.peak_mb > LIMIT_MB else ""

    def clean(self) -> None:
        """Remove the folder."""
        if os.path.isdir(self.data):
            running.give_write_permission(self.data)
        shutil.rmtree(self.folder, ignore_errors=True)


def _has_trained(output: str) -> bool:
    """Whether a training has logged its progress twice, so that it has compiled and done some steps."""
    return len(re.findall(r"epoch \d+/\d+, step \d+/\d+:|epoch \d+/\d+: loss", output)) >= 2


def table(rows: List[dict]) -> str:
    """The result as a Markdown table."""
    lines = ["| stage | seconds | peak MB of the largest process | status |", "| --- | --- | --- | --- |"]
    for row in rows:
        seconds, peak = ("-" if row[key] is None else f"{row[key]:.0f}" for key in ("seconds", "peak_mb"))
        lines.append(f"| {row['stage']} | {seconds} | {peak} | {row['status']} |")
    return "\n".join(lines)


def needed_bytes(scale: float) -> int:
    """Disk space that a rehearsal needs: a constant part (checkpoints, exports), and one that grows with the images."""
    return int(FIXED_BYTES + BYTES_AT_FULL_SCALE * scale)


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, metavar="DIR", help="a folder 'rehearsal' is created in it")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the numbers (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the folder at the end")
    parser.add_argument(
        "--fill_page_cache", action="store_true", help="fill the page cache before each stage that loads a checkpoint"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to a JSON file")
    options = parser.parse_args(argv)
    if not 0 < options.scale <= 1:
        raise UserError(f"--scale must lie in (0, 1], got {options.scale}")
    return options


def _leave(number: int, _: Optional[object]) -> None:
    raise SystemExit(128 + number)


def main(argv) -> int:
    options = parse(argv)
    if not os.path.exists("/proc/meminfo"):
        raise UserError("the rehearsal needs Linux: it limits and measures processes through /proc")
    folder = os.path.join(os.path.abspath(options.work), "rehearsal")
    if os.path.exists(folder):
        raise UserError(f"--work: {folder} exists (from another rehearsal?); remove it or name another folder")
    needed, free = needed_bytes(options.scale), running.free_bytes(folder)
    print(f"{needed / 1e9:.1f} GB of disk are needed in {folder}, {free / 1e9:.1f} GB are free", flush=True)
    if needed > free:
        raise UserError(f"--work: {folder} has {free} bytes free, {needed} are needed; name another folder")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    rehearsal = Rehearsal(folder, options.scale, options.fill_page_cache)
    try:
        try:
            os.makedirs(folder)
        except OSError as error:
            raise UserError(f"--work: cannot write to {folder}: {error.strerror}") from None
        rehearsal.run()
    finally:
        if options.keep:
            print(f"kept: {folder}", flush=True)
        else:
            rehearsal.clean()
    print("\n" + table(rehearsal.rows))
    if options.json:
        content = {"scale": options.scale, "page_cache_filled": options.fill_page_cache, "limit_mb": LIMIT_MB}
        machine = {"cores": os.cpu_count(), "memory_bytes": running.memory_info()["MemTotal"]}
        write_json(options.json, dict(content, python=platform.python_version(), **machine, stages=rehearsal.rows), 1)
    bad = [row["stage"] for row in rehearsal.rows if row["status"].startswith("FAILED")]
    print(f"\n{'FAILED: ' + ', '.join(bad) if bad else 'passed'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
