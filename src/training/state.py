"""Training state besides the parameters: progress, random state, and the options that affect results."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field
from typing import List, Optional

import numpy as np

# options that change output or speed, but no result of the training
KEYS_WITHOUT_EFFECT = {
    "checkpoint_file_path",
    "checkpoint_path",
    "compile_cache",
    "config_path",
    "data_path",
    "device_id",
    "early_stop",
    "enable_profiling",
    "export_calibration_images",
    "export_dynamic_batch",
    "export_images",
    "export_max_loss",
    "export_nms",
    "export_precision",
    "export_uint8",
    "eval_interval",
    "eval_start_epoch",
    "feature_extractor_base_param",
    "file_format",
    "file_name",
    "filter_weight",
    "inference_runtime",
    "keep_checkpoint_max",
    "match_class_names",
    "max_boxes",
    "min_score",
    "mindrecord_dir",
    "mode_sink",
    "nms",
    "nms_threshold",
    "num_parallel_workers",
    "only_create_dataset",
    "output_path",
    "pre_trained",
    "resume",
    "run_eval",
    "save_best_ckpt",
    "save_checkpoint_epochs",
    "summary",
    "tta",
    "validation_loss",
}


@dataclass
class RunState:
    """Progress of a run after a step, and what a checkpoint stores besides parameters.

    epochs: number of complete epochs; epoch_step: steps done in the current epoch (all of them if only its evaluation
    is missing); steps_per_epoch; losses: [classification, box] loss of each step of the current epoch; norm: gradient
    norm of the last step; best_map: -1 before the first evaluation; images: rows of the records; size: number of ranks;
    config: the options that affect results; loss_scale: `LossScale.state` of a float16 run, else empty; started_from:
    the file of weights that the first start loaded, "" for random weights, None if unknown; not_better: evaluations
    since that of best_map.
    """

    epochs: int = 0
    epoch_step: int = 0
    steps_per_epoch: int = 0
    losses: List[List[float]] = field(default_factory=list)
    norm: float = 0.0
    best_map: float = -1.0
    images: int = 0
    size: int = 1
    config: dict = field(default_factory=dict)
    loss_scale: List[float] = field(default_factory=list)
    started_from: Optional[str] = None
    not_better: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps since the start of the run."""
        return self.epochs * self.steps_per_epoch + self.epoch_step

    def to_bytes(self) -> np.ndarray:
        """The state and the random generators' states as uint8 [n]."""
        kind, words, *rest = np.random.get_state()
        version, internal, gauss = random.getstate()
        content = dict(
            asdict(self), numpy_random=[kind, words.tolist(), *rest], python_random=[version, list(internal), gauss]
        )
        return np.frombuffer(json.dumps(content).encode(), np.uint8).copy()


def _content(data: np.ndarray) -> dict:
    return json.loads(data.astype(np.uint8).tobytes().decode())


def from_bytes(data: np.ndarray) -> RunState:
    """The state from the uint8 [n] of `to_bytes`.

    Raises:
        ValueError: the bytes are not a state.
    """
    try:
        content = _content(data)
        _random_states(content)
        del content["numpy_random"], content["python_random"]
        return RunState(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its run state cannot be read ({type(error).__name__})") from None


def _random_states(content: dict) -> tuple:
    kind, words, *rest = content["numpy_random"]
    version, internal, gauss = content["python_random"]
    return (kind, np.array(words, np.uint32), *rest), (version, tuple(internal), gauss)


def restore_random_state(data: np.ndarray) -> None:
    """Set the random generators of NumPy and Python to their state at `to_bytes`."""
    numpy_state, python_state = _random_states(_content(data))
    np.random.set_state(numpy_state)
    random.setstate(python_state)


def training_relevant_config(cfg) -> dict:
    """The options of a config that affect the results of training, as plain JSON."""
    return {key: value for key, value in json.loads(json.dumps(dict(cfg))).items() if key not in KEYS_WITHOUT_EFFECT}
