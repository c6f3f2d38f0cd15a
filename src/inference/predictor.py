"""Detection on single images, with whatever kind of model file."""

from __future__ import annotations

import os
from typing import List, Optional

import numpy as np
import yaml

from src.config.networks import OPTIONAL_KEYS
from src.data.tiles import Tiling, network_tiles
from src.inference.detector import Detections
from src.inference.open_model import open_model, with_thresholds
from src.inference.score_threshold import threshold_of
from src.inference.tiled import TileQueue
from src.models.trained_classes import CONFIG_OF_A_RUN, read_trained_config, run_configuration, trained_classes
from src.utils.errors import UserError
from src.utils.log import LOGGER

# the options that define a network and its default boxes
_NETWORK_KEYS = (
    "model_name",
    "img_shape",
    "num_default",
    "extras_out_channels",
    "feature_size",
    "steps",
    *OPTIONAL_KEYS,
    "use_anchor_generator",
    "use_float16",
    "num_classes",
    "classes",
    "prior_scaling",
    "anchor_scale",
    "anchor_octaves",
    "anchor_ratios",
    "min_scale",
    "max_scale",
    "aspect_ratios",
)


def options_of(model: str, config_path: str = "") -> List[str]:
    """Command line options that give a checkpoint's configuration: `config_path`; else config.yaml in the output folder
    of its run, unless that belongs to another training; else the options stored in the checkpoint.

    Raises:
        UserError: there is no configuration.
    """
    if config_path:
        return [f"--config_path={config_path}"]
    run_config, stored = run_configuration(model), read_trained_config(model)
    has_classes = bool(trained_classes(stored))
    if run_config and has_classes and not _describes(run_config, stored):
        LOGGER.info("%s belongs to another training; the options stored in %s are used", run_config, model)
        run_config = ""
    if run_config:
        return [f"--config_path={run_config}"]
    if not has_classes:
        raise UserError(
            f"config_path: {model} holds no class names (it was not saved by a training of this repository), and there "
            f"is no {CONFIG_OF_A_RUN} of its run; name the configuration that it was trained with (--config_path)"
        )
    return [f"--{key}={stored[key]}" for key in (*_NETWORK_KEYS, "tile", "overlap") if key in stored]


def _describes(config_path: str, stored: dict) -> bool:
    """Whether a run's config.yaml describes the network of the options stored in a checkpoint."""
    try:
        with open(config_path, encoding="utf-8") as handle:
            content = yaml.safe_load(handle)
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and all(content.get(key) == stored[key] for key in _NETWORK_KEYS if key in stored)


class Predictor:
    """`Predictor("ssd.onnx")(image) -> boxes, labels, scores`, the same detections as in evaluation.

    Call with an RGB image uint8 [H, W, 3] of any size (`src.inference.pictures.read_picture`; OpenCV reads BGR).
    It returns boxes [D, 4] float64 y1, x1, y2, x2 in pixels of that image, labels [D] int64 (`classes[label]` is the
    name) and scores [D] float32 in (min_score, 1], class by class, and within a class by descending score.

    Args:
        model: a checkpoint, MINDIR or ONNX file. An ONNX file needs onnxruntime and no MindSpore.
        config_path: the YAML file that it was trained with. By default, a checkpoint is read with config.yaml of its
            run, or with the options stored in it. An exported file needs none; if one is given, they are compared.
        min_score: replaces that of the file; for a file with NMS inside it can only be higher.
        device_target: CPU, GPU or Ascend, for a checkpoint or MINDIR.
        concurrent_calls: number of threads that may call an ONNX file at the same time; they share the cores. A
            checkpoint or MINDIR takes one call at a time, from the main thread.
        runtime: of an ONNX file, one of `src.inference.runtimes.RUNTIMES`; "" is onnxruntime, or the configuration's.
        nms: hard, or soft for soft-NMS. "" is the configuration's, or hard without one.
        tta: none, or flip for the mean of the outputs for an image and its mirror image. "" is the configuration's,
            or none without one. soft and flip need a file without NMS inside.
        tile: side in pixels of the square tiles that an image is cut into, 0 for none; None is the configuration's or
            the file's. Tiles need a file without NMS inside.
        overlap: share of a tile's side that neighbouring tiles have in common; None as for `tile`.

    Raises:
        UserError: a file that is missing, damaged or of another network; an option that the file does not allow.
    """

    def __init__(
        self,
        model: str,
        config_path: str = "",
        min_score: Optional[float] = None,
        device_target: str = "CPU",
        concurrent_calls: int = 1,
        runtime: str = "",
        nms: str = "",
        tta: str = "",
        tile: Optional[int] = None,
        overlap: Optional[float] = None,
    ):
        cfg = self._prepare(model, config_path, device_target)
        at_test_time = {"nms": nms, "tta": tta, "tile": tile, "overlap": overlap}
        self._detector = open_model(model, cfg, "model", concurrent_calls, runtime, **at_test_time)
        self._model = model
        self.concurrent_calls = self._detector.concurrent_calls
        self._set_min_score(min_score)
        self.classes = self._detector.description.classes

    @staticmethod
    def _prepare(model: str, config_path: str, device_target: str):
        """Set up MindSpore if the file needs it. Returns the configuration, None if the file needs none."""
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

    def show_from(self, min_score: Optional[float] = None) -> str:
        """Set `min_score` to the given score, or else raise it to the one with the best F1 in the model's evaluation,
        if that is known. Returns where the score comes from, in words."""
        source = "the model's min_score"
        if min_score is not None:
            source = "--min_score"
        else:
            found = threshold_of(self._model, self._detector.description)
            if found is not None and found.overall > self.min_score:
                min_score, source = found.overall, found.source
        self._set_min_score(min_score)
        return source

    def _set_min_score(self, min_score: Optional[float]) -> None:
        """None: it stays as it is."""
        where = f"model: {self._model} was exported"
        self._detector.description = with_thresholds(self._detector.description, where, min_score)

    def __call__(self, image: np.ndarray) -> Detections:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected an RGB image uint8 [H, W, 3], got {image.dtype} {image.shape}")
        return self.detect(self.cut(image), np.array([image.shape[:2]]))[0]

    @property
    def min_score(self) -> float:
        """The score that detections are above."""
        return self._detector.description.min_score

    @property
    def batch_size(self) -> int:
        """Images per call: those that the file takes, one if it takes any number or the image's tiles."""
        description = self._detector.description
        return 1 if description.dynamic_batch or description.tile else description.batch_size

    @property
    def tiling(self) -> Tiling:
        """How images are cut."""
        return self._detector.description.tiling

    def cut(self, image: np.ndarray) -> np.ndarray:
        """uint8 [T, h, w, 3]: the tiles of an image uint8 [H, W, 3], or the one image, of the network's input size."""
        return network_tiles(image, self.tiling, self._detector.description.img_shape)

    def detect(self, pixels: np.ndarray, shapes: np.ndarray) -> List[Detections]:
        """(boxes, labels, scores) of each image, as a call returns them for one.

        Args:
            pixels: RGB uint8 [T, h, w, 3], the tiles of the images one after another (`cut`).
            shapes: (height, width) int [n, 2] of the originals.
        """
        if not self.tiling.side:
            return [(boxes, labels, scores) for boxes, scores, labels in self._detector(pixels, shapes)]
        queue, found, start = TileQueue(self._detector), [], 0
        for number, shape in enumerate(shapes.tolist()):
            count = len(self.tiling.windows(*shape))
            found += queue.add(number, pixels[start : start + count], shape)
            start += count
        found += queue.finish()
        return [(boxes, labels, scores) for _, (boxes, scores, labels) in found]
