"""Choices from the data and the time allowed: keys of the configuration, each with its reason."""

from __future__ import annotations

import os
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from easydict import EasyDict

from src.config import load_config
from src.data.inspect.anchors import suggest_anchors
from src.data.inspect.statistics import normalized_boxes
from src.data.sample import Sample

RECIPE = "ssd_resnet50_fpn_config_quickstart.yaml"
SIDES = (128, 256, 384, 512, 640)
SMALL_BOX = 10.0
"""Pixels of the input that a small box should have, as the square root of its area."""
SMALL_QUANTILE = 10
ENOUGH_STEPS, LEAST_STEPS = 300, 30
SECONDS_AT_128 = {"CPU": 1.0, "GPU": 0.1, "Ascend": 0.1}
"""Seconds of a step with 4 pictures of 128 x 128, for the choice of the size alone; then the step is measured."""
TRAINED_SHARE = 0.7
LONG_PICTURE = 1.6


class Choice(NamedTuple):
    """Values of keys of the configuration, and the reason in words."""

    values: Dict[str, object]
    reason: str

    @property
    def line(self) -> str:
        shown = ", ".join(f"{key} {_shown(value)}" for key, value in self.values.items())
        return f"{shown}: {self.reason}"


def _shown(value) -> str:
    text = "none" if value == "" else str(value)
    return text if len(text) <= 100 else text[:97] + "..."


class Facts(NamedTuple):
    """What the choices are made from.

    pictures: of the training split; sizes: [N, 2] heights and widths; boxes: [M, 5] normalised, of the training split.
    """

    pictures: int
    sizes: np.ndarray
    boxes: np.ndarray
    minutes: float
    device: str


def facts_of(train: Sequence[Sample], minutes: float, device: str) -> Facts:
    boxed = [sample for sample in train if len(sample.boxes)]
    sizes = np.array([(sample.height, sample.width) for sample in boxed])
    return Facts(len(boxed), sizes, normalized_boxes(boxed), minutes, device)


def choose_size(facts: Facts, batch: int, largest: int = SIDES[-1]) -> Choice:
    """`img_shape`: as large as small boxes need, as the pictures are, and as the time allows.

    Args:
        largest: longest short side that may be chosen.
    """
    height, width = np.median(facts.sizes, axis=0)
    ratio = width / height
    form = (1, 2) if ratio > LONG_PICTURE else (2, 1) if ratio < 1 / LONG_PICTURE else (1, 1)
    areas = (facts.boxes[:, 2] - facts.boxes[:, 0]) * (facts.boxes[:, 3] - facts.boxes[:, 1])
    small = float(np.percentile(np.sqrt(areas), SMALL_QUANTILE)) * np.sqrt(form[0] * form[1])
    own = max(height / form[0], width / form[1])
    per_step = SECONDS_AT_128[facts.device] * batch / 4 * form[0] * form[1]
    seconds = facts.minutes * 60 * TRAINED_SHARE
    affordable = [side for side in SIDES if seconds / (per_step * (side / 128) ** 2) >= ENOUGH_STEPS]
    limits = {
        "a tenth of the boxes is smaller than {:.0f} pixels in it": next(
            (side for side in SIDES if side * small >= SMALL_BOX), SIDES[-1]
        ),
        "the pictures are not larger": next((side for side in SIDES if side >= own), SIDES[-1]),
        "more does not fit into the time": max(affordable, default=SIDES[0]),
        "more did not fit into the time": largest,
    }
    side = min(limits.values())
    reason = next(text for text, limit in limits.items() if limit == side).format(side * small)
    if small * side >= SMALL_BOX:
        reason = f"a tenth of the boxes is smaller than {side * small:.0f} pixels in it, which is enough"
    elif limits["more does not fit into the time"] == side and side < SIDES[-1]:
        reason += f", though a tenth of the boxes is smaller than {side * small:.0f} pixels (more --minutes help)"
    if form != (1, 1):
        reason += f"; the pictures are {'wide' if form == (1, 2) else 'high'}"
    return Choice({"img_shape": [side * form[0], side * form[1]]}, reason)


