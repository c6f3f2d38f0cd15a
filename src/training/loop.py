"""The epochs of a run: steps, progress, checkpoints, evaluation."""

from __future__ import annotations

import math
import os
import time
from typing import Callable, Optional

import numpy as np

from src.data.pipeline import TrainingData
from src.errors import RunError
from src.log import LOGGER, append_json_line
from src.training.checkpoint import Checkpoints
from src.training.recalibrate import recalibrate

REPORT_SECONDS = 20


def train(
    step,
    data: TrainingData,
    rates: np.ndarray,
    cfg,
    checkpoints: Checkpoints,
    first_epoch: int,
    best_map: float,
    evaluate: Optional[Callable[[], float]] = None,
    speaks: bool = True,
) -> float:
    """Train from `first_epoch` (epochs already done) to `cfg.epoch_size`.

    Args:
        step: from `build_train_step`.
        rates: learning rate of every step of the whole run.
        evaluate: gives the mAP of the present weights, or None for no evaluation in training.
        speaks: this rank writes the history.

    Returns:
        The best mAP, -1 where nothing was evaluated.

    Raises:
        RunError: the loss is not finite; nothing is saved after it.
    """
    summary = _summary_writer(cfg) if cfg.summary and speaks else None
    for epoch in range(first_epoch, cfg.epoch_size):
        started = reported = time.time()
        losses = []
        for images, gt_loc, gt_label, num_match, ids in data.epoch(epoch):
            value = float(step(images, gt_loc, gt_label, num_match).asnumpy())
            at = epoch * data.steps + len(losses)
            if not math.isfinite(value):
                raise RunError(
                    f"loss is {value} at epoch {epoch + 1}, step {len(losses) + 1} (learning rate "
                    f"{rates[min(at, len(rates) - 1)]:.6g}, images {ids.asnumpy().ravel().tolist()}); the last good "
                    f"checkpoint is in {checkpoints.folder}; a smaller --lr usually helps"
                )
            losses.append(value)
            if summary is not None:
                summary.add_scalar("loss", value, at + 1)
                summary.add_scalar("learning_rate", float(rates[at]), at + 1)
            if time.time() - reported > REPORT_SECONDS:
                reported = time.time()
                _report(epoch, losses, data.steps, cfg.epoch_size, rates[at], (reported - started) / len(losses))
        seconds = (time.time() - started) / max(len(losses), 1)
        done = epoch + 1
        record = {
            "epoch": done,
            "steps": len(losses),
            "loss": float(np.mean(losses)),
            "lr": float(rates[at]),
            "seconds_a_step": round(seconds, 4),
        }
        LOGGER.info(
            "epoch %d/%d: loss %.4f, lr %.5f, %.3f s a step",
            done,
            cfg.epoch_size,
            record["loss"],
            record["lr"],
            seconds,
        )
        if done == cfg.epoch_size and cfg.bn_recalibration_steps:
            batches = recalibrate(
                step.forward.network, (batch[0] for batch in data.epoch(done)), cfg.bn_recalibration_steps
            )
            LOGGER.info("BN averages taken anew from %d batches", batches)
        if evaluate is not None and _is_evaluated(done, cfg):
            record["mAP"] = evaluate()
            step.set_train()
            if record["mAP"] > best_map:
                best_map = record["mAP"]
                if cfg.save_best_ckpt:
                    LOGGER.info("best mAP so far, saved: %s", checkpoints.save_best(step, done, data.steps, best_map))
        if done % cfg.save_checkpoint_epochs == 0 or done == cfg.epoch_size:
            LOGGER.info("saved %s", checkpoints.save(step, done, data.steps, best_map))
        if summary is not None and "mAP" in record:
            summary.add_scalar("mAP", record["mAP"], at + 1)
        if speaks:
            append_json_line(os.path.join(cfg.output_path, "history.jsonl"), record)
    if summary is not None:
        summary.close()
    return best_map


def _summary_writer(cfg):
    """TensorBoard files in `output_path/summary`."""
    from tensorboardX import SummaryWriter

    return SummaryWriter(os.path.join(cfg.output_path, "summary"))


def _is_evaluated(done: int, cfg) -> bool:
    if done == cfg.epoch_size:
        return True
    return done >= cfg.eval_start_epoch and (done - cfg.eval_start_epoch) % cfg.eval_interval == 0


def _report(epoch: int, losses: list, steps: int, epochs: int, rate: float, seconds: float) -> None:
    left = (steps - len(losses) + (epochs - epoch - 1) * steps) * seconds
    LOGGER.info(
        "epoch %d/%d, step %d/%d: loss %.4f, lr %.5f, %.3f s a step, %d min %02d s left",
        epoch + 1,
        epochs,
        len(losses),
        steps,
        float(np.mean(losses[-20:])),
        rate,
        seconds,
        left // 60,
        left % 60,
    )
