#!/usr/bin/env python3
"""Train an SSD network: python3 train.py --config_path config/ssd_resnet50_fpn_config_gpu.yaml [--key=value ...]"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Iterator

# first: it reports missing packages in one line
import src  # noqa: F401

# isort: split
import numpy as np
import yaml

from src.config import learning_rate_advice, load_config, log_notes
from src.models.trained_classes import check_before_start
from src.training.preflight import check_training, required_disk_space
from src.training.run_files import find_resume
from src.utils.device import check_launch, init_device, prepare_environment
from src.utils.errors import UserError, run_main
from src.utils.locks import hold_folder
from src.utils.log import LOGGER, setup_logging, write_or_go_on
from src.utils.memory import keep_heap_small
from src.utils.output import atomic_write, ensure_writable, output_error
from src.utils.signals import SignalGuard


def main(argv) -> int:
    with contextlib.ExitStack() as held:
        return train(argv, held)


def train(argv, held: contextlib.ExitStack) -> int:
    # 1. configuration, and all that can be known before anything starts
    cfg = load_config(argv)
    check_launch(cfg)
    resumes = False
    if not cfg.only_create_dataset:
        resume_files = find_resume(cfg.resume, cfg.output_path)
        resumes = bool(resume_files)
        check_training(cfg, resumes)
        check_before_start(cfg, resume_files)
        ensure_writable(cfg.output_path, "output_path", required_disk_space(cfg))
    setup_logging()
    stop = SignalGuard()
    stop.install()
    prepare_environment()
    keep_heap_small()

    # 2. device
    comm = init_device(cfg)
    rank, size = comm.rank, comm.size
    if not cfg.only_create_dataset:
        if rank == 0:  # before anything of an earlier run is touched, also its logs
            held.enter_context(hold_folder(cfg.output_path, "training"))
        comm.barrier()
    setup_logging(None if cfg.only_create_dataset else cfg.output_path, rank, size)
    if rank == 0:
        log_notes(cfg, LOGGER.warning, for_training=not cfg.only_create_dataset)

    # 3. model and weights: what does not fit ends the run before an hour of conversion
    from src.data.records import missing_evaluation_set, prepare_records

    missing = missing_evaluation_set(cfg)
    if cfg.run_eval and missing:
        raise UserError(f"run_eval: there is no evaluation set: no such file or folder: {missing}")
    model = None if cfg.only_create_dataset else start_model(cfg, resumes)

    # 4. records
    records = prepare_records(cfg, is_training=True, comm=comm)
    eval_records = None
    if cfg.run_eval or (cfg.only_create_dataset and not missing):
        eval_records = prepare_records(cfg, is_training=False, comm=comm)
    if cfg.only_create_dataset:
        evaluation = f"{eval_records.count} evaluation images" if eval_records else f"no evaluation set ({missing})"
        LOGGER.info("only_create_dataset: done, %d training images, %s", records.count, evaluation)
        return 0
    data = start_data(records, cfg, comm)

    # 5. loss, optimiser, step
    from src.training.schedule import build_learning_rates

    rates = build_learning_rates(cfg, data.steps)
    step = start_step(model, cfg, rates, comm, data.steps)

    # 6. where the run stands
    from src.training.checkpoint import Checkpoints, restore_run
    from src.training.run_files import cut_history, prepare_folder
    from src.training.state import RunState, training_relevant_config

    source = ""
    state = RunState(
        cfg.pre_trained_epoch_size,
        steps_per_epoch=data.steps,
        images=records.count,
        size=size,
        config=training_relevant_config(cfg),
        started_from=cfg.pre_trained or cfg.feature_extractor_base_param,
    )
    if resumes:
        state, source = restore_run(step, find_resume(cfg.resume, cfg.output_path), state, comm)
        rate = rates[min(state.steps, len(rates) - 1)]
        LOGGER.info("resumed: epoch %d, step %d, learning rate %.6g", state.epochs + 1, state.epoch_step + 1, rate)
    checkpoints = Checkpoints(prepare_folder(cfg.output_path, rank, source), cfg.keep_checkpoint_max)
    if rank == 0:
        cut_history(cfg.output_path, state.epochs)
        record_run(argv, cfg, comm, source)

    # 7. evaluation in training
    evaluate = None
    if cfg.run_eval:
        from src.evaluation.evaluate import TrainingEvaluation

        evaluate = TrainingEvaluation(model, eval_records, cfg, comm)

    # 8. train
    from src.training.trainer import Trainer

    trained = sum(int(np.prod(parameter.shape)) for parameter in model.trainable_params())
    numbers = records.count, data.steps, cfg.epoch_size, cfg.batch_size, size, trained / 1e6
    line = "training %s: %d images, %d steps per epoch, %d epochs, batch %d x %d, %.1f million weights"
    LOGGER.info(line, cfg.model_name, *numbers)
    with profiling(cfg, rank):
        Trainer(step, data, rates, cfg, checkpoints, evaluate, comm, stop).run(state)
    if state.epochs < cfg.epoch_size:
        LOGGER.info("done, checkpoints are in %s", checkpoints.folder)
    else:
        LOGGER.info("nothing to train: %s has all %d epochs", source, state.epochs)
    return 0


def start_model(cfg, resumes: bool) -> object:
    """The network with the weights that the run starts from; those of a resumed run come later."""
    from src.models.build import build_model, freeze
    from src.models.weights import load_backbone, load_network

    model = build_model(cfg)
    if cfg.pre_trained and not resumes:
        exclude = cfg.checkpoint_filter_list if cfg.filter_weight else ()
        by_name = cfg.match_class_names
        load_network(model, cfg.pre_trained, "pre_trained", exclude, classes=cfg.classes, match_names=by_name)
    elif cfg.feature_extractor_base_param and not resumes:
        load_backbone(model, cfg.feature_extractor_base_param)
    freeze(model, cfg.freeze_layer)
    if cfg.freeze_layer and not (resumes or cfg.pre_trained or cfg.feature_extractor_base_param):
        LOGGER.warning("freeze_layer: no weights were loaded, so the frozen layers keep their random ones")
    return model


def start_data(records, cfg, comm) -> object:
    """The `TrainLoader` of this rank, with at least one step in an epoch."""
    from src.data.pipeline import TrainLoader

    data = TrainLoader(records, cfg, comm.rank, comm.size)
    if data.steps == 0:
        raise UserError(
            f"batch_size: {records.count} images / ({cfg.batch_size} x {comm.size} devices) = 0 steps per epoch; "
            f"use a smaller --batch_size"
        )
    advice = learning_rate_advice(cfg, comm.size) if comm.rank == 0 else None
    if advice:
        LOGGER.warning("%s", advice)
    return data


def start_step(model, cfg, rates: np.ndarray, comm, steps_per_epoch: int) -> object:
    """The training step; on a CPU, what an earlier run compiled is used (`compile_cache`)."""
    from src.training.step import build_train_step

    step = build_train_step(model, cfg, rates, comm)
    step.update.start_at(cfg.pre_trained_epoch_size * steps_per_epoch)
    if cfg.compile_cache and cfg.device_target == "CPU" and not comm.averages_on_host:
        from src.utils.compile_cache import compile_cache

        everything = {key: value for key, value in cfg.items() if key not in ("output_path", "resume", "seed")}
        step.compile_within(compile_cache({"config": everything, "steps": len(rates), "ranks": comm.size}))
    return step


def record_run(argv, cfg, comm, source: str) -> None:
    """Write what this start is made of into the output folder: the entry of the run's starts, and config.yaml."""
    from src.training.run_info import describe_start, record_start

    record_start(cfg.output_path, describe_start(argv, cfg, comm, source))
    with atomic_write(os.path.join(cfg.output_path, "config.yaml")) as handle:
        yaml.safe_dump({key: value for key, value in cfg.items() if key != "config_path"}, handle, sort_keys=False)


@contextlib.contextmanager
def profiling(cfg, rank: int) -> Iterator[None]:
    """With `enable_profiling` the block is profiled into `profile_{rank}`; an error of the profiler stops nothing."""
    if not cfg.enable_profiling:
        yield
        return
    from src.utils.compat import start_profiler

    folder, ends = os.path.abspath(os.path.join(cfg.output_path, f"profile_{rank}")), []

    def change(action):
        try:
            action()
        except Exception as error:  # MindSpore raises many kinds where it cannot write
            raise output_error(folder, error) from error

    write_or_go_on(folder, change, lambda: ends.append(start_profiler(folder)))
    yield
    if ends:
        write_or_go_on(folder, change, ends[0])


if __name__ == "__main__":
    sys.exit(run_main(main))
