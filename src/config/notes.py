"""Notes about keys that have no effect because of other keys: one line each, logged once by the program."""

from __future__ import annotations

import os
from typing import List

from src.config.checks import steps_that_fit
from src.config.networks import NETWORKS, OPTIONAL_KEYS
from src.config.published import PUBLISHED_KEYS

_SSD300_KEYS = ("min_scale", "max_scale", "aspect_ratios")
_GENERATOR_KEYS = ("anchor_scale", "anchor_octaves", "anchor_ratios")
_OF_TOOLS = ("image_dir", "anno_path", "anno_path_val")
_OF_DATASET = {
    "coco": ("coco_root", "train_data_type", "val_data_type", "instances_set"),
    "voc": ("voc_root", "voc_json"),
    "yolo": ("anno_path", "anno_path_val"),
    **dict.fromkeys(("other", "labelme", "cvat", "label_studio"), _OF_TOOLS),
}


class Given:
    """Origin of the values of a configuration.

    Args:
        options: keys of the command line.
        in_file: keys of the YAML file.
        defaults: values of the complete configuration file.
    """

    def __init__(self, options: set, in_file: set, defaults: dict):
        self.options, self.in_file, self.defaults = options, in_file, defaults

    def chosen(self, key: str, value) -> bool:
        """Whether the user chose this value: on the command line, or in a file and different from the default."""
        return key in self.options or value != self.defaults[key]

    def with_or_after(self, key: str) -> set:
        """Keys given together with or after `key`: the command line comes after the file."""
        return self.options if key in self.options else self.options | self.in_file


def list_notes(cfg, given: Given, ignored: List[str], asked_workers: int, asked_loss_scale: float) -> tuple:
    """(lines for every program, lines for training only).

    Args:
        ignored: published keys that were given and have no effect.
        asked_workers, asked_loss_scale: values before the configuration was adapted to this machine.
    """
    notes, training = [], []

    def chosen(*keys) -> str:
        return ", ".join(key for key in keys if given.chosen(key, cfg[key]))

    def on_command_line(*keys) -> str:
        return ", ".join(key for key in keys if key in given.options)

    without = [key for key in PUBLISHED_KEYS if key in ignored]
    network = NETWORKS[cfg.model_name]
    unread = [key for key in OPTIONAL_KEYS if key not in network.keys]
    unread += _SSD300_KEYS if cfg.use_anchor_generator else _GENERATOR_KEYS
    without += [key for key in unread if given.chosen(key, cfg[key]) or (key in given.in_file and ignored)]
    if without:
        notes.append(f"keys without effect here: {', '.join(without)}")
    if steps_that_fit(cfg) != cfg.steps:
        notes.append(
            f"steps {cfg.steps}: the default boxes do not cover img_shape {cfg.img_shape} evenly, as "
            f"{steps_that_fit(cfg)} would"
        )
    if not cfg.run_distribute and cfg.device_num > 1:
        notes.append(f"device_num {cfg.device_num} has no effect without --run_distribute=True: one process computes")
    if cfg.run_distribute and cfg.device_id:
        notes.append(f"device_id {cfg.device_id} has no effect with run_distribute: each rank uses its local rank")
    if not cfg.run_distribute and on_command_line("all_reduce_fusion_config"):
        training.append("all_reduce_fusion_config has no effect without --run_distribute=True")
    if given.chosen("mode_sink", cfg.mode_sink):
        training.append(
            f"mode_sink has no effect: with {cfg.mode_sink}, too, the host hands over each batch and reads each loss"
        )
    if cfg.device_target == "CPU" and asked_loss_scale != 1 and given.chosen("loss_scale", asked_loss_scale):
        training.append(f"loss_scale {asked_loss_scale:g} has no effect on a CPU: 1 is used")
    cores = os.cpu_count() or 1
    if asked_workers > cores:
        notes.append(f"num_parallel_workers {asked_workers} exceeds the cores of this machine: {cores} are used")
    if not cfg.tile and on_command_line("overlap"):
        notes.append("overlap has no effect without tile")
    if cfg.compile_cache and "compile_cache" in given.options and (cfg.device_target != "CPU" or cfg.run_distribute):
        training.append("compile_cache only has an effect on a CPU with one process")
    _note_start(cfg, given, training, chosen, on_command_line)
    if not cfg.run_eval and on_command_line("eval_start_epoch", "eval_interval", "save_best_ckpt"):
        keys = on_command_line("eval_start_epoch", "eval_interval", "save_best_ckpt")
        training.append(f"without effect because run_eval is False: {keys}")
    for key in ("early_stop", "validation_loss"):
        if cfg[key] and not cfg.run_eval:
            training.append(f"{key} has no effect without --run_eval=True")
    if cfg.run_eval and cfg.early_stop and cfg.bn_recalibration_steps:
        training.append("bn_recalibration_steps has no effect if early_stop ends the run before its last epoch")
    others = [key for keys in _OF_DATASET.values() for key in keys if key not in _OF_DATASET[cfg.dataset]]
    others = list(dict.fromkeys(others))
    if on_command_line(*others):
        notes.append(f"without effect because dataset is {cfg.dataset}: {on_command_line(*others)}")
    if cfg.dataset == "coco" and "{" not in cfg.instances_set.replace("{{", ""):
        notes.append(f"instances_set {cfg.instances_set} has no {{}}: training and evaluation read the same file")
    if cfg.classes[0].strip("_ ").lower() != "background":
        notes.append(f"classes: the first name, '{cfg.classes[0]}', is taken as the background and gets no boxes")
    return notes, training


def _note_start(cfg, given: Given, training: List[str], chosen, on_command_line) -> None:
    """Add notes about the weights and the epoch that a training starts from."""
    done = cfg.pre_trained_epoch_size
    if done:
        training.append(
            f"pre_trained_epoch_size {done} of epoch_size {cfg.epoch_size}: epochs {done + 1} to {cfg.epoch_size} are "
            f"trained, with the learning rates that a run of {cfg.epoch_size} epochs has there"
        )
        if not cfg.pre_trained:
            training.append(f"pre_trained_epoch_size {done} without pre_trained: no weights of those epochs are loaded")
    if cfg.filter_weight and not cfg.pre_trained:
        training.append("filter_weight has no effect without pre_trained")
    if cfg.match_class_names and not cfg.pre_trained:
        training.append("match_class_names has no effect without pre_trained")
    if not cfg.filter_weight and chosen("checkpoint_filter_list"):
        training.append("checkpoint_filter_list has no effect without --filter_weight=True")
    if cfg.pre_trained and cfg.feature_extractor_base_param and on_command_line("feature_extractor_base_param"):
        training.append("feature_extractor_base_param has no effect with pre_trained, which holds the backbone")
    if cfg.warmup_epochs > cfg.epoch_size:
        training.append(
            f"warmup_epochs {cfg.warmup_epochs:g} is more than epoch_size {cfg.epoch_size}: lr is never reached"
        )
    if cfg.lr == 0:
        training.append("lr 0: no weight is trained after the warm-up")
