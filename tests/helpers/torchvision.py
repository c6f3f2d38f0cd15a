"""Classifiers of torchvision, written down from their architectures: random weights under its names, and their
features in plain NumPy."""

from __future__ import annotations

import numpy as np

# expansion, output channels, number of blocks, stride of the first
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


class _State(dict):
    """Name -> float32 array, drawn in the order in which the layers are added.

    is_bounded: gamma makes up for small variances; otherwise ReLU6 saturates, and rounding errors grow from block to
        block.
    """

    def __init__(self, seed: int, is_bounded: bool = False):
        super().__init__()
        self.is_bounded = is_bounded
        self.rng = np.random.default_rng(seed)

    def add(self, name: str, value) -> None:
        self[name] = np.asarray(value).astype(np.float32)

    def conv(self, name: str, out: int, into: int, kernel: int) -> None:
        self.add(name + ".weight", self.rng.normal(0, (2 / (into * kernel**2)) ** 0.5, (out, into, kernel, kernel)))

    def bn(self, name: str, channels: int, gain: float = 1.0) -> None:
        gamma = self.rng.uniform(0.5, 1.5, channels) * gain
        self.add(name + ".bias", self.rng.normal(0, 0.1, channels))
        self.add(name + ".running_mean", self.rng.normal(0, 0.1, channels))
        # some are so small that eps matters
        variance = np.where(self.rng.random(channels) < 0.04, 1e-3, self.rng.uniform(0.5, 2, channels))
        self.add(name + ".weight", gamma * np.sqrt(variance) if self.is_bounded else gamma)
        self.add(name + ".running_var", variance)
        self.add(name + ".num_batches_tracked", 7)


def resnet50_state(seed: int = 3) -> dict:
    """320 entries."""
    state = _State(seed)
    state.conv("conv1", 64, 3, 7)
    state.bn("bn1", 64, 0.3)
    into = 64
    for layer, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for block in range(blocks):
            start = f"layer{layer}.{block}."
            state.conv(start + "conv1", width, into, 1)
            state.bn(start + "bn1", width, 0.3)
            state.conv(start + "conv2", width, width, 3)
            state.bn(start + "bn2", width, 0.3)
            state.conv(start + "conv3", 4 * width, width, 1)
            state.bn(start + "bn3", 4 * width, 0.1)
            if block == 0:
                state.conv(start + "downsample.0", 4 * width, into, 1)
                state.bn(start + "downsample.1", 4 * width, 0.1)
            into = 4 * width
    state.add("fc.weight", state.rng.normal(0, 0.01, (1000, 2048)))
    state.add("fc.bias", np.zeros(1000))
    return dict(state)


def mobilenet_v2_state(seed: int = 4) -> dict:
    """314 entries."""
    state = _State(seed, is_bounded=True)
    state.conv("features.0.0", 32, 3, 3)
    state.bn("features.0.1", 32)
    into, number = 32, 1
    for expansion, out, count, _ in MOBILENET_V2:
        for _ in range(count):
            start, hidden = f"features.{number}.conv.", into * expansion
            layers = [(hidden, into, 1)] * (expansion > 1) + [(hidden, 1, 3)]
            for k, shape in enumerate(layers):
                state.conv(f"{start}{k}.0", *shape)
                state.bn(f"{start}{k}.1", hidden)
            state.conv(f"{start}{len(layers)}", out, hidden, 1)
            state.bn(f"{start}{len(layers) + 1}", out, 0.5)
            into, number = out, number + 1
    state.conv("features.18.0", 1280, 320, 1)
    state.bn("features.18.1", 1280)
    state.add("classifier.1.weight", state.rng.normal(0, 0.01, (1000, 1280)))
    state.add("classifier.1.bias", np.zeros(1000))
    return dict(state)


def vgg16_state(has_bn: bool, seed: int = 5) -> dict:
    """32 entries, with BN 97; the classifier's large matrices are cut to a few rows, which nothing reads."""
    state = _State(seed)
    into, number = 3, 0
    for out in VGG16:
        if out == "pool":
            number += 1
            continue
        state.conv(f"features.{number}", out, into, 3)
        state.add(f"features.{number}.bias", state.rng.normal(0, 0.1, out))
        if has_bn:
            state.bn(f"features.{number + 1}", out)
        into, number = out, number + (3 if has_bn else 2)
    for number in (0, 3, 6):
        state.add(f"classifier.{number}.weight", np.zeros((2, 4)))
        state.add(f"classifier.{number}.bias", np.zeros(2))
    return dict(state)


