"""Training state besides the parameters: progress, random state, and the options that affect results."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field
from typing import List, Optional

import numpy as np

# options that change what is written or shown, or how fast, but no result of the training
KEYS_WITHOUT_EFFECT = {
    "checkpoint_file_path",
    "checkpoint_path",
    "compile_cache",
    "config_path",
    "data_path",
    "device_id",
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
    "max_boxes",
    "min_score",
    "mindrecord_dir",
    "mode_sink",
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
}


@dataclass
class RunState:
    """A place in a run.

    epochs: complete ones; epoch_step: steps done in the running epoch (all of them where only its evaluation is
    missing); steps_per_epoch; losses: of the running epoch's steps, each [the classes' part, the boxes' part]; norm: of
    the last step's gradient; best_map: -1 before the first evaluation; images, size: rows of the records and number of
    ranks; config: the keys that the figures follow from; loss_scale: `LossScale.state` of a float16 run, else empty;
    started_from: the file of weights that the first start loaded, "" for random ones, None where it is not known.
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

    @property
    def steps(self) -> int:
        """Optimiser steps done in all."""
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
    """The state that `to_bytes` wrote, uint8 [n].

    Raises:
        ValueError: it is none.
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
    """Set the random generators of NumPy and Python to where they were at `to_bytes`."""
    of_numpy, of_python = _random_states(_content(data))
    np.random.set_state(of_numpy)
    random.setstate(of_python)


def training_relevant_config(cfg) -> dict:
    """The keys of a config that the figures of its training follow from, as plain JSON."""
    return {key: value for key, value in json.loads(json.dumps(dict(cfg))).items() if key not in KEYS_WITHOUT_EFFECT}
