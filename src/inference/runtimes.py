"""An ONNX file of export.py in onnxruntime or OpenVINO, on the CPU. Needs no MindSpore."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Iterator

import numpy as np

from src.inference.detector import IMAGE_SHAPE, IMAGES, NMS_OUTPUTS, RAW_OUTPUTS, Detector
from src.inference.metadata import from_onnx_props
from src.utils.errors import UserError
from src.utils.log import LOGGER
from src.utils.threads import cores

# of `inference_runtime`; openvino computes in bfloat16 where the processor does, openvino_float32 never
RUNTIMES = ("onnxruntime", "openvino", "openvino_float32")


def open_onnx(path: str, runtime: str = RUNTIMES[0], concurrent_calls: int = 1, threads: int = 0) -> Detector:
    """The ONNX file at `path` in a runtime.

    Args:
        runtime: one of `RUNTIMES`.
        concurrent_calls: threads that call it at a time in onnxruntime; they share the cores. OpenVINO takes one.
        threads: that compute, of all calls together; 0 = one per core.

    Raises:
        UserError: the runtime is not installed, or cannot run the file; the file is damaged or not of export.py.
    """
    if runtime not in RUNTIMES:
        raise UserError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime}")
    if runtime == RUNTIMES[0]:
        return OnnxDetector(path, concurrent_calls, threads)
    return OpenVinoDetector(path, runtime == "openvino", threads)


class OnnxDetector(Detector):
    """An ONNX file in onnxruntime; arguments as of `open_onnx`."""

    def __init__(self, path: str, concurrent_calls: int = 1, threads: int = 0):
        if concurrent_calls > 1:  # each has its part of the cores
            threads = max((threads or cores()) // concurrent_calls, 1)
        self.concurrent_calls = concurrent_calls
        self.session = _onnx_session(path, threads)
        super().__init__(from_onnx_props(self.session.get_modelmeta().custom_metadata_map, path))

    def run(self, batch: np.ndarray, shapes: np.ndarray) -> list:
        return self.session.run(_outputs(self), _inputs(self, batch, shapes))


class OpenVinoDetector(Detector):
    """An ONNX file in OpenVINO.

    Args:
        bfloat16: compute in it where the processor does.
        threads: as of `open_onnx`.

    computes_in: bf16 or f32. One call at a time: with several requests in several threads, OpenVINO 2026.4's first
    calls wait for each other for ever, one time in twenty.
    """

    def __init__(self, path: str, bfloat16: bool = True, threads: int = 0):
        try:
            import openvino
        except ImportError:
            raise UserError(
                f"inference_runtime: {path} cannot be run in OpenVINO, which is not installed: pip install openvino"
            ) from None
        try:
            with _all_instructions():
                core = openvino.Core()
                has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
                self.computes_in = "bf16" if bfloat16 and has_bfloat16 else "f32"
                options = {"INFERENCE_PRECISION_HINT": self.computes_in, "NUM_STREAMS": 1}
                if threads:
                    options["INFERENCE_NUM_THREADS"] = threads
                model = core.read_model(path)
                self.compiled = core.compile_model(model, "CPU", options)
        except Exception as error:  # OpenVINO's own kinds
            raise UserError(
                f"inference_runtime: OpenVINO {openvino.__version__} cannot run {path}: {_one_line(error)}; "
                f"use onnxruntime"
            ) from None
        LOGGER.info("OpenVINO %s computes in %s", openvino.__version__.split("-")[0], self.computes_in)
        self._lock = threading.Lock()
        info = model.get_rt_info(["framework"]).value if model.has_rt_info(["framework"]) else {}
        super().__init__(from_onnx_props({key: str(value) for key, value in info.items()}, path))

    def run(self, batch: np.ndarray, shapes: np.ndarray) -> list:
        with self._lock:
            found = self.compiled(_inputs(self, batch, shapes))
            return [found[name] for name in _outputs(self)]


@contextlib.contextmanager
def _all_instructions() -> Iterator[None]:
    """OpenVINO may use all instructions of the processor: what limits MindSpore's oneDNN (`src.utils.device`) would
    make OpenVINO's, which reads it once, several times slower, and bfloat16 end in a crash."""
    names = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    limits = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(limits)


def _inputs(detector: Detector, batch: np.ndarray, shapes: np.ndarray) -> dict:
    inputs = {IMAGES: batch}
    if detector.description.nms:
        inputs[IMAGE_SHAPE] = np.asarray(shapes, np.float32)
    return inputs


def _outputs(detector: Detector) -> tuple:
    return NMS_OUTPUTS if detector.description.nms else RAW_OUTPUTS


def _onnx_session(path: str, threads: int):
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path}: an ONNX file needs the package onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, none of them public
        raise UserError(f"{path} is damaged or no ONNX file: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
