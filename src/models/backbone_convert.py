"""Backbone weights of other programs -> the names that `feature_extractor_base_param` reads (NumPy only)."""

from __future__ import annotations

import re
from typing import Collection, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

import numpy as np

from src.utils.errors import UserError

EPS_TORCH = 1e-5
_BN = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_UNUSED = re.compile(
    r"(^|\.)(fc|end_point|classifier|head|num_batches_tracked)(\.|$)"
    r"|^(moments|moment1|moment2)\.|^(momentum|learning_rate|global_step)$"
)
_PREFIXES = ("module.", "model.", "backbone.", "resnet.", "network.", "feature_extractor.")


class Architecture(NamedTuple):
    """A network whose weights can be converted; one row of `ARCHITECTURES`.

    name: in messages.
    options: of a training that reads the converted file.
    shapes: name in the converted file -> shape, BN averages too, the classifier not.
    rename: pattern and replacement that make a torchvision name one of these, but for BN's parameters.
    unread: names in the converted file of parameters of the architecture that the network here does not load.
    eps: of the BN here; None where none is read.
    """

    name: str
    options: str
    shapes: Dict[str, tuple]
    rename: Tuple[str, str]
    unread: FrozenSet[str] = frozenset()
    eps: Optional[float] = None


class Conversion(NamedTuple):
    """parameters: name here -> float32. unread, unused: names in the file of parameters of the architecture that the
    network here does not load, and of what is no part of a backbone."""

    architecture: Architecture
    parameters: Dict[str, np.ndarray]
    unread: List[str]
    unused: List[str]


def _bn_shapes(name: str, channels: int) -> Dict[str, tuple]:
    return {f"{name}.{kind}": (channels,) for kind in _BN.values()}


def _resnet50() -> Dict[str, tuple]:
    shapes = {"conv1.weight": (64, 3, 7, 7), **_bn_shapes("bn1", 64)}
    channels = 64
    for number, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
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


def _mobilenet_v2() -> Dict[str, tuple]:
    shapes = {}

    def add(conv: str, bn: str, shape: tuple):
        shapes[conv + ".weight"] = shape
        shapes.update(_bn_shapes(bn, shape[0]))

    add("features.0.features.0", "features.0.features.1", (32, 3, 3, 3))
    # expansion, output channels, number of blocks
    stages = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    channels, number = 32, 0
    for expansion, channels_out, count in stages:
        for _ in range(count):
            number += 1
            start, hidden, index = f"features.{number}.conv.", channels * expansion, 0
            if expansion > 1:
                add(start + "0.features.0", start + "0.features.1", (hidden, channels, 1, 1))
                index = 1
            add(f"{start}{index}.features.0", f"{start}{index}.features.1", (hidden, 1, 3, 3))
            add(f"{start}{index + 1}", f"{start}{index + 2}", (channels_out, hidden, 1, 1))
            channels = channels_out
    add("features.18.features.0", "features.18.features.1", (1280, channels, 1, 1))
    return shapes


def _vgg16(name: str, has_bn: bool) -> Architecture:
    weights, unread = {}, set()
    channels, number = 3, 0
    for channels_out, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            weights[f"layers.{number}.weight"] = (channels_out, channels, 3, 3)
            unread.add(f"layers.{number}.bias")
            if has_bn:
                unread.update(_bn_shapes(f"layers.{number + 1}", channels_out))
            channels = channels_out
            number += 3 if has_bn else 2  # convolution, BN, ReLU
        number += 1  # pooling
    options = f"--model_name=ssd_vgg16 --pretrain_vgg_bn={has_bn}"
    return Architecture(name, options, weights, (r"^features\.", "layers."), frozenset(unread))


