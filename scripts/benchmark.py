#!/usr/bin/env python3
"""Measure the speed of the parts, each compared with a straightforward implementation ("plain") in the same run.

    python3 scripts/benchmark.py [PART ...] [--json FILE]

--help lists the parts. Without names, all parts except growth and family are measured. Run nothing else at the same
time. If --torch names a Python with PyTorch, `step` and `family` compare with it. --work is a folder for drawn data
(600 MB for all parts).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
import numpy as np  # noqa: E402

from benchmarks import baselines  # noqa: E402
from benchmarks.data import (  # noqa: E402
    coco_folder,
    forget_peak,
    ground_truth,
    memory,
    network_output,
)
from benchmarks.prediction import measure_drawing, measure_prediction  # noqa: E402
from benchmarks.processes import measure_family, measure_growth, measure_start, measure_step  # noqa: E402
from benchmarks.scoring import measure_scoring  # noqa: E402
from src.boxes.default_boxes import build_default_boxes, default_boxes  # noqa: E402
from src.boxes.matcher import Matcher  # noqa: E402
from src.boxes.postprocess import postprocess  # noqa: E402
from src.config import load_config  # noqa: E402
from src.data.images import check_image  # noqa: E402
from src.data.transforms import encode_matches, encode_targets  # noqa: E402
from src.utils.device import prepare_environment  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.log import setup_logging  # noqa: E402
from src.utils.output import (
    ensure_writable,  # noqa: E402
    write_json,  # noqa: E402
)

SCALING = (0.1, 0.2)


class Table:
    """The results, printed row by row."""

    def __init__(self):
        self.rows = []

    def add(self, part: str, unit: str, ours: float, plain_way=None, note: str = "") -> None:
        """Add a row. `plain_way` is the result of the plain implementation in the same unit. The ratio is above 1 if
        ours is better: a higher rate (unit "/s"), or less of any other unit."""
        ratio = None
        if plain_way:
            ratio = ours / plain_way if unit.endswith("/s") else plain_way / ours
        self.rows.append({"part": part, "unit": unit, "ours": ours, "plain": plain_way, "times": ratio, "note": note})
        values = f"{ours:>10.3f} {plain_way:>10.2f} {ratio:>9.2f}x" if plain_way else f"{ours:>10.3f} {'':>10} {'':>10}"
        print(f"{part:44}{unit:>10}{values}  {note}", flush=True)


def best_time(function, cases: list, repeats: int = 5) -> float:
    """Milliseconds per case, from the fastest of several passes: other programs can only slow a pass down."""
    passes = []
    for _ in range(repeats):
        start = time.perf_counter()
        for case in cases:
            function(*case)
        passes.append(time.perf_counter() - start)
    return 1000 * min(passes) / len(cases)


def measure_matching(table: Table, options) -> None:
    """Matching and encoding of the targets of an image of 640 x 640 as in training: one `Matcher` for all images."""
    defaults, rng = default_boxes((640, 640)), np.random.default_rng(0)
    matcher = Matcher(*defaults, 0.5)

    def encode(gt, *_):
        return encode_matches([gt], matcher, SCALING)

    for count in (1, 7, 30, 90):
        cases = [(ground_truth(rng, count), *defaults, 0.5, SCALING) for _ in range(40)]
        for case in cases[:5]:
            for ours, theirs in zip(encode_targets(*case), baselines.encode(*case)):
                assert np.array_equal(ours, theirs), "the targets differ"
        ours, theirs = best_time(encode, cases), best_time(baselines.encode, cases[:5], 3)
        table.add(f"matching and encoding, {count} boxes", "ms", ours, theirs)


def measure_postprocessing(table: Table, options) -> None:
    """Post-processing of an image: 51150 boxes with 81 scores each."""
    for stage, plain_images in (("trained", 5), ("early in training", 3), ("untrained", 1)):
        cases = [
            (*network_output(seed, stage), (480, 640), 0.1, 0.6, 100) for seed in range(5 if plain_images > 1 else 2)
        ]
        boxes, scores, labels = postprocess(*cases[0])
        theirs = baselines.postprocess(*cases[0])
        assert len(boxes) == len(theirs)
        assert np.array_equal(np.column_stack([boxes, scores, labels]), np.array(theirs)), "the detections differ"
        ours = best_time(postprocess, cases, 3)
        table.add(
            f"post-processing, {stage}",
            "ms",
            ours,
            best_time(baselines.postprocess, cases[:plain_images], 1),
            f"{len(boxes)} detections",
        )


def consumed(batches, warm_up: int, most: int, bytes_of=None) -> tuple:
    """(images per second at the consumer after `warm_up` batches, bytes per image that it receives)."""
    count = size = 0
    start = time.perf_counter()
    for number, batch in enumerate(batches):
        if number == warm_up:
            start, count = time.perf_counter(), 0
        count += batch[0].shape[0]
        size = sum(part.nbytes for part in (bytes_of(batch) if bytes_of else batch)) / batch[0].shape[0]
        if number == warm_up + most:
            break
    return count / (time.perf_counter() - start), size


def measure_pipeline(table: Table, options) -> None:
    """Training batches of 16 at 640 x 640 from photos of 126 KB with 8 boxes, measured at the consumer."""
    from src.data.pipeline import TrainLoader
    from src.data.records import prepare_records
    from src.data.targets import pack_matches
    from src.utils.device import init_device

    cfg = coco_config(options.work, 640)
    init_device(cfg)
    records = prepare_records(cfg, is_training=True)
    data = TrainLoader(records, cfg)
    ours, theirs = [], []
    for epoch in range(5):  # alternately: the speed of the machine varies
        ours.append(consumed(data.epoch(epoch), 4, 34)[0])
        batches = baselines.training_batches(records.files[0], cfg, build_default_boxes(cfg))
        rate, their_bytes = consumed(([b.asnumpy() for b in batch] for batch in batches), 4, 34)
        del batches  # its threads would continue
        theirs.append(rate)
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    _, our_bytes = consumed(data.numpy_batches(0), 0, 2, lambda b: [b[0], *pack_matches(b[1]), b[2]])
    cores = os.cpu_count() or 1
    note = f"{ours / cores:.0f} per core; 8 devices with 2 cores each: {8 * 2 * ours / cores:.0f}"
    table.add("pipeline to the device, batch 16", "images/s", ours, theirs, note)
    table.add("sent to the device, per image", "MB", our_bytes / 1e6, their_bytes / 1e6)


def measure_conversion(table: Table, options) -> None:
    """Images -> MindRecord, with every image decoded; files are in the page cache."""
    from src.data.readers import read_dataset
    from src.data.records import prepare_records

    cfg = coco_config(options.work, 640)
    data = read_dataset(cfg, True)
    contents = []
    for sample in data.samples:
        with open(sample.path, "rb") as handle:
            contents.append(handle.read())
    forget_peak()
    rates, before = [], memory("VmRSS")
    for _ in range(2):
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            cfg.mindrecord_dir = folder + "/records"
            start = time.perf_counter()
            prepare_records(cfg, is_training=True)
            rates.append(len(data.samples) / (time.perf_counter() - start))
    grown = memory() - before
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        start = time.perf_counter()
        baselines.convert(data.samples[:200], folder + "/ssd.mindrecord")
        theirs = 200 / (time.perf_counter() - start)
    note = f"decoding alone, on all cores: {decoding_rate(contents):.0f}; peak memory +{grown >> 20} MB"
    table.add("conversion, decoding checked", "images/s", max(rates), theirs, note)


def decoding_rate(contents: list) -> float:
    """Image files per second that `check_image` checks on all cores: the upper limit of a conversion that decodes."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        start = time.perf_counter()
        list(pool.map(check_image, contents))
        return len(contents) / (time.perf_counter() - start)


