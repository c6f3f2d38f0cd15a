"""The epochs of a run: steps, progress, checkpoints, evaluation, clean stops."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from typing import Callable, Optional

import numpy as np

from src.data.pipeline import TrainingData
from src.training.bn_recalibration import recalibrate
from src.training.checkpoint import Checkpoints
from src.training.curves import CURVES, draw_curves
from src.training.run_files import BEST, HISTORY, list_checkpoints
from src.training.scaled_step import MOST_IN_A_ROW
from src.training.state import RunState
from src.training.summary import Summary
from src.utils.distributed import Ranks
from src.utils.errors import RunError
from src.utils.log import LOGGER, append_json_line, progress, write_or_go_on
from src.utils.memory import release_free_memory
from src.utils.signals import Stop

REPORT_SECONDS = 20


class Trainer:
    """Trains from a state to `cfg.epoch_size`.

    Args:
        step: from `build_train_step`.
        rates: learning rate of every step of the whole run.
        evaluate: gives the mAP of the present weights, or None for no evaluation in training.
        ranks: the processes of the run; rank 0 writes the history.
        stop: the run's signal handlers.
    """

    def __init__(
        self,
        step,
        data: TrainingData,
        rates: np.ndarray,
        cfg,
        checkpoints: Checkpoints,
        evaluate: Optional[Callable[[], float]] = None,
        ranks: Ranks = Ranks(),
        stop: Optional[Stop] = None,
    ):
        self.step, self.data, self.rates, self.cfg = step, data, rates, cfg
        self.checkpoints, self.evaluate, self.ranks, self.stop = checkpoints, evaluate, ranks, stop or Stop()
        self.speaks = ranks.rank == 0
        self.scale = getattr(step, "scale", None)  # a float16 step's `LossScale`
        self.summary = Summary(os.path.join(cfg.output_path, "summary")) if cfg.summary and self.speaks else None

    def run(self, state: RunState) -> RunState:
        """Every epoch that is left; the state at the end.

        Raises:
            RunError: loss or gradient is not finite, in float16 many times in a row; nothing is saved after it. Or a
                checkpoint or the history cannot be written.
            SystemExit: a signal asked for the end; a checkpoint of this very step is saved.
        """
        self.stop.install()
        with self.stop.held():
            self.ranks.wait()  # from here on a signal saves, on every rank
            if self.scale is not None and state.loss_scale:
                self.scale.restore(state.loss_scale)
            LOGGER.info("first step: compiling, seconds to minutes")
            while state.epochs < self.cfg.epoch_size:
                state = self._epoch(state)
        return state

    def _epoch(self, state: RunState) -> RunState:
        # an evaluation, also one that is only built, leaves the weights' cells in evaluation mode
        self.step.set_train()
        clock = _Clock(self.cfg.batch_size * self.ranks.size)
        label = f"epoch {state.epochs + 1}/{self.cfg.epoch_size}"
        batches = self.data.epoch(state.epochs, state.epoch_step)
        with progress(self.data.steps, label, "steps", self.speaks, terminal_only=True) as bar:
            bar.update(state.epoch_step)
            while True:
                batch = next(batches, None)
                if batch is None:
                    break
                clock.fetched()
                state = self._one_step(state, batch)
                clock.stepped()
                if self.ranks.largest(self.stop.status):
                    bar.close()
                    self._leave(state)
                bar.update()
                loss = _mean_loss(state.losses[-1:])["loss"]
                bar.set_postfix_str(f"loss {loss:.3f}, {clock.waiting:.1%} waiting", refresh=False)
                if clock.since_report() > REPORT_SECONDS and bar.disable:
                    self._report(state, clock)
        return self._close(state, clock)

    def _one_step(self, state: RunState, batch: tuple) -> RunState:
        *arrays, ids = batch
        loss = float(self.step(*arrays).asnumpy())
        norm, parts = self.step.norm, [float(part) for part in self.step.parts]
        rate = float(self.rates[state.steps])
        figures = (
            f"loss is {loss}, gradient norm {norm} at epoch {state.epochs + 1}, step {state.epoch_step + 1} "
            f"(learning rate {rate:.6g}, images {ids.asnumpy().ravel().tolist()})"
        )
        if self.scale is not None and self.step.overflowed:
            return self._left_out(state, figures)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise RunError(f"{figures}; {self._saved()}; a smaller --lr usually helps")
        state = replace(state, epoch_step=state.epoch_step + 1, losses=[*state.losses, parts], norm=norm)
        if self.scale is not None:
            state = replace(state, loss_scale=self.scale.state)
        if self.summary is not None:
            scalars = {"loss": loss, "loss_class": parts[0], "loss_box": parts[1], "learning_rate": rate}
            self.summary.add(dict(scalars, gradient_norm=norm), state.steps)
        return state

    def _left_out(self, state: RunState, figures: str) -> RunState:
        """The state after a float16 step that overflowed: its place in the epoch and in the learning rates is used up.

        Raises:
            RunError: it was the last of many in a row.
        """
        if self.scale.in_a_row >= MOST_IN_A_ROW:
            raise RunError(
                f"{figures}: the {self.scale.in_a_row}th step in a row that overflowed in float16, with the loss scale "
                f"down to {self.scale.value:g}; {self._saved()}; a smaller --lr or --use_float16=False usually helps"
            )
        LOGGER.info("%s: overflow in float16, step left out, loss scale now %g", figures, self.scale.value)
        return replace(state, epoch_step=state.epoch_step + 1, loss_scale=self.scale.state)

    def _saved(self) -> str:
        """What can be gone on with, in words."""
        folder = self.checkpoints.folder
        best = os.path.join(folder, BEST)
        saved = list_checkpoints(folder)[-1:] or ([best] if os.path.isfile(best) else [])
        return f"the last good checkpoint is {saved[0]}" if saved else f"no checkpoint has been saved in {folder}"

    def _leave(self, state: RunState) -> None:
        """Save where the run stands and end it with the signal's status, on every rank."""
        path = self.checkpoints.save(self.step, state)
        self.ranks.wait()
        status = self.ranks.largest(self.stop.status)
        LOGGER.info("stopped by a signal after step %d: saved %s; --resume goes on from there", state.steps, path)
        raise SystemExit(status)

    def _close(self, state: RunState, clock: _Clock) -> RunState:
        """The end of an epoch: history, evaluation, checkpoints. A signal in here is heeded when it is over."""
        done, cfg = state.epochs + 1, self.cfg
        record = {
            "epoch": done,
            "steps": state.epoch_step,
            **({key: value if state.losses else None for key, value in _mean_loss(state.losses).items()}),
            "lr": float(self.rates[state.steps - 1]),
            "gradient_norm": state.norm,
            "seconds_a_step": round(clock.seconds_a_step, 4),
            "waiting_seconds_share": round(clock.waiting, 4),
        }
        LOGGER.info("epoch %d/%d: %s", done, cfg.epoch_size, self._figures(state, clock, state.losses))
        release_free_memory()
        if done == cfg.epoch_size and cfg.bn_recalibration_steps:
            batches = recalibrate(
                self.step.forward.network, (batch[0] for batch in self.data.epoch(done)), cfg.bn_recalibration_steps
            )
            LOGGER.info("BN averages taken anew from %d batches", batches)
        finished = replace(state, epochs=done, epoch_step=0, losses=[])
        if self.evaluate is not None and _is_evaluated(done, cfg):
            release_free_memory()
            record["mAP"] = self._evaluated(state)
        release_free_memory()
        # before the checkpoint: a run that goes on from that has this line, and `cut_history` takes away one too many
        if self.speaks:
            append_json_line(os.path.join(cfg.output_path, HISTORY), record)
        if record.get("mAP", -1) > finished.best_map:
            finished = replace(finished, best_map=record["mAP"])
            if cfg.save_best_ckpt:
                LOGGER.info("best mAP so far, saved: %s", self.checkpoints.save_best(self.step, finished))
        if done % cfg.save_checkpoint_epochs == 0 or done == cfg.epoch_size:
            LOGGER.info("saved %s", self.checkpoints.save(self.step, finished))
        if self.summary is not None and "mAP" in record:
            self.summary.add({"mAP": record["mAP"]}, state.steps)
        if self.speaks:
            curves = os.path.join(cfg.output_path, CURVES)
            write_or_go_on(curves, draw_curves, os.path.join(cfg.output_path, HISTORY), curves)
        if done < cfg.epoch_size and self.ranks.largest(self.stop.status):
            self._leave(finished)
        return finished

    def _evaluated(self, state: RunState) -> float:
        """mAP of the present weights. A signal saves the epoch's steps; its evaluation is then made up for."""
        result = self.evaluate(lambda: self.ranks.largest(self.stop.status) > 0)
        if result is None:
            self._leave(state)
        return result

    def _report(self, state: RunState, clock: _Clock) -> None:
        clock.reported()
        steps, epochs = self.data.steps, self.cfg.epoch_size
        left = ((epochs - state.epochs) * steps - state.epoch_step) * clock.seconds_a_step
        LOGGER.info(
            "epoch %d/%d, step %d/%d: %s, %d min %02d s left",
            state.epochs + 1,
            epochs,
            state.epoch_step,
            steps,
            self._figures(state, clock, state.losses[-20:]),
            left // 60,
            left % 60,
        )

    def _figures(self, state: RunState, clock: _Clock, losses: list) -> str:
        mean = _mean_loss(losses)
        return (
            f"loss {mean['loss']:.4f} (classes {mean['loss_class']:.4f}, boxes {mean['loss_box']:.4f}), "
            f"lr {float(self.rates[state.steps - 1]):.5f}, gradient norm {state.norm:.2f}, "
            f"{clock.seconds_a_step:.3f} s a step, {clock.images_a_second:.1f} images/s, "
            f"{clock.waiting:.1%} of it waiting for data"
        )


