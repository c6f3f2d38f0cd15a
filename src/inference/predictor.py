"""One image in, its detections out."""

from __future__ import annotations

import os
from typing import List, Optional

import numpy as np
import yaml

from src.data.transforms import resize
from src.inference.detector import Detections
from src.inference.open_model import open_model, with_thresholds
from src.models.trained_classes import CONFIG_OF_A_RUN, read_trained_config, run_configuration, trained_classes
from src.utils.errors import UserError
from src.utils.log import LOGGER

# the options that a network and its default boxes follow from
_NETWORK_KEYS = (
    "model_name",
    "img_shape",
    "num_default",
    "extras_out_channels",
    "feature_size",
    "steps",
    "num_addition_layers",
    "use_anchor_generator",
    "use_float16",
    "backbone_padding",
    "num_classes",
    "classes",
    "prior_scaling",
    "min_scale",
    "max_scale",
    "aspect_ratios",
)


def options_of(model: str, config_path: str = "") -> List[str]:
    """The command line of a checkpoint's configuration: `config_path`, or what its run left in
    `output_path/config.yaml`, or what the checkpoint holds itself, also where a config.yaml near it is another run's.

    Raises:
        UserError: there is none.
    """
    if config_path:
        return [f"--config_path={config_path}"]
    near, config = run_configuration(model), read_trained_config(model)
    held = bool(trained_classes(config))
    if near and held and not _is_of(near, config):
        LOGGER.info("%s is of another training; the network's options are those that %s holds", near, model)
        near = ""
    if near:
        return [f"--config_path={near}"]
    if not held:
        raise UserError(
            f"config_path: a checkpoint does not say its classes where no training of this repository saved it, and "
            f"there is no {CONFIG_OF_A_RUN} of a run near it; name the configuration that {model} was trained with "
            f"(--config_path)"
        )
    return [f"--{key}={config[key]}" for key in _NETWORK_KEYS if key in config]


def _is_of(config_path: str, config: dict) -> bool:
    """Whether a run's config.yaml describes the network of a `trained_config`."""
    try:
        with open(config_path, encoding="utf-8") as handle:
            content = yaml.safe_load(handle)
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and all(content.get(key) == config[key] for key in _NETWORK_KEYS if key in config)


class Predictor:
    """`Predictor("ssd.onnx")(image) -> boxes, labels, scores`, the same detections as evaluation gives.

    Call with an RGB image uint8 [H, W, 3] of any size (`src.inference.pictures.read_picture`; OpenCV's own are BGR).
    It returns boxes [D, 4] float64 y1, x1, y2, x2 in pixels of that image, labels [D] int64 (`classes[label]` is the
    name) and scores [D] float32 in (min_score, 1], class by class and in each by falling score.

    Args:
        model: a checkpoint, MINDIR or ONNX file. An ONNX file needs onnxruntime and no MindSpore.
        config_path: the YAML file that it was trained with. Left out, that of a checkpoint's run is looked for, then
            what the checkpoint holds itself. An exported file needs none; it is compared with one that is given.
        min_score: in place of the file's; a file with NMS inside takes a higher one only.
        device_target: CPU, GPU or Ascend, for a checkpoint or MINDIR.
        runtime: of an ONNX file, one of `src.inference.runtimes.RUNTIMES`; "" is onnxruntime, or the configuration's.

    Raises:
        UserError: a file that is missing, damaged or of another network; a threshold that the file cannot give.
    """

    def __init__(
        self,
        model: str,
        config_path: str = "",
        min_score: Optional[float] = None,
        device_target: str = "CPU",
        runtime: str = "",
    ):
        cfg = self._prepare(model, config_path, device_target)
        self._detector = open_model(model, cfg, "model", runtime=runtime)
        where = f"model: {model} was exported"
        self._detector.description = with_thresholds(self._detector.description, where, min_score)
        self.classes = self._detector.description.classes

    @staticmethod
    def _prepare(model: str, config_path: str, device_target: str):
        """MindSpore set up where it is needed, and the configuration; None where the file needs none."""
        from src.config import load_config

        is_checkpoint = model.lower().endswith(".ckpt")
        options = [f"--device_target={device_target}", "--batch_size=1"]
        if config_path and not is_checkpoint:
            options.append(f"--config_path={config_path}")
        elif is_checkpoint and os.path.isfile(model):
            options += options_of(model, config_path)
        cfg = load_config([*options, "--run_distribute=False"])
        if not model.lower().endswith(".onnx"):
            from src.utils.device import init_device, prepare_environment

            prepare_environment()
            init_device(cfg)
        return cfg if is_checkpoint or config_path else None

    def __call__(self, image: np.ndarray) -> Detections:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"an RGB image uint8 [H, W, 3] is wanted, got {image.dtype} {image.shape}")
        pixels = resize(image, self._detector.description.img_shape)[None]
        boxes, scores, labels = self._detector(pixels, np.array([image.shape[:2]]))[0]
        return boxes, labels, scores
