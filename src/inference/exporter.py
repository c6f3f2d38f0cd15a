"""Export of the inference network, checked by loading the file back; docs/reference.md, "Export"."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Callable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from src.inference.detector import Detector, NetworkDetector
from src.inference.metadata import ModelMetadata, description_file, write_description
from src.inference.open_model import load_mindir
from src.inference.runtimes import OnnxDetector
from src.utils.errors import RunError, UserError
from src.utils.locks import try_lock
from src.utils.output import PART, OutputError, output_error

ENDINGS = {"MINDIR": ".mindir", "AIR": ".air", "ONNX": ".onnx"}
# of boxes and scores, which lie in [0, 1]: rounding of two implementations of the same network; int8 is judged by mAP
TOLERANCE, TOLERANCE_FLOAT16 = 1e-3, 1e-2
# NMS in float32 may decide otherwise than in float64 where an overlap lies on the threshold, or two scores are equal
NMS_TOLERANCE = 0.02
STALE_SECONDS = 60  # a new folder is not locked at once


@dataclass
class Calibration:
    """What int8 is made and judged with.

    images: of the training set, uint8 RGB [n, H, W, 3] of the network's size; measure: the mAP of a detector on the
    evaluation set; max_loss: how much of the mAP int8 may lose.
    """

    images: np.ndarray
    measure: Callable[[Detector], float]
    max_loss: float


def target_path(file_name: str, file_format: str) -> str:
    """Absolute path of the file to write: `file_name` with or without the format's ending.

    Raises:
        UserError: its folder is not there or cannot be written.
    """
    ending = ENDINGS[file_format]
    stem = file_name[: -len(ending)] if file_name.lower().endswith(ending) else file_name
    path = os.path.abspath(stem + ending)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"file_name: cannot write to {folder}; make the folder or name another with --file_name")
    if not os.path.basename(stem) or os.path.isdir(path):
        raise UserError(f"file_name: {file_name!r} names no file")
    return path


def export_network(
    inference,
    description: ModelMetadata,
    file_format: str,
    path: str,
    images: np.ndarray,
    shapes: np.ndarray,
    calibration: Optional[Calibration] = None,
) -> str:
    """Write the network, load the file and compare its output with the network's.

    Args:
        inference: a `src.models.ssd.SSDInference` in evaluation mode. Its convolutions become MindSpore's operators.
        description: the input that is wanted, with its batch size, and for ONNX whether the batch is dynamic and NMS
            goes in.
        path: from `target_path`. The description travels in an ONNX file, and next to the other formats as a JSON file.
        images, shapes: uint8 RGB [n, H, W, 3] and (height, width) [n, 2] of the originals, to compare with.
        calibration: for int8.

    Returns:
        One line about the comparison.

    Raises:
        RunError: the file computes something else, or could not be made; nothing is left of it.
    """
    import mindspore as ms
    from mindspore import Tensor

    from src.models.cpu_conv import use_builtin_conv

    use_builtin_conv(inference)
    raw = replace(description, nms=False, dynamic_batch=False, precision="float32")
    network = NetworkDetector(inference, raw)
    count = description.batch_size
    if description.dynamic_batch:
        from src.inference.onnx_optimize import TRACED_BATCH

        count = TRACED_BATCH
    example = network._input(np.zeros((count, *description.img_shape, 3), np.uint8))
    with _part_folder(path) as folder:
        exported = os.path.join(folder, "model" + ENDINGS[file_format])
        try:
            with _ascii_path(folder) as plain:
                ms.export(inference, Tensor(example), file_name=f"{plain}/model", file_format=file_format)
            os.chmod(exported, 0o644)
            if file_format == "ONNX":
                report = _finish_onnx(exported, description, network, images, shapes, calibration)
            else:
                report = "not loaded back: nothing here can run this format"
                if file_format == "MINDIR":
                    report = _compare_raw(network, NetworkDetector(load_mindir(exported), raw), images, shapes)
                write_description(raw, exported, description_file(exported))
                os.replace(description_file(exported), description_file(path))
            os.replace(exported, path)
        except (OSError, OutputError) as error:
            raise output_error(path, error.__cause__ or error) from error
        except (ValueError, RuntimeError, UserError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RunError(f"{path}: the {file_format} file could not be made: {reason}") from error
    return report


@contextlib.contextmanager
def _ascii_path(folder: str) -> Iterator[str]:
    """A path of a folder that MindSpore's export takes: it refuses blanks and letters beyond ASCII in the path that it
    is given, not in the one that this leads to: an open folder (Linux) or a link."""
    if not os.path.isdir("/proc/self/fd"):
        with tempfile.TemporaryDirectory() as temporary:
            path = os.path.join(temporary, "link")
            try:
                os.symlink(folder, path, target_is_directory=True)
            except (OSError, NotImplementedError):  # Windows allows it to developers only
                path = folder
            yield path
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _part_folder(path: str) -> Iterator[str]:
    """A new folder next to `path`, removed when the block ends; it is locked, and those of killed exports go first."""
    parent = os.path.dirname(path)
    for left_over in glob.glob(os.path.join(glob.escape(parent), f"{PART}export-*")):
        with contextlib.suppress(OSError):
            lock = try_lock(left_over) if time.time() - os.stat(left_over).st_mtime > STALE_SECONDS else None
            if lock is not None:
                shutil.rmtree(left_over, ignore_errors=True)
                lock.release()
    try:
        folder = tempfile.mkdtemp(prefix=f"{PART}export-", dir=parent)
        lock = try_lock(folder)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            lock.release()


def _finish_onnx(path: str, description: ModelMetadata, network: Detector, images, shapes, calibration) -> str:
    from src.inference.onnx_graph import add_nms, name_outputs_and_add_metadata
    from src.inference.onnx_optimize import optimize

    optimize(path, description.dynamic_batch)
    raw = replace(description, nms=False, precision="float32")
    name_outputs_and_add_metadata(path, raw)
    detector = OnnxDetector(path)
    report = _compare_raw(network, detector, images, shapes)
    if description.precision != "float32":
        raw = replace(raw, precision=description.precision)
        report = f"{report}; {_lower_precision(path, raw, network, detector, images, shapes, calibration)}"
        detector = OnnxDetector(path)
    if not description.nms:
        return report
    add_nms(path, description)
    missed, count, furthest = compare_detections(detector(images, shapes), OnnxDetector(path)(images, shapes))
    if missed > NMS_TOLERANCE * max(count, 50):
        raise RunError(f"{path}: NMS inside differs in {missed} of {count} detections; the file was not kept")
    return f"{report}; NMS inside: {count} detections, {missed} differ, boxes by at most {furthest:.2g} pixels"


def _lower_precision(
    path: str, raw: ModelMetadata, network: Detector, float32: Detector, images, shapes, calibration
) -> str:
    """Convert the float32 file at `path` to `raw.precision`; what that changes, in words.

    Raises:
        RunError: too much.
    """
    from src.inference.onnx_graph import add_metadata
    from src.inference.onnx_precision import to_float16, to_int8

    if raw.precision == "float16":
        to_float16(path)
        add_metadata(path, raw)
        largest = _largest_difference(network, OnnxDetector(path), images, shapes)
        if not largest < TOLERANCE_FLOAT16:
            raise RunError(f"the float16 file differs from the network by {largest:.3g}; it was not kept")
        return f"float16: largest difference {largest:.3g}"
    to_int8(path, calibration.images, float32)
    add_metadata(path, raw)
    before, after = calibration.measure(float32), calibration.measure(OnnxDetector(path))
    figures = f"mAP {after:.4f} on the evaluation set, float32 {before:.4f}"
    if before - after > calibration.max_loss:
        raise RunError(
            f"export_max_loss: the int8 file has {figures}, a loss of more than {calibration.max_loss:g}; it was not "
            f"kept; calibrate it on more pictures (--export_calibration_images), or export float16"
        )
    return f"int8: {figures}, calibrated on {len(calibration.images)} training images"


def _compare_raw(network: Detector, loaded: Detector, images: np.ndarray, shapes: np.ndarray) -> str:
    largest = _largest_difference(network, loaded, images, shapes)
    if not largest < TOLERANCE:
        raise RunError(f"the exported file differs from the network by {largest:.3g}; it was not kept")
    return f"loaded back and compared with the network: largest difference {largest:.3g}"


def _largest_difference(network: Detector, loaded: Detector, images: np.ndarray, shapes: np.ndarray) -> float:
    outputs = [_outputs(detector, images, shapes) for detector in (network, loaded)]
    # NaN is a difference too
    return max(float(np.nan_to_num(np.abs(a - b), nan=np.inf).max()) for a, b in zip(*outputs))


def _outputs(detector: Detector, images: np.ndarray, shapes: np.ndarray) -> List[np.ndarray]:
    """Boxes [n, N, 4] and scores [n, N, C] of all images. Where the batch is dynamic, the first image is a batch, and
    the others are one that is larger than what the network was exported with."""
    size, count = detector.description.batch_size, len(images)
    if detector.description.dynamic_batch:
        from src.inference.onnx_optimize import TRACED_BATCH

        more = max(count - 1, TRACED_BATCH + 1)
        batches = [images[:1], np.resize(images[1:] if count > 1 else images, (more, *images.shape[1:]))]
    else:
        batches = [np.resize(images[at : at + size], (size, *images.shape[1:])) for at in range(0, count, size)]
    outputs = [detector.run(detector._input(batch), shapes) for batch in batches]
    return [np.concatenate(parts)[:count] for parts in zip(*outputs)]


def compare_detections(first: Sequence[tuple], second: Sequence[tuple], pixels: float = 0.1) -> Tuple[int, int, float]:
    """Detections of the same images by two detectors: (without a partner, all of the first, furthest partner).

    Partners have the same class, each box side within `pixels`, and scores within `TOLERANCE`.
    """
    missed, count, furthest = 0, 0, 0.0
    for (boxes, scores, labels), (others, other_scores, other_labels) in zip(first, second):
        free = np.ones(len(others), bool)
        count += len(boxes)
        for box, score, label in zip(boxes, scores, labels):
            far = np.abs(others - box).max(axis=1) if len(others) else np.empty(0)
            near = free & (other_labels == label) & (far < pixels) & (np.abs(other_scores - score) < TOLERANCE)
            if not near.any():
                missed += 1
                continue
            best = np.flatnonzero(near)[np.argmin(far[near])]
            free[best], furthest = False, max(furthest, float(far[best]))
        missed += int(free.sum())
    return missed, count, furthest
