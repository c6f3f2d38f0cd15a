#!/usr/bin/env python3
"""Evaluate a model: python3 eval.py --config_path ... --checkpoint_file_path output/ckpt_0/best_map.ckpt

A MINDIR or ONNX file of export.py is evaluated in the same way: --checkpoint_file_path ssd.onnx
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

from src.config import checkpoint_file, load_config, log_notes
from src.utils.device import check_launch, init_device, prepare_environment
from src.utils.errors import run_main
from src.utils.locks import hold_folder
from src.utils.log import LOGGER, setup_logging, write_or_go_on
from src.utils.output import ensure_writable


def main(argv) -> int:
    with contextlib.ExitStack() as locks:
        return evaluate(argv, locks)


def evaluate(argv, locks: contextlib.ExitStack) -> int:
    cfg = load_config(argv)
    check_launch(cfg)
    checkpoint = checkpoint_file(cfg)
    setup_logging()
    prepare_environment()
    comm = init_device(cfg)
    setup_logging(None, comm.rank, comm.size)
    if comm.rank == 0:
        log_notes(cfg, LOGGER.warning)

    from src.data.pipeline import image_reader
    from src.data.records import prepare_records
    from src.evaluation.evaluate import build_evaluator, collect_detections
    from src.evaluation.limits import limits_line
    from src.evaluation.metrics_table import format_table, threshold_line
    from src.evaluation.report import write_report
    from src.inference.open_model import open_model

    detector = open_model(checkpoint, cfg)  # before anything is written, so that a wrong file has no effect
    ensure_writable(cfg.output_path, "output_path")
    if comm.rank == 0:
        locks.enter_context(hold_folder(cfg.output_path, "evaluation"))
    comm.barrier()
    records = prepare_records(cfg, is_training=False, comm=comm)
    evaluator = build_evaluator(records, cfg)
    LOGGER.info("evaluating %s on %d images", checkpoint, records.count)
    start = time.perf_counter()
    collect_detections(detector, records, cfg, evaluator, comm)
    max_score = max(comm.all_gather(float(detector.max_score)))  # each rank has a part of the images
    detected = time.perf_counter()
    if comm.rank > 0:
        comm.barrier()
        return 0
    predictions = os.path.join(cfg.output_path, "predictions.json")
    saved = write_or_go_on(predictions, evaluator.save, predictions)
    reached = limits_line(evaluator.arrays(), records.count, cfg.max_boxes)
    if reached:
        LOGGER.info("%s", reached)
    result = evaluator.summarize()
    scored = time.perf_counter()
    LOGGER.info("detection took %.1f s, saving and scoring %.1f s", detected - start, scored - detected)
    paths, why = write_report(evaluator, result, image_reader(records), cfg.output_path, checkpoint, max_score)
    # printed last: if nobody reads stdout any more, the files are complete
    lines = [format_table(result), f"mAP: {result['mAP']:.6f}"]
    lines.append(f"mAP, published protocol: {result['mAP_published']:.6f}")
    best = threshold_line(evaluator.score_thresholds())
    lines += [best] if best else []
    if why:
        lines.append("\n  ".join(["why the mAP is close to zero:", *why]))
    if saved:
        lines.append(f"detections: {os.path.abspath(predictions)}")
    if "report.html" in paths:
        lines.append(f"report: {os.path.abspath(paths['report.html'])} (metrics: evaluation.json, evaluation.csv)")
    print("\n".join(lines))
    comm.barrier()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
