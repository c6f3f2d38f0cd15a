"""MobileNetV1-FPN in PyTorch."""

from __future__ import annotations

from benchmarks.pytorch.layers import FpnSSD, MobileNetV1


def Network() -> FpnSSD:
    return FpnSSD(MobileNetV1((10, 22, 26)), (256, 512, 1024))