_SYMMETRIC = " (and --backbone_padding=symmetric for weights of PyTorch)"
ARCHITECTURES = (
    Architecture(
        "ResNet50",
        "--model_name=ssd_resnet50_fpn" + _SYMMETRIC,
        _resnet50(),
        (r"\bdownsample\.", "down_sample_layer."),
        eps=1e-3,
    ),
    Architecture(
        "MobileNetV2",
        "--model_name=ssd300" + _SYMMETRIC,
        _mobilenet_v2(),
        (r"^(features\.\d+(?:\.conv\.\d+)?)\.(\d\.\w+)$", r"\1.features.\2"),
        eps=1e-3,
    ),
    _vgg16("VGG16", has_bn=False),
    _vgg16("VGG16-BN", has_bn=True),
)


def to_published_name(name: str, architecture: Architecture) -> str:
    """A parameter's name here, from torchvision's or from a published file's (which are ours already)."""
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    name = re.sub(*architecture.rename, name)
    start, _, kind = name.rpartition(".")
    is_bn = any(start + ".gamma" in names for names in (architecture.shapes, architecture.unread))
    return f"{start}.{_BN.get(kind, kind)}" if is_bn else name


def recognise(found: Collection[str], path: str) -> Architecture:
    """The architecture that has the most of these names.

    Raises:
        UserError: none has one of them.
    """

    def count(architecture: Architecture) -> int:
        return sum(to_published_name(name, architecture) in architecture.shapes for name in found)

    best = max(ARCHITECTURES, key=count)
    if count(best):
        return best
    names = ", ".join(architecture.name for architecture in ARCHITECTURES)
    if any(re.search(r"(^|\.)network\.\d+\.0\.weight$", name) for name in found):
        raise UserError(f"{path} holds MobileNetV1, which feature_extractor_base_param reads without conversion")
    first = f"; the first is {next(iter(found))}" if found else ""
    raise UserError(f"{path}: unknown architecture: none of its {len(found)} parameter names belongs to {names}{first}")


def convert_state_dict(found: Dict[str, np.ndarray], path: str, fold_eps: bool = False) -> Conversion:
    """The backbone's parameters under our names.

    Args:
        fold_eps: scale gamma by sqrt((variance + 1e-3) / (variance + 1e-5)), so that our BN (eps 1e-3) computes what
            PyTorch's (eps 1e-5) does.

    Raises:
        UserError: a parameter is missing, has another shape, is not finite, the file is another network's, or
            `fold_eps` where no BN is read.
    """
    architecture = recognise(found, path)
    title, shapes = architecture.name, architecture.shapes
    if fold_eps and architecture.eps is None:
        raise UserError(f"--fold_eps: {path} holds {title}, of which no BN is read; leave the option out")
    converted, unread, unused, unknown = {}, [], [], []
    for name, value in found.items():
        target = to_published_name(name, architecture)
        if target in shapes:
            if target in converted:
                raise UserError(f"{path}: two entries become {target}, the second is {name}")
            converted[target] = np.asarray(value, np.float32)
        elif target in architecture.unread:
            unread.append(name)
        else:
            (unused if _UNUSED.search(name) else unknown).append(name)
    missing = [name for name in shapes if name not in converted]
    if missing:
        raise UserError(
            f"{path} is not a {title}: {len(missing)} of {len(shapes)} parameters missing, first {missing[0]}"
        )
    if unknown:
        raise UserError(f"{path} is not a {title}: it has {len(unknown)} extra parameters, first {unknown[0]}")
    for name, shape in shapes.items():
        if converted[name].shape != shape:
            raise UserError(f"{path}: {name} has shape {converted[name].shape}, {title}'s is {shape}")
        if not np.isfinite(converted[name]).all():
            raise UserError(f"{path}: {name} holds values that are not finite")
    if fold_eps:
        for name in [name for name in shapes if name.endswith(".moving_variance")]:
            variance = converted[name].astype(np.float64)
            gamma = name.replace("moving_variance", "gamma")
            factor = np.sqrt((variance + architecture.eps) / (variance + EPS_TORCH))
            converted[gamma] = (converted[gamma] * factor).astype(np.float32)
    return Conversion(architecture, {name: converted[name] for name in shapes}, unread, unused)
