"""Checks of a converted configuration: ranges of single keys, then consistency between keys."""

from __future__ import annotations

import difflib
import string
from typing import Callable, List

from src.config.networks import NETWORKS, OPTIONAL_KEYS, Network, check_model_name
from src.config.values import shown
from src.utils.errors import UserError

# boxes per cell of the published anchor generator: 2 octaves x 3 aspect ratios
PUBLISHED_BOXES = 6
_TILES = (32, 16384)
_MOST_OVERLAP = 0.9
_MAX_INT = 2**31 - 1

# key -> (minimum, maximum), both allowed
_CLOSED = {
    "device_id": (0, 65535),
    "device_num": (1, 65536),
    "eval_start_epoch": (0, _MAX_INT),
    "eval_interval": (1, _MAX_INT),
    "save_checkpoint_epochs": (1, _MAX_INT),
    "keep_checkpoint_max": (1, _MAX_INT),
    "seed": (0, 2**32 - 1),  # what NumPy and MindSpore take
    "num_ssd_boxes": (-1, _MAX_INT),
    "num_addition_layers": (1, 64),
    "num_classes": (1, _MAX_INT),
    "match_threshold": (0, 1),
    "nms_threshold": (0, 1),
    "max_boxes": (1, _MAX_INT),
    "lr": (0, 100),
    "lr_init": (0, 100),
    "lr_end_rate": (0, 1),
    "warmup_epochs": (0, _MAX_INT),
    "epoch_size": (1, 100_000),
    "batch_size": (1, 65536),
    "weight_decay": (0, 1),
    "gamma": (0, 100),
    "pre_trained_epoch_size": (0, _MAX_INT),
    "bn_recalibration_steps": (0, _MAX_INT),
    "early_stop": (0, _MAX_INT),
    "num_parallel_workers": (0, _MAX_INT),
    "max_bad_images": (0, _MAX_INT),
    "export_calibration_images": (1, _MAX_INT),
    "export_max_loss": (0, 1),
    "anchor_octaves": (1, 16),
    "crop_probability": (0, 1),
    "grey_probability": (0, 1),
    "zoom_out": (1, 16),
    # entries of lists
    "img_shape": (1, 16384),
    "extras_out_channels": (1, 8192),
    "extras_in_channels": (1, 8192),
    "extras_strides": (1, 16),
    "num_default": (1, 1000),
    "feature_size": (1, 16384),
    "steps": (1, 16384),
    "all_reduce_fusion_config": (1, _MAX_INT),
    "prior_scaling": (0.001, 10),
    "scale_jitter": (0.1, 10),
}
# key -> (test, interval in words)
_HALF_OPEN = {
    "momentum": (lambda value: 0 <= value < 1, "[0, 1)"),
    "class_prior": (lambda value: 0 <= value < 1, "[0, 1)"),
    "repeat_threshold": (lambda value: 0 <= value < 1, "[0, 1)"),
    "ema_decay": (lambda value: 0 <= value < 1, "[0, 1)"),
    "min_score": (lambda value: 0 <= value < 1, "[0, 1)"),
    "alpha": (lambda value: 0 < value < 1, "(0, 1)"),
    "loss_scale": (lambda value: 0 < value <= 2**31, "(0, 2147483648]"),
    "min_scale": (lambda value: 0 < value <= 1, "(0, 1]"),
    "max_scale": (lambda value: 0 < value <= 1, "(0, 1]"),
    "anchor_scale": (lambda value: 0 < value <= 64, "(0, 64]"),
    "anchor_ratios": (lambda value: 0 < value <= 100, "(0, 100]"),
    "aspect_ratios": (lambda value: 0 < value <= 100, "(0, 100]"),
    "extras_ratio": (lambda value: 0 < value <= 16, "(0, 16]"),
}
_NOT_EMPTY = ("output_path", "file_name")
_PER_LEVEL = ("steps", "num_default", "feature_size", "extras_out_channels")
Bad = Callable[[str], UserError]


def _spelled_as_choice(value, allowed: list):
    """The entry of `allowed` that equals `value`, ignoring case; None if there is none."""
    if value in allowed:
        return value
    return {str(choice).lower(): choice for choice in allowed if choice is not None}.get(str(value).lower())


