"""One image in, its detections out."""

from __future__ import annotations

import os
from typing import Optional

import numpy as np

from src.data.transforms import resize
from src.errors import UserError
from src.inference.detectors import Detections, open_model, with_thresholds

CONFIG_OF_A_RUN = "config.yaml"


def config_of(model: str, config_path: str = "") -> str:
    """The configuration of a checkpoint: `config_path`, or what its run left in `output_path/config.yaml`.

    Raises:
        UserError: there is none.
    """
    if config_path:
        return config_path
    folder = os.path.dirname(os.path.abspath(model))
    for place in (os.path.dirname(folder), folder):
        if os.path.isfile(os.path.join(place, CONFIG_OF_A_RUN)):
            return os.path.join(place, CONFIG_OF_A_RUN)
    raise UserError(
        f"config_path: a checkpoint does not say its classes, and there is no {CONFIG_OF_A_RUN} of a run in "
        f"{os.path.dirname(folder)}; name the configuration that {model} was trained with"
    )


class Predictor:
    """`Predictor("ssd.onnx")(image) -> boxes, labels, scores`, the same detections as evaluation gives.

    Call with an RGB image uint8 [H, W, 3] of any size (`src.inference.pictures.read_picture`; OpenCV's own are BGR).
    It returns boxes [D, 4] float64 y1, x1, y2, x2 in pixels of that image, labels [D] int64 (`classes[label]` is the
    name) and scores [D] float32 in (min_score, 1], class by class and in each by falling score.

    Args:
        model: a checkpoint, MINDIR or ONNX file. An ONNX file needs onnxruntime and no MindSpore.
        config_path: for a checkpoint, the YAML file that it was trained with; left out, the run's own is looked for.
        min_score: in place of the file's; a file with NMS inside takes a higher one only.
        device_target: CPU, GPU or Ascend, for a checkpoint or MINDIR.

    Raises:
        UserError: a file that is missing, damaged or of another network; a threshold that the file cannot give.
    """

    def __init__(
        self, model: str, config_path: str = "", min_score: Optional[float] = None, device_target: str = "CPU"
    ):
        cfg = None
        if not model.lower().endswith(".onnx"):
            cfg = self._prepare(model, config_path, device_target)
        self._detector = open_model(model, cfg, "model")
        where = f"model: {model} was exported"
        self._detector.description = with_thresholds(self._detector.description, where, min_score)
        self.classes = self._detector.description.classes

    @staticmethod
    def _prepare(model: str, config_path: str, device_target: str):
        """MindSpore set up; the configuration for a checkpoint, None for a MINDIR."""
        from src.config import load_config
        from src.device import init_device, prepare_environment

        options = [f"--device_target={device_target}", "--batch_size=1"]
        is_checkpoint = model.lower().endswith(".ckpt")
        if is_checkpoint and os.path.isfile(model):
            options.append(f"--config_path={config_of(model, config_path)}")
        cfg = load_config([*options, "--run_distribute=False"])
        prepare_environment()
        init_device(cfg)
        return cfg if is_checkpoint else None

    def __call__(self, image: np.ndarray) -> Detections:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"an RGB image uint8 [H, W, 3] is wanted, got {image.dtype} {image.shape}")
        pixels = resize(image, self._detector.description.img_shape)[None]
        boxes, scores, labels = self._detector(pixels, np.array([image.shape[:2]]))[0]
        return boxes, labels, scores
