"""What a run is besides its parameters: where it stands, its random state, the keys that its figures follow from."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field
from typing import List, Optional

import numpy as np

# keys that change what is written or shown, or how fast, but no number of the training
_FREE_KEYS = {
    "checkpoint_file_path",
    "checkpoint_path",
    "compile_cache",
    "config_path",
    "data_path",
    "device_id",
    "enable_profiling",
    "export_images",
    "export_nms",
    "export_uint8",
    "eval_interval",
    "eval_start_epoch",
    "feature_extractor_base_param",
    "file_format",
    "file_name",
    "filter_weight",
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

    def packed(self) -> np.ndarray:
        """The state and the random generators' states as uint8 [n]."""
        kind, words, *rest = np.random.get_state()
        version, internal, gauss = random.getstate()
        content = dict(
            asdict(self), numpy_random=[kind, words.tolist(), *rest], python_random=[version, list(internal), gauss]
        )
        return np.frombuffer(json.dumps(content).encode(), np.uint8).copy()


def unpack(packed: np.ndarray) -> RunState:
    """The state that `packed` made; sets the random generators.

    Raises:
        ValueError: it is none.
    """
    try:
        content = json.loads(packed.astype(np.uint8).tobytes().decode())
        kind, words, *rest = content.pop("numpy_random")
        version, internal, gauss = content.pop("python_random")
        state = RunState(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its run state cannot be read ({type(error).__name__})") from None
    np.random.set_state((kind, np.array(words, np.uint32), *rest))
    random.setstate((version, tuple(internal), gauss))
    return state


def figures_config(cfg) -> dict:
    """The keys of a config that the figures of its training follow from, as plain JSON."""
    return {key: value for key, value in json.loads(json.dumps(dict(cfg))).items() if key not in _FREE_KEYS}