def coco_config(work: str, size: int):
    """The GPU configuration on the drawn photos."""
    coco_folder(work)
    return load_config(
        [
            f"--data_path={work}",
            "--coco_root=photos",
            f"--img_shape=[{size}, {size}]",
            "--device_target=CPU",
            "--batch_size=16",
        ]
    )


PARTS = {
    "matching": measure_matching,
    "postprocessing": measure_postprocessing,
    "drawing": measure_drawing,
    "pipeline": measure_pipeline,
    "conversion": measure_conversion,
    "scoring": measure_scoring,
    "growth": measure_growth,
    "prediction": measure_prediction,
    "step": measure_step,
    "family": measure_family,
    "start": measure_start,
}


def main(argv) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--json", metavar="FILE", help="also write the results to a JSON file")
    parser.add_argument(
        "--work",
        default=os.path.join(tempfile.gettempdir(), "ssd_benchmark"),
        metavar="DIR",
        help="folder for drawn data (default: %(default)s)",
    )
    parser.add_argument("--size", type=int, default=128, help="network size for `prediction` (default: %(default)s)")
    parser.add_argument(
        "--pictures", type=int, default=200, metavar="N", help="pictures for `prediction` (default: %(default)s)"
    )
    parser.add_argument(
        "--torch", metavar="PYTHON", help="a Python that has torch, to compare `step` and `family` with"
    )
    options = parser.parse_args(argv)
    if os.name == "nt":
        raise UserError("the benchmark needs Linux or macOS: Windows measures no memory as it does")
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        raise UserError(f"unknown part '{unknown[0]}'; the parts are {', '.join(PARTS)}")
    if options.pictures < 2 or options.size < 1:
        raise UserError("--pictures must be at least 2, and --size at least 1")
    if options.json and os.path.isdir(options.json):
        raise UserError(f"--json: {options.json} is a folder; name the file to write")
    if options.json:
        ensure_writable(os.path.dirname(os.path.abspath(options.json)), "json")
    ensure_writable(options.work, "work")
    setup_logging()
    prepare_environment()
    table = Table()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'':44}{'':>10}{'ours':>10} {'plain':>10} {'':>10}")
    for part in options.parts or [name for name in PARTS if name not in ("growth", "family")]:
        PARTS[part](table, options)
    if options.json:
        results = {"cores": os.cpu_count(), "python": platform.python_version(), "rows": table.rows}
        write_json(options.json, results, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
