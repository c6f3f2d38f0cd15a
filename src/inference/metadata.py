"""What travels with an exported file, so that it predicts without a configuration. Needs no MindSpore."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Dict, List, Optional

from src.boxes.default_boxes import grid_layout
from src.data.tiles import Tiling
from src.data.transforms import MEAN, STD
from src.utils.errors import UserError

PRECISIONS = ("float32", "float16", "int8")
# fields that files of earlier versions lack
_LATER = {
    "dynamic_batch": False,
    "precision": "float32",
    "layout": [],
    "tile": 0,
    "overlap": Tiling().overlap,
    "f1_threshold": None,
    "class_f1_thresholds": {},
}


@dataclass
class ModelMetadata:
    """A network's input, classes and thresholds.

    classes: names in the order of the score columns, the background first; img_shape: network input [height, width];
    batch_size: images per call, at most where dynamic_batch is True; mean, std: of RGB values 0..255, one per channel;
    uint8_input: the file takes pixels uint8 [B, H, W, 3] RGB, else normalised float32 [B, 3, H, W]; nms: it does NMS
    itself, with the thresholds; min_score, nms_threshold, max_boxes: docs/reference.md, "Post-processing";
    dynamic_batch: a call takes any number of images; precision: of the weights, one of `PRECISIONS`;
    layout: [rows, columns, boxes per cell] of each level (`src.boxes.default_boxes.grid_layout`), [] where unknown;
    tile, overlap: how pictures are cut (`src.data.tiles.Tiling`);
    f1_threshold, class_f1_thresholds: the score with the best F1 in the checkpoint's evaluation, over all classes and
    by class name, None and {} where unknown.
    """

    classes: List[str]
    img_shape: List[int]
    batch_size: int
    min_score: float
    nms_threshold: float
    max_boxes: int
    mean: List[float]
    std: List[float]
    uint8_input: bool = True
    nms: bool = False
    dynamic_batch: bool = False
    precision: str = "float32"
    layout: List[List[int]] = field(default_factory=list)
    tile: int = 0
    overlap: float = Tiling().overlap
    f1_threshold: Optional[float] = None
    class_f1_thresholds: Dict[str, float] = field(default_factory=dict)

    @property
    def tiling(self) -> Tiling:
        """`tile` and `overlap`."""
        return Tiling(self.tile, self.overlap)


def metadata_from_config(cfg, uint8_input: bool = True, nms: bool = False) -> ModelMetadata:
    """The description of a config's network. The network itself takes both kinds of input."""
    return ModelMetadata(
        classes=list(cfg.classes),
        img_shape=list(cfg.img_shape),
        batch_size=cfg.batch_size,
        min_score=cfg.min_score,
        nms_threshold=cfg.nms_threshold,
        max_boxes=cfg.max_boxes,
        mean=MEAN.tolist(),
        std=STD.tolist(),
        uint8_input=uint8_input,
        nms=nms,
        layout=[list(level) for level in grid_layout(cfg)],
        tile=cfg.tile,
        overlap=cfg.overlap,
    )


def to_onnx_props(description: ModelMetadata) -> Dict[str, str]:
    """Each field as a JSON text: ONNX metadata holds texts only."""
    return {key: json.dumps(value) for key, value in asdict(description).items()}


def from_onnx_props(texts: Dict[str, str], path: str) -> ModelMetadata:
    """The description in the metadata of the ONNX file at `path`.

    Raises:
        UserError: it is missing, or its values cannot be used.
    """
    try:
        names = [field.name for field in fields(ModelMetadata) if field.name in texts or field.name not in _LATER]
        values = {name: json.loads(texts[name]) for name in names}
    except (KeyError, ValueError):
        raise UserError(
            f"{path} does not say which classes, image size and thresholds it was made for; export it with export.py"
        ) from None
    return _checked(values, path)


def _checked(values: dict, path: str) -> ModelMetadata:
    unusable = UserError(f"{path}: what it says about its classes and input cannot be used; export it again")
    values = {**_LATER, **values}
    try:
        description = ModelMetadata(**{field.name: values[field.name] for field in fields(ModelMetadata)})
        numbers = [*description.img_shape, description.batch_size, *description.mean, *description.std]
        usable = len(description.classes) > 1 and len(numbers) == 9 and min(numbers) > 0
        usable = usable and all(len(level) == 3 and min(level) > 0 for level in description.layout)
        usable = usable and description.tile >= 0 and 0 <= description.overlap < 1
        usable = usable and usable_thresholds(description.f1_threshold, description.class_f1_thresholds)
    except (KeyError, TypeError, AttributeError):
        raise unusable from None
    if not usable:
        raise unusable
    return description


def usable_thresholds(overall, classes) -> bool:
    """Whether these are `f1_threshold` and `class_f1_thresholds`."""
    numbers = [*classes.values()] + ([] if overall is None else [overall])
    return all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in numbers)


def description_file(path: str) -> str:
    """Path of the JSON file next to a MINDIR or AIR file."""
    return path + ".json"


def _checksum(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_description(description: ModelMetadata, model_path: str, path: str) -> None:
    """The json of the file at `model_path`, with its checksum, to `path`."""
    with open(path, "w", encoding="utf-8") as handle:
        json.dump(dict(asdict(description), sha256=_checksum(model_path)), handle, indent=1)
        handle.write("\n")
        handle.flush()
        os.fsync(handle.fileno())


def read_description(model_path: str) -> ModelMetadata:
    """The metadata next to a MINDIR.

    Raises:
        UserError: it is missing, damaged, or belongs to another file.
    """
    path = description_file(model_path)
    try:
        with open(path, encoding="utf-8") as handle:
            values = json.load(handle)
    except OSError:
        raise UserError(f"{model_path}: the file that describes it is missing: {path}; export.py writes both") from None
    except ValueError:
        raise UserError(f"{path} is damaged; export.py writes it") from None
    description = _checked(values, path)
    if values.get("sha256") != _checksum(model_path):
        raise UserError(f"{model_path} is damaged, or {path} belongs to another export: the checksums differ")
    return description
