"""Export of the inference network, proven by loading the file back (SPEC section 9)."""

from __future__ import annotations

import os
from typing import Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.errors import RunError, UserError

ENDINGS = {"MINDIR": ".mindir", "AIR": ".air", "ONNX": ".onnx"}
# float32 rounding of two implementations of the same network; boxes and scores lie in [0, 1]
TOLERANCE = 1e-3


def export_network(inference: nn.Cell, file_name: str, file_format: str, shape: Sequence[int]) -> Tuple[str, str]:
    """Write the network with a fixed input, load the file and compare its output with the network's.

    Args:
        inference: images [B, 3, H, W] -> (boxes [B, N, 4], scores [B, N, C]), in evaluation mode.
        file_name: path with or without the format's ending.
        shape: (B, 3, H, W).

    Returns:
        The absolute path, and one line about the comparison.

    Raises:
        UserError: the folder cannot be written. RunError: the file computes something else.
    """
    ending = ENDINGS[file_format]
    stem = file_name[: -len(ending)] if file_name.endswith(ending) else file_name
    path = os.path.abspath(stem + ending)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"file_name: cannot write to {folder}")
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = [output.asnumpy() for output in inference(Tensor(images))]
    beside = os.path.join(folder, f".part-{os.getpid()}")
    try:
        ms.export(inference, Tensor(images), file_name=beside, file_format=file_format)
        difference = _difference(beside + ending, file_format, images, expected)
        if difference is not None and not difference < TOLERANCE:
            raise RunError(f"{path}: the exported file differs from the network by {difference:.3g}; it was not kept")
        os.chmod(beside + ending, 0o644)
        os.replace(beside + ending, path)
    finally:
        if os.path.exists(beside + ending):
            os.remove(beside + ending)
    if difference is None:
        return path, "not loaded back: nothing here can run this format"
    return path, f"loaded back and compared with the network: largest difference {difference:.3g}"


def _difference(path: str, file_format: str, images: np.ndarray, expected: list):
    """Largest difference of the file's outputs from `expected`, None where nothing here can run it."""
    if file_format == "MINDIR":
        outputs = [output.asnumpy() for output in nn.GraphCell(ms.load(path))(Tensor(images))]
    elif file_format == "ONNX":
        try:
            import onnxruntime
        except ImportError:
            return None
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: images})
    else:
        return None
    return max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(expected, outputs))