def choose_batch(facts: Facts) -> Choice:
    """`batch_size`: 4 on a CPU, 16 elsewhere, fewer for few pictures."""
    usual = 4 if facts.device == "CPU" else 16
    batch = max(min(usual, facts.pictures // 4), 2)  # BN needs two
    why = "more steps in the time count for more than larger ones" if facts.device == "CPU" else "what a GPU needs"
    return Choice({"batch_size": batch}, why if batch == usual else f"{facts.pictures} training pictures")


def choose_network(folder: str) -> Tuple[Choice, bool]:
    """(network and weights to start from, whether there are any); folder: the one of the checkpoints, `ckpt`."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    trained = [name for name in names if name.startswith("ssd_resnet50_fpn") and name.endswith(".ckpt")]
    keys = {"model_name": "ssd_resnet50_fpn", "pre_trained": "", "feature_extractor_base_param": ""}
    if trained:
        path = os.path.join(folder, trained[0])
        keys.update(pre_trained=path, match_class_names=True)
        return Choice(keys, f"ckpt holds a trained network, {trained[0]}"), True
    backbone = os.path.join(folder, "resnet50.ckpt")
    if os.path.isfile(backbone):
        keys["feature_extractor_base_param"] = backbone
        return Choice(keys, "ckpt holds a backbone of ImageNet, resnet50.ckpt"), True
    return Choice(keys, "learns most in few steps from random weights; ckpt holds no weights"), False


def choose_anchors(facts: Facts, img_shape: Sequence[int], base: str) -> Choice:
    """The three keys of default boxes, by the code of `check_data.py --suggest`.

    Args:
        base: path of the configuration whose values are kept where they are nearly as good.
    """
    cfg = load_config([f"--config_path={base}", f"--img_shape={list(img_shape)}"])
    now, best = suggest_anchors(facts.boxes, EasyDict(cfg))
    values = {key: getattr(best, key) for key in ("anchor_scale", "anchor_octaves", "anchor_ratios")}
    covered, before = 100 * (1 - best.uncovered), 100 * (1 - now.uncovered)
    than = "" if best is now else f", the published ones {before:.0f} %"
    return Choice(values, f"cover {covered:.0f} % of the boxes{than}")


def choose_rate(batch: int, has_weights: bool) -> Choice:
    """`lr` and `lr_init` of AdamW: the quick start's 0.0005 at batch 4, by the square root of the batch."""
    rate = float(f"{(0.00025 if has_weights else 0.0005) * (batch / 4) ** 0.5:.2g}")
    start = "loaded weights" if has_weights else "random weights"
    return Choice({"lr": rate, "lr_init": rate / 10}, f"AdamW from {start}, batch {batch}")


def choose_schedule(pictures: int, batch: int, steps: int) -> Tuple[List[Choice], int]:
    """(schedule of about so many steps, number of training pictures it uses).

    Where an epoch of all pictures is long compared with the time, some are left out, so that the epochs fit.
    """
    per_epoch = pictures // batch
    epochs = max(round(steps / per_epoch), 1)
    used = pictures
    if epochs < 10:
        epochs = max(-(-steps // per_epoch), 1)
        per_epoch = max(steps // epochs, 1)
        used = min(per_epoch * batch, pictures)
    total = epochs * per_epoch
    warm = max(min(40, total // 10), 1)
    schedule = {"epoch_size": epochs, "warmup_epochs": round(warm / per_epoch, 4)}
    schedule["save_checkpoint_epochs"] = max(epochs // 10, 1)
    left_out = "" if used == pictures else f"; {used} of {pictures} training pictures, so that the epochs fit"
    average = {"ema_decay": round(float(np.clip(1 - 5 / total, 0.9, 0.999)), 4)}
    average["bn_recalibration_steps"] = min(20, per_epoch)
    return [
        Choice(schedule, f"{total} steps in the time, {per_epoch} in an epoch{left_out}"),
        Choice(average, f"the weights of about the last {total // 5} steps, averaged"),
    ], used