class _Clock:
    """Where an epoch's time goes: steps, and waiting for their batches. Its first step, which compiles, counts only
    until there is a second one."""

    def __init__(self, images_a_step: int):
        self._images = images_a_step
        self._start = self._mark = self._report = time.time()
        self._waited, self._steps = 0.0, 0

    def fetched(self) -> None:
        """A batch has come."""
        now = time.time()
        self._waited += now - self._mark
        self._mark = now

    def stepped(self) -> None:
        """Its step is done."""
        self._mark = time.time()
        self._steps += 1
        if self._steps == 1:
            self._first = self._mark - self._start, self._waited

    def reported(self) -> None:
        """A line was logged now."""
        self._report = time.time()

    def since_report(self) -> float:
        """Seconds since the last line."""
        return time.time() - self._report

    def _warm(self) -> tuple:
        """(steps, seconds, seconds waited)."""
        if self._steps < 2:
            return max(self._steps, 1), max(self._mark - self._start, 1e-9), self._waited
        seconds, waited = self._first
        return self._steps - 1, max(self._mark - self._start - seconds, 1e-9), self._waited - waited

    @property
    def seconds_a_step(self) -> float:
        """Waiting included."""
        steps, seconds, _ = self._warm()
        return seconds / steps

    @property
    def images_a_second(self) -> float:
        """Of all ranks."""
        return self._images / self.seconds_a_step

    @property
    def waiting(self) -> float:
        """Share of the time that went by until batches came."""
        _, seconds, waited = self._warm()
        return waited / seconds


def _mean_loss(losses: list) -> dict:
    """The loss and its parts over steps, each [classes, boxes]; NaN over none."""
    classes, boxes = (float(part) for part in np.mean(losses, axis=0)) if losses else (math.nan, math.nan)
    return {"loss": classes + boxes, "loss_class": classes, "loss_box": boxes}


def _is_evaluated(done: int, cfg) -> bool:
    if done == cfg.epoch_size:
        return True
    return done >= cfg.eval_start_epoch and (done - cfg.eval_start_epoch) % cfg.eval_interval == 0