def windows(x, kernel: int, stride: int, pad: int):
    """[B, C, H, W] -> [B, C, h, w, kernel, kernel], zeros on both sides."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    views = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (2, 3))
    return views[:, :, ::stride, ::stride]


class _Layers:
    """The layers of a state dict: symmetric padding, BN with eps 1e-5."""

    def __init__(self, state: dict):
        self.state = state

    def conv(self, name: str, x, stride: int = 1):
        weight = self.state[name + ".weight"]
        seen = windows(x, weight.shape[-1], stride, weight.shape[-1] // 2)
        if weight.shape[1] == 1:  # depthwise
            return np.einsum("bchwij,cij->bchw", seen, weight[:, 0], optimize=True)
        return np.einsum("bchwij,ocij->bohw", seen, weight, optimize=True)

    def bn(self, name: str, x):
        kinds = ("weight", "bias", "running_mean", "running_var")
        gamma, beta, mean, var = (self.state[f"{name}.{kind}"][:, None, None] for kind in kinds)
        return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta


def resnet50_features(state: dict, x) -> list:
    """C3, C4, C5 as in torchvision, with the stride in the 3x3."""
    net = _Layers(state)
    x = np.maximum(net.bn("bn1", net.conv("conv1", x, 2)), 0)
    # padding with -inf, as for a maximum: after the ReLU zeros have the same effect
    x = windows(x, 3, 2, 1).max((-1, -2))
    features = []
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            start, stride = f"layer{layer}.{block}.", 2 if layer > 1 and block == 0 else 1
            out = np.maximum(net.bn(start + "bn1", net.conv(start + "conv1", x)), 0)
            out = np.maximum(net.bn(start + "bn2", net.conv(start + "conv2", out, stride)), 0)
            out = net.bn(start + "bn3", net.conv(start + "conv3", out))
            if block == 0:
                x = net.bn(start + "downsample.1", net.conv(start + "downsample.0", x, stride))
            x = np.maximum(out + x, 0)
        features.append(x)
    return features[1:]


def mobilenet_v2_features(state: dict, x) -> list:
    """The expansion of block 14 [B, 576, H/16, W/16] and the last block [B, 1280, H/32, W/32]."""
    net = _Layers(state)

    def conv_bn_relu6(start, x, stride=1):
        return np.clip(net.bn(start + ".1", net.conv(start + ".0", x, stride)), 0, 6)

    x, number, level0 = conv_bn_relu6("features.0", x, 2), 1, None
    for expansion, _, count, first_stride in MOBILENET_V2:
        for stride in [first_stride] + [1] * (count - 1):
            start, out, last = f"features.{number}.conv.", x, 1 if expansion == 1 else 2
            if expansion > 1:
                out = conv_bn_relu6(start + "0", out)
            if number == 14:
                level0 = out
            out = conv_bn_relu6(f"{start}{last - 1}", out, stride)
            out = net.bn(f"{start}{last + 1}", net.conv(f"{start}{last}", out))
            x = out + x if out.shape == x.shape else out
            number += 1
    return [level0, conv_bn_relu6("features.18", x)]


def vgg16_features(state: dict, has_bn: bool, x) -> list:
    """The last ReLU before the fourth pooling and the fifth pooling, as the published SSD computes them from these
    weights: no bias, no BN, poolings that keep a last odd row, the fifth of 3x3 and stride 1."""
    net, number, poolings, level0 = _Layers(state), 0, 0, None
    for out in VGG16:
        if out != "pool":
            x = np.maximum(net.conv(f"features.{number}", x), 0)
            number += 3 if has_bn else 2
            continue
        number, poolings = number + 1, poolings + 1
        if poolings == 4:
            level0 = x
        if poolings < 5:
            x = np.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, x.shape[3] % 2)))
            x = windows(x, 2, 2, 0).max((-1, -2))
    return [level0, windows(x, 3, 1, 1).max((-1, -2))]
