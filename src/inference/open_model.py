"""Open a trained detector: a checkpoint, a MINDIR or an ONNX file, by the ending of its name.

An ONNX file needs no MindSpore: it is imported only where a checkpoint or a MINDIR is opened.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Callable, Optional

from easydict import EasyDict

from src.config import tiling_fault
from src.inference.detector import NMS_KINDS, TTA_KINDS, Detector, NetworkDetector, build_inference
from src.inference.metadata import ModelMetadata, metadata_from_config, read_description
from src.inference.runtimes import RUNTIMES, open_onnx
from src.models.trained_classes import classes_options, first_difference
from src.utils.errors import UserError

ENDINGS = (".ckpt", ".mindir", ".onnx")


def load_mindir(path: str) -> Callable:
    """The cell of a MINDIR.

    Raises:
        UserError: MindSpore cannot read it.
    """
    import mindspore as ms
    from mindspore import nn

    try:
        return nn.GraphCell(ms.load(path))
    except Exception as error:  # MindSpore raises many kinds for a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or no MINDIR of this MindSpore: {reason}") from None


def open_model(
    path: str,
    cfg=None,
    key: str = "checkpoint_file_path",
    concurrent_calls: int = 1,
    runtime: str = "",
    threads: int = 0,
    nms: str = "",
    tta: str = "",
    tile: Optional[int] = None,
    overlap: Optional[float] = None,
) -> Detector:
    """A checkpoint, MINDIR or ONNX file, by the ending of its name.

    For a checkpoint or MINDIR the device must have been set (`src.utils.device.init_device`).

    Args:
        cfg: the configuration. A checkpoint needs it; for an exported file its thresholds count, and classes and
            image size must be the file's.
        key: the option that named the file, for messages.
        concurrent_calls, runtime, threads: of an ONNX file, see `src.inference.runtimes.open_onnx`; runtime "" is the
            configuration's `inference_runtime`.
        nms, tta: one of `NMS_KINDS` and `TTA_KINDS`; "" is the configuration's, hard and none without one.
        tile, overlap: how pictures are cut (`src.data.tiles.Tiling`); None is the configuration's, without one that of
            the file.

    Raises:
        UserError: no such file, a damaged one, one of another network or other classes; a runtime that is missing or
            cannot run it; `nms`, `tta` or `tile` that the file does not allow.
    """
    if not os.path.isfile(path):
        raise UserError(f"{key}: no such file: {os.path.abspath(path)}")
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise UserError(f"{key}: a model's name ends in {', '.join(ENDINGS)}, got {path}")
    runtime = runtime or (cfg.inference_runtime if cfg is not None else RUNTIMES[0])
    if runtime != RUNTIMES[0] and ending != ".onnx":
        raise UserError(f"inference_runtime: {runtime} runs ONNX files only, not {path}; export it with export.py")
    for name, value, kinds in (("nms", nms, NMS_KINDS), ("tta", tta, TTA_KINDS)):
        if value and value not in kinds:
            raise UserError(f"{name} must be one of {', '.join(kinds)}, got {value}")
    nms = nms or (cfg.nms if cfg is not None else NMS_KINDS[0])
    tta = tta or (cfg.tta if cfg is not None else TTA_KINDS[0])
    if ending == ".ckpt":
        detector = _open_checkpoint(path, cfg, key)
    elif ending == ".onnx":
        detector = open_onnx(path, runtime, concurrent_calls, threads)
    else:
        description = read_description(path)
        detector = NetworkDetector(load_mindir(path), description)
    if cfg is not None and ending != ".ckpt":
        detector.description = _fitting(detector.description, cfg, path, key)
    given = {"tile": tile, "overlap": overlap}
    given = {name: value for name, value in given.items() if value is not None}
    detector.description = replace(detector.description, **given)
    fault = tiling_fault(detector.description.tile, detector.description.overlap)
    if fault:
        raise UserError(fault)
    _check_test_time(detector.description, f"{key}: {path} was exported", nms, tta)
    detector.at_test_time(nms, tta)
    return detector


def _open_checkpoint(path: str, cfg, key: str) -> Detector:
    from src.boxes.default_boxes import default_box_keys
    from src.models.build import build_model
    from src.models.weights import load_network

    # as published, half precision is for training alone
    model = build_model(EasyDict(cfg, use_float16=False))
    load_network(model, path, key, strict=True, classes=cfg.classes, boxes=default_box_keys(cfg))
    return NetworkDetector(build_inference(model, cfg), metadata_from_config(cfg))


def _fitting(found: ModelMetadata, cfg, path: str, key: str) -> ModelMetadata:
    """The description of an exported file with the config's thresholds.

    Raises:
        UserError: naming what differs, with both values.
    """
    wanted, where = metadata_from_config(cfg), f"{key}: {path} was exported"
    if found.classes != wanted.classes:
        differs = first_difference(found.classes, wanted.classes)
        advice = f"use its classes: {classes_options(found.classes)}" if key != "model" else "leave out --config_path"
        raise UserError(f"{where} for other classes: {differs}; {advice}")
    for name in ("img_shape", "mean", "std"):
        if getattr(found, name) != getattr(wanted, name):
            advice = "leave out --config_path" if key == "model" else "use that value, or export the checkpoint again"
            raise UserError(f"{where} with {name} {getattr(found, name)}, here it is {getattr(wanted, name)}; {advice}")
    found = replace(found, tile=wanted.tile, overlap=wanted.overlap)
    if found.dynamic_batch:
        found = replace(found, batch_size=wanted.batch_size)
    return with_thresholds(found, where, wanted.min_score, wanted.nms_threshold, wanted.max_boxes)


def _check_test_time(found: ModelMetadata, where: str, nms: str, tta: str) -> None:
    """Check that a file gives what soft-NMS, mirrored images and tiles need.

    Raises:
        UserError: NMS inside, or no layout of its default boxes.
    """
    asked = ["nms soft"] * (nms == "soft") + ["tta flip"] * (tta == "flip") + [f"tile {found.tile}"] * bool(found.tile)
    if asked and found.nms:
        raise UserError(
            f"{where} with NMS inside, which excludes {' and '.join(asked)}; export it again without --export_nms"
        )
    if tta == "flip" and not found.layout:
        raise UserError(
            f"{where} without the layout of its default boxes, as earlier versions did, and tta flip needs it; export "
            f"it again with export.py"
        )


def with_thresholds(
    found: ModelMetadata,
    where: str,
    min_score: Optional[float] = None,
    nms_threshold: Optional[float] = None,
    max_boxes: Optional[int] = None,
) -> ModelMetadata:
    """The description with other thresholds. A file that does NMS itself can only be asked for a higher score.

    Raises:
        UserError: naming the threshold and both values.
    """
    given = {"min_score": min_score, "nms_threshold": nms_threshold, "max_boxes": max_boxes}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items() if found.nms else ():
        inside = getattr(found, name)
        if value < inside or (value != inside and name != "min_score"):
            raise UserError(f"{where} with NMS inside, with {name} {inside}, not {value}; export it again")
    return replace(found, **given)