def check_choices(cfg, choices: dict, bad: Bad) -> None:
    """Check keys with choices, and adopt the spelling of the choice.

    Raises:
        UserError: a value that is not a choice.
    """
    for key, allowed in choices.items():
        # a list in freeze_layer holds name prefixes, which are checked against the network
        if isinstance(cfg[key], list) or cfg[key] is None and None in allowed:
            continue
        choice = _spelled_as_choice(cfg[key], allowed)
        if choice is None:
            names = [str(name) for name in allowed]
            near = difflib.get_close_matches(str(cfg[key]), names, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise bad(f"{key} must be one of {', '.join(names)}, got {shown(cfg[key])}{hint}")
        cfg[key] = choice


def check_values(cfg, bad: Bad) -> None:
    """Check every key by itself.

    Raises:
        UserError: a number out of range, an empty string where a name is required, and the like.
    """
    for key, (low, high) in _CLOSED.items():
        for value in _numbers(cfg[key]):
            if not low <= value <= high:
                bound = (
                    ("not be negative" if low == 0 else f"be at least {low}") if value < low else f"be at most {high}"
                )
                raise bad(f"{key} must {bound}, got {shown(cfg[key])}")
    for key, (is_allowed, text) in _HALF_OPEN.items():
        if not all(is_allowed(value) for value in _numbers(cfg[key])):
            raise bad(f"{key} must lie in {text}, got {shown(cfg[key])}")
    for key in _NOT_EMPTY:
        if not cfg[key].strip():
            raise bad(f"{key} must not be empty")
    for key in ("img_shape", "prior_scaling", "scale_jitter"):
        if len(cfg[key]) != 2:
            raise bad(f"{key} must have 2 entries, got {len(cfg[key])}: {shown(cfg[key])}")
    if cfg.scale_jitter[0] > cfg.scale_jitter[1]:
        raise bad(f"scale_jitter: the first entry must not be above the second, got {shown(cfg.scale_jitter)}")
    fusion = cfg.all_reduce_fusion_config
    if any(second <= first for first, second in zip(fusion, fusion[1:])):
        raise bad(f"all_reduce_fusion_config must increase from entry to entry, got {shown(fusion)}")
    for key in ("checkpoint_filter_list", "freeze_layer"):
        if isinstance(cfg[key], list) and not all(name.strip() for name in cfg[key]):
            raise bad(f"{key} has an empty entry: {shown(cfg[key])}")
    fault = tiling_fault(cfg.tile, cfg.overlap)
    if fault:
        raise bad(fault)
    if cfg.tile and cfg.validation_loss:
        raise bad("validation_loss is of complete pictures; use it without tile")
    _check_instances_set(cfg.instances_set, bad)


def tiling_fault(tile: int, overlap: float) -> str:
    """What is wrong with the values of `tile` and `overlap`, "" if nothing is."""
    if tile and not _TILES[0] <= tile <= _TILES[1]:
        return f"tile must be 0 (off) or lie in [{_TILES[0]}, {_TILES[1]}], got {tile}"
    return "" if 0 <= overlap <= _MOST_OVERLAP else f"overlap must lie in [0, {_MOST_OVERLAP}], got {overlap:g}"


def _numbers(value) -> list:
    """The numbers in a value: a number, a list, or nested lists."""
    if not isinstance(value, list):
        return [value]
    return [number for item in value for number in _numbers(item)]


def _check_instances_set(pattern: str, bad: Bad) -> None:
    """Check the pattern, in which `{}` stands for train_data_type or val_data_type."""
    try:
        fields = [part[1:] for part in string.Formatter().parse(pattern) if part[1] is not None]
        usable = all(name in ("", "0") and not spec and not conversion for name, spec, conversion in fields)
        pattern.format("train2017")
    except (ValueError, IndexError, KeyError, AttributeError):
        usable = False
    if not usable:
        raise bad(
            f"instances_set: {{}} stands for the data type (train2017), other braces are not allowed, got "
            f"{shown(pattern)}"
        )


def check_epochs(cfg, options: set, bad: Bad) -> None:
    """Check that the parts of the schedule fit into `epoch_size`.

    Args:
        options: keys of the command line.

    Raises:
        UserError: a warm-up on the command line that is longer than the schedule, or nothing left to train. A long
            warm-up in a file only gives a note: a run with a shorter `--epoch_size` writes both into its config.yaml,
            which evaluation, prediction and other runs must be able to read.
    """
    if cfg.warmup_epochs > cfg.epoch_size and "warmup_epochs" in options:
        raise bad(f"warmup_epochs is {cfg.warmup_epochs}, more than epoch_size {cfg.epoch_size}")
    if cfg.pre_trained_epoch_size >= cfg.epoch_size:
        raise bad(
            f"pre_trained_epoch_size is {cfg.pre_trained_epoch_size} and epoch_size is {cfg.epoch_size}: nothing is "
            f"left to train; epoch_size counts the epochs that pre_trained was trained for"
        )


def check_classes(cfg, bad: Bad) -> None:
    """Check that there are `num_classes` distinct, usable names.

    Raises:
        UserError: naming the first problem.
    """
    if len(cfg.classes) != cfg.num_classes:
        raise bad(
            f"num_classes is {cfg.num_classes}, but classes has {len(cfg.classes)} names; "
            f"set num_classes to {len(cfg.classes)} (the background counts)"
        )
    if len(cfg.classes) < 2:
        raise bad("classes needs the background and at least one class")
    seen = set()
    for name in cfg.classes:
        if not name.strip() or not name.isprintable():
            raise bad(f"classes: {shown(name)} is not a valid name: it is empty or has unprintable characters")
        if name in seen:
            raise bad(f"classes: '{name}' is given twice")
        seen.add(name)


def check_boxes(cfg, stated: set, bad: Bad) -> None:
    """Check default boxes against the network's feature maps; set `steps`, `feature_size` and `num_ssd_boxes`.

    Args:
        stated: keys whose values are compared; those of others are computed.

    Raises:
        UserError: naming the keys that contradict each other.
    """
    network = NETWORKS[check_model_name(cfg.model_name, "the configuration")]
    _check_image(cfg, network, bad)
    derived = network.map_sides(max(cfg.img_shape))
    levels = len(derived)
    if "steps" not in stated and not network.strides:
        cfg.steps = steps_that_fit(cfg)
    if cfg.use_anchor_generator and cfg.num_default == [PUBLISHED_BOXES] * levels:
        cfg.num_default = [generator_boxes(cfg)] * levels
    for key in _PER_LEVEL:
        if len(cfg[key]) != levels:
            raise bad(f"{key} has {len(cfg[key])} entries, but {cfg.model_name} has {levels} levels")
    check_network(cfg, bad)
    # feature_size is one number per level: the longer side's, as published for square images
    if "feature_size" in stated and cfg.feature_size != derived:
        raise bad(
            f"feature_size is {cfg.feature_size}, but the maps of {cfg.model_name} at img_shape {cfg.img_shape} have "
            f"{derived} cells along the longer side"
        )
    cfg.feature_size = derived
    cells = [height * width for height, width in zip(*(network.map_sides(side) for side in cfg.img_shape))]
    boxes = sum(count * number for count, number in zip(cells, cfg.num_default))
    if "num_ssd_boxes" in stated and cfg.num_ssd_boxes not in (-1, boxes):
        raise bad(
            f"num_ssd_boxes is {cfg.num_ssd_boxes}, but img_shape, model_name and num_default give {boxes}; "
            f"set -1 to have it computed"
        )
    cfg.num_ssd_boxes = boxes


def generator_boxes(cfg) -> int:
    """Default boxes per cell of the anchor generator."""
    return cfg.anchor_octaves * len(cfg.anchor_ratios)


def steps_that_fit(cfg) -> List[int]:
    """`cfg.steps`, with the cell's side in the image where the grid of a level would not cover the image.

    The default boxes of a level stand `steps` pixels apart, as many as its map has cells. Published steps differ from
    an even grid by up to 7 %.
    """
    side = max(cfg.img_shape)
    maps = NETWORKS[cfg.model_name].map_sides(side)
    if len(cfg.steps) != len(maps):
        return cfg.steps
    fits = [0.9 < cells * step / side < 1.1 for cells, step in zip(maps, cfg.steps)]
    return [step if fit else max(1, round(side / cells)) for fit, cells, step in zip(fits, maps, cfg.steps)]


def _check_image(cfg, network: Network, bad: Bad) -> None:
    """Check that every level of the network has a map, with as many cells as its default boxes' grid."""
    if min(cfg.img_shape) < network.smallest_side:
        raise bad(
            f"img_shape {cfg.img_shape}: {cfg.model_name} needs at least {network.smallest_side} pixels on each side"
        )
    largest = network.strides[-1] if network.strides else 1
    for size in cfg.img_shape:
        if size % largest:
            lower = max(size // largest * largest, largest)
            raise bad(
                f"img_shape {cfg.img_shape}: height and width must be multiples of the largest step {largest}; "
                f"near {size} are {lower} and {lower + largest}"
            )


def check_network(cfg, bad: Bad = UserError) -> None:
    """Check the keys that describe the network `cfg.model_name` and its default boxes.

    Raises:
        UserError: unknown `model_name`, or a key that contradicts the network.
    """
    network = NETWORKS[check_model_name(cfg.model_name, "the configuration")]
    for key, neutral in OPTIONAL_KEYS.items():
        if key not in network.keys and neutral is not None and cfg[key] != neutral:
            raise bad(f"{key} is {shown(cfg[key])}: {cfg.model_name} has no such option; set it to {neutral}")
    if network.strides and tuple(cfg.steps) != network.strides:
        raise bad(f"steps: {cfg.model_name} has strides {list(network.strides)}, got {shown(cfg.steps)}")
    if network.has_shared_head:
        _check_shared_head(cfg, bad)
    elif cfg.extras_out_channels != list(network.channels):
        raise bad(
            f"extras_out_channels: the levels of {cfg.model_name} have {list(network.channels)} channels, got "
            f"{cfg.extras_out_channels}"
        )
    _check_extra_levels(cfg, network, bad)
    if not cfg.use_anchor_generator:
        _check_ssd300_layout(cfg, bad)
    elif set(cfg.num_default) != {generator_boxes(cfg)}:
        raise bad(
            f"num_default is {cfg.num_default}, but the anchor generator makes {generator_boxes(cfg)} default boxes "
            f"per cell (anchor_octaves x anchor_ratios): set it to {[generator_boxes(cfg)] * len(cfg.num_default)}"
        )
    elif any([-(-side // step) for step in cfg.steps] != network.map_sides(side) for side in cfg.img_shape):
        raise bad(
            f"use_anchor_generator: its grids of img_shape {cfg.img_shape} with steps {cfg.steps} are not the maps of "
            f"{cfg.model_name}; set it to False"
        )


def _check_shared_head(cfg, bad: Bad) -> None:
    for key, what in (("extras_out_channels", "channels"), ("num_default", "default boxes per cell")):
        if len(set(cfg[key])) > 1:
            raise bad(
                f"{key}: the levels of {cfg.model_name} share one head and have the same number of {what}, got "
                f"{cfg[key]}"
            )


def _check_extra_levels(cfg, network: Network, bad: Bad) -> None:
    """Check `extras_*` of the networks that build their last levels from them; the first two entries are not read."""
    levels = range(2, len(network.channels or ()))
    for key in ("extras_in_channels", "extras_strides", "extras_ratio"):
        if key in network.keys and len(cfg[key]) != len(network.channels):
            raise bad(f"{key} has {len(cfg[key])} entries, but {cfg.model_name} has {len(network.channels)} levels")
    if "extras_in_channels" in network.keys:
        wanted = [network.channels[level - 1] for level in levels]
        if cfg.extras_in_channels[2:] != wanted:
            raise bad(
                f"extras_in_channels: from its third entry on, each level's input is the level before it with {wanted} "
                f"channels, got {cfg.extras_in_channels[2:]}"
            )
    if "extras_strides" in network.keys and any(cfg.extras_strides[level] != 2 for level in levels):
        raise bad(
            f"extras_strides: each level of {cfg.model_name} from the third on has stride 2, got {cfg.extras_strides}"
        )


def _check_ssd300_layout(cfg, bad: Bad) -> None:
    """Check that the layout of `use_anchor_generator False` has as many boxes as the network predicts."""
    if cfg.img_shape[0] != cfg.img_shape[1]:
        raise bad(
            f"img_shape: use_anchor_generator False places default boxes on square maps only, got {cfg.img_shape}; use "
            f"a square image, or use_anchor_generator True"
        )
    if len(cfg.aspect_ratios) < len(cfg.steps):
        raise bad(f"aspect_ratios has {len(cfg.aspect_ratios)} lists, but {cfg.model_name} has {len(cfg.steps)} levels")
    if cfg.min_scale > cfg.max_scale:
        raise bad(f"min_scale {cfg.min_scale} is above max_scale {cfg.max_scale}")
    for level, number in enumerate(cfg.num_default):
        ratios = cfg.aspect_ratios[level]
        boxes = 3 if level == 0 and not ratios else 2 + 2 * len(ratios)
        if boxes != number:
            raise bad(
                f"num_default[{level}] is {number}, but aspect_ratios[{level}] = {shown(ratios)} gives {boxes} default "
                f"boxes per cell (use_anchor_generator is False)"
            )
