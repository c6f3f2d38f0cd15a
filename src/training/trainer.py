"""The training loop: steps, progress, checkpoints, evaluation, stopping at a signal."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import replace
from typing import Callable, List, NamedTuple, Optional

import numpy as np
from mindspore import Tensor

from src.data.pipeline import TrainLoader
from src.training.bn_recalibration import recalibrate
from src.training.checkpoint import Checkpoints
from src.training.curves import CURVES, draw_curves
from src.training.run_files import BEST, HISTORY, list_checkpoints
from src.training.scaled_step import MOST_IN_A_ROW
from src.training.state import RunState
from src.training.step_timer import StepTimer
from src.training.summary import Summary
from src.utils.distributed import Communicator
from src.utils.errors import RunError
from src.utils.log import LOGGER, append_json_line, progress, write_or_go_on
from src.utils.memory import release_free_memory
from src.utils.signals import SignalGuard

REPORT_SECONDS = 20


class _Launched(NamedTuple):
    """A step whose metrics have not been read yet."""

    metrics: Tensor
    ids: Tensor
    overflowed: bool
    loss_scale: List[float]


class Trainer:
    """Trains from a state up to epoch `cfg.epoch_size`.

    Args:
        step: from `build_train_step`.
        rates: learning rate of every step of the run.
        evaluate: called with a function that says whether to stop; returns the mAP of the current weights, or None if
            it stopped. None: no evaluation during training.
        comm: communication between the processes of the run; rank 0 writes the history.
        stop: signal handlers of the run.
    """

    def __init__(
        self,
        step,
        data: TrainLoader,
        rates: np.ndarray,
        cfg,
        checkpoints: Checkpoints,
        evaluate: Optional[Callable[[Callable[[], bool]], Optional[float]]] = None,
        comm: Communicator = Communicator(),
        stop: Optional[SignalGuard] = None,
    ):
        self.step, self.data, self.rates, self.cfg = step, data, rates, cfg
        self.checkpoints, self.evaluate, self.comm, self.stop = checkpoints, evaluate, comm, stop or SignalGuard()
        self.is_main = comm.rank == 0
        self.scale = getattr(step, "scale", None)  # a float16 step's `LossScale`
        self.summary = Summary(os.path.join(cfg.output_path, "summary")) if cfg.summary and self.is_main else None

    def run(self, state: RunState) -> RunState:
        """Train all remaining epochs; returns the final state.

        Raises:
            RunError: loss or gradient is not finite (in float16: many times in a row), and nothing is saved after that
                step; or a checkpoint or the history cannot be written.
            SystemExit: a signal came; a checkpoint of the last step is saved.
        """
        self.stop.install()
        with self.stop.deferred():
            self.comm.barrier()  # from here on a signal saves a checkpoint, on every rank
            if self.scale is not None and state.loss_scale:
                self.scale.restore(state.loss_scale)
            LOGGER.info("first step: compiling, seconds to minutes")
            while state.epochs < self.cfg.epoch_size:
                state = self._epoch(state)
        return state

    def _epoch(self, state: RunState) -> RunState:
        # an evaluation, even if only built, leaves the cells of the model in evaluation mode
        self.step.set_train()
        clock = StepTimer(self.cfg.batch_size * self.comm.size)
        label = f"epoch {state.epochs + 1}/{self.cfg.epoch_size}"
        batches = self.data.epoch(state.epochs, state.epoch_step)
        with progress(self.data.steps, label, "steps", self.is_main, terminal_only=True) as bar:
            bar.update(state.epoch_step)
            launched = None
            for batch in batches:
                clock.fetched()
                # the step before is read after this one is launched, so that the device always has work
                before, launched = launched, self._launch(batch, state.steps + (launched is not None))
                if before is not None:
                    state = self._record(state, before)
                clock.stepped()
                if self.comm.all_reduce_max(self.stop.status):
                    bar.close()
                    self._save_and_exit(self._record(state, launched))
                bar.update()
                if state.losses:
                    loss = _mean_loss(state.losses[-1:])["loss"]
                    bar.set_postfix_str(f"loss {loss:.3f}, {clock.waiting:.1%} waiting", refresh=False)
                    if clock.since_report() > REPORT_SECONDS and bar.disable:
                        self._report(state, clock)
            if launched is not None:
                state = self._record(state, launched)
                clock.finished()
        return self._finish_epoch(state, clock)

    def _launch(self, batch: tuple, number: int) -> "_Launched":
        """Start a step without waiting for its result; `number`: steps before it since the start of the run."""
        *arrays, ids = batch
        metrics = self.step(*arrays)
        overflowed = self.scale is not None and self.step.overflowed
        if self.step.average is not None and not overflowed:
            self.step.average.stepped(number)
        return _Launched(metrics, ids, overflowed, self.scale.state if self.scale is not None else [])

    def _record(self, state: RunState, launched: "_Launched") -> RunState:
        """Read the metrics of a step and return the state after it; waits for the device.

        Raises:
            RunError: loss or gradient is not finite, or too many steps in a row overflowed.
        """
        values = launched.metrics.asnumpy()
        loss, parts, norm = float(values[:2].sum()), values[:2].tolist(), float(values[2])
        rate = float(self.rates[state.steps])
        metrics = (
            f"loss is {loss}, gradient norm {norm} at epoch {state.epochs + 1}, step {state.epoch_step + 1} "
            f"(learning rate {rate:.6g}, images {launched.ids.asnumpy().ravel().tolist()})"
        )
        if launched.overflowed:
            return self._skipped(state, launched.loss_scale, metrics)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise RunError(f"{metrics}; {self._saved()}; a smaller --lr usually helps")
        losses = [*state.losses, parts]
        state = replace(
            state, epoch_step=state.epoch_step + 1, losses=losses, norm=norm, loss_scale=launched.loss_scale
        )
        if self.summary is not None:
            scalars = {"loss": loss, "loss_class": parts[0], "loss_box": parts[1], "learning_rate": rate}
            self.summary.add(dict(scalars, gradient_norm=norm), state.steps)
        return state

    def _skipped(self, state: RunState, loss_scale: List[float], metrics: str) -> RunState:
        """The state after a float16 step that overflowed: it counts in the epoch and in the learning rate schedule.

        loss_scale: `LossScale.state` after the step.

        Raises:
            RunError: too many steps in a row overflowed.
        """
        scale, _, in_a_row = loss_scale
        if in_a_row >= MOST_IN_A_ROW:
            raise RunError(
                f"{metrics}: the {in_a_row}th step in a row that overflowed in float16, with the loss scale "
                f"down to {scale:g}; {self._saved()}; a smaller --lr or --use_float16=False usually helps"
            )
        LOGGER.info("%s: overflow in float16, step skipped, loss scale now %g", metrics, scale)
        return replace(state, epoch_step=state.epoch_step + 1, loss_scale=loss_scale)

    def _saved(self) -> str:
        """A text that names the last checkpoint to resume from."""
        folder = self.checkpoints.folder
        best = os.path.join(folder, BEST)
        saved = list_checkpoints(folder)[-1:] or ([best] if os.path.isfile(best) else [])
        return f"the last good checkpoint is {saved[0]}" if saved else f"no checkpoint has been saved in {folder}"

    def _save_and_exit(self, state: RunState) -> None:
        """Save a checkpoint and exit with the status of the signal, on every rank."""
        path = self.checkpoints.save(self.step, state)
        self.comm.barrier()
        status = self.comm.all_reduce_max(self.stop.status)
        LOGGER.info("stopped by a signal after step %d: saved %s; --resume continues from there", state.steps, path)
        raise SystemExit(status)

    def _finish_epoch(self, state: RunState, clock: StepTimer) -> RunState:
        """The end of an epoch: history, evaluation, checkpoints. Signals are handled after this method."""
        done, cfg = state.epochs + 1, self.cfg
        record = {
            "epoch": done,
            "steps": state.epoch_step,
            **({key: value if state.losses else None for key, value in _mean_loss(state.losses).items()}),
            "lr": float(self.rates[state.steps - 1]),
            "gradient_norm": state.norm,
            "seconds_a_step": round(clock.seconds_per_step, 4),
            "waiting_seconds_share": round(clock.waiting, 4),
        }
        LOGGER.info("epoch %d/%d: %s", done, cfg.epoch_size, self._format_metrics(state, clock, state.losses))
        release_free_memory()
        if done == cfg.epoch_size and cfg.bn_recalibration_steps:
            with self._weights_in_use():
                images = (batch[0] for batch in self.data.epoch(done))
                batches = recalibrate(self.step.forward.network, images, cfg.bn_recalibration_steps)
            LOGGER.info("BN statistics re-estimated from %d batches", batches)
        finished = replace(state, epochs=done, epoch_step=0, losses=[])
        if self.evaluate is not None and _is_evaluated(done, cfg):
            release_free_memory()
            record["mAP"] = self._evaluated(state)
        release_free_memory()
        # before the checkpoint: a run resumed from it then has this line, and `cut_history` removes a surplus line
        if self.is_main:
            append_json_line(os.path.join(cfg.output_path, HISTORY), record)
        if record.get("mAP", -1) > finished.best_map:
            finished = replace(finished, best_map=record["mAP"])
            if cfg.save_best_ckpt:
                LOGGER.info("best mAP so far, saved: %s", self.checkpoints.save_best(self.step, finished))
        if done % cfg.save_checkpoint_epochs == 0 or done == cfg.epoch_size:
            LOGGER.info("saved %s", self.checkpoints.save(self.step, finished))
        if self.summary is not None and "mAP" in record:
            self.summary.add({"mAP": record["mAP"]}, state.steps)
        if self.is_main:
            curves = os.path.join(cfg.output_path, CURVES)
            write_or_go_on(curves, draw_curves, os.path.join(cfg.output_path, HISTORY), curves)
        if done < cfg.epoch_size and self.comm.all_reduce_max(self.stop.status):
            self._save_and_exit(finished)
        return finished

    def _evaluated(self, state: RunState) -> float:
        """mAP of the current weights. On a signal the state is saved, and the resumed run evaluates again."""
        with self._weights_in_use():
            result = self.evaluate(lambda: self.comm.all_reduce_max(self.stop.status) > 0)
        if result is None:
            self._save_and_exit(state)
        return result

    def _weights_in_use(self):
        """A block in which the network has the weights that count: the averages with `ema_decay`."""
        return contextlib.nullcontext() if self.step.average is None else self.step.average.in_use()

    def _report(self, state: RunState, clock: StepTimer) -> None:
        clock.reported()
        steps, epochs = self.data.steps, self.cfg.epoch_size
        left = ((epochs - state.epochs) * steps - state.epoch_step) * clock.seconds_per_step
        LOGGER.info(
            "epoch %d/%d, step %d/%d: %s, %d min %02d s left",
            state.epochs + 1,
            epochs,
            state.epoch_step,
            steps,
            self._format_metrics(state, clock, state.losses[-20:]),
            left // 60,
            left % 60,
        )

    def _format_metrics(self, state: RunState, clock: StepTimer, losses: list) -> str:
        mean = _mean_loss(losses)
        return (
            f"loss {mean['loss']:.4f} (classes {mean['loss_class']:.4f}, boxes {mean['loss_box']:.4f}), "
            f"lr {float(self.rates[state.steps - 1]):.5f}, gradient norm {state.norm:.2f}, "
            f"{clock.seconds_per_step:.3f} s/step, {clock.images_per_second:.1f} images/s, "
            f"{clock.waiting:.1%} of the time waiting for data"
        )


def _mean_loss(losses: list) -> dict:
    """Means of the loss and its parts over steps, each [classes, boxes]; NaN if there are no steps."""
    classes, boxes = (float(part) for part in np.mean(losses, axis=0)) if losses else (math.nan, math.nan)
    return {"loss": classes + boxes, "loss_class": classes, "loss_box": boxes}


def _is_evaluated(done: int, cfg) -> bool:
    if done == cfg.epoch_size:
        return True
    return done >= cfg.eval_start_epoch and (done - cfg.eval_start_epoch) % cfg.eval_interval == 0
