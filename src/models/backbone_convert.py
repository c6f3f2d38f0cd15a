"""ResNet50 weights of other programs -> the names that `feature_extractor_base_param` reads (NumPy only)."""

from __future__ import annotations

import re
from typing import Dict, List, Tuple

import numpy as np

from src.utils.errors import UserError

BLOCKS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)
EPS_TORCH, EPS = 1e-5, 1e-3
_BN = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_UNUSED = re.compile(
    r"(^|\.)(fc|end_point|num_batches_tracked)(\.|$)|^(moments|moment1|moment2)\.|^(momentum|learning_rate|global_step)$"
)
_PREFIXES = ("module.", "model.", "backbone.", "resnet.", "network.", "feature_extractor.")


def backbone_shapes() -> Dict[str, tuple]:
    """Name below the backbone -> shape, of every parameter of ResNet50 without its classifier (BN averages too)."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **_bn_shapes("bn1", 64)}
    channels = 64
    for number, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS), 1):
        for block in range(blocks):
            start = f"layer{number}.{block}."
            sizes = ((width, channels, 1), (width, width, 3), (4 * width, width, 1))
            for k, (out, into, kernel) in enumerate(sizes, 1):
                shapes[f"{start}conv{k}.weight"] = (out, into, kernel, kernel)
                shapes.update(_bn_shapes(f"{start}bn{k}", out))
            if block == 0:
                shapes[start + "down_sample_layer.0.weight"] = (4 * width, channels, 1, 1)
                shapes.update(_bn_shapes(start + "down_sample_layer.1", 4 * width))
            channels = 4 * width
    return shapes


def _bn_shapes(name: str, channels: int) -> Dict[str, tuple]:
    return {f"{name}.{kind}": (channels,) for kind in _BN.values()}


def to_published_name(name: str) -> str:
    """A parameter's name here, from torchvision's or the published resnet50.ckpt's (which are ours already)."""
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    name = name.replace("downsample.", "down_sample_layer.")
    start, _, kind = name.rpartition(".")
    is_bn = re.search(r"(^|\.)bn\d$", start) or start.endswith("down_sample_layer.1")
    return f"{start}.{_BN.get(kind, kind)}" if is_bn else name


def convert_state_dict(
    found: Dict[str, np.ndarray], path: str, fold_eps: bool = False
) -> Tuple[Dict[str, np.ndarray], List[str]]:
    """The backbone's parameters under our names, float32, and the names in `found` that have no place in it.

    Args:
        fold_eps: scale gamma by sqrt((variance + 1e-3) / (variance + 1e-5)), so that our BN (eps 1e-3) computes what
            PyTorch's (eps 1e-5) does.

    Raises:
        UserError: a parameter is missing, has another shape, is not finite, or the file is another network's.
    """
    shapes = backbone_shapes()
    converted, unused, unknown = {}, [], []
    for name, value in found.items():
        own = to_published_name(name)
        if own in shapes:
            if own in converted:
                raise UserError(f"{path}: two entries become {own}, the second is {name}")
            converted[own] = np.asarray(value, np.float32)
        else:
            (unused if _UNUSED.search(name) else unknown).append(name)
    missing = [name for name in shapes if name not in converted]
    if missing:
        raise UserError(
            f"{path} is no ResNet50: {len(missing)} of {len(shapes)} parameters missing, first {missing[0]}"
        )
    if unknown:
        raise UserError(f"{path} is no ResNet50: it has {len(unknown)} parameters more, first {unknown[0]}")
    for name, shape in shapes.items():
        if converted[name].shape != shape:
            raise UserError(f"{path}: {name} has shape {converted[name].shape}, ResNet50's is {shape}")
        if not np.isfinite(converted[name]).all():
            raise UserError(f"{path}: {name} holds values that are not finite")
    if fold_eps:
        for name in [name for name in shapes if name.endswith(".moving_variance")]:
            variance = converted[name].astype(np.float64)
            gamma = name.replace("moving_variance", "gamma")
            factor = np.sqrt((variance + EPS) / (variance + EPS_TORCH))
            converted[gamma] = (converted[gamma] * factor).astype(np.float32)
    return {name: converted[name] for name in shapes}, unused
