#!/usr/bin/env python3
"""Export a checkpoint: python3 export.py --checkpoint_file_path x.ckpt --file_name ssd --file_format MINDIR|AIR|ONNX

--export_uint8=True: the file accepts pixels, uint8 RGB [B, H, W, 3], and normalises them itself.
--export_nms=True (ONNX): the file includes post-processing and returns boxes in pixels.
--export_dynamic_batch=True (ONNX): the file takes any number of images per call.
--export_precision=float16|int8 (ONNX): a smaller file; int8 needs the training and the evaluation set.
--export_images=DIR: images for comparing the file with the network, instead of the evaluation set's or drawn ones.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace

from src.config import checkpoint_file, data_file, load_config, log_notes
from src.utils.device import init_device, prepare_environment
from src.utils.errors import UserError, run_main
from src.utils.locks import hold_file
from src.utils.log import LOGGER, setup_logging
from src.utils.signals import SignalGuard

COMPARED = 4


def picture_folder(cfg) -> str:
    """`export_images`, else the evaluation set's folder if it exists on this machine, else ""."""
    if cfg.export_images:
        return cfg.export_images
    folder = {
        "coco": os.path.join(data_file(cfg, cfg.coco_root), cfg.val_data_type),
        "voc": os.path.join(data_file(cfg, cfg.voc_root), "eval"),
    }.get(cfg.dataset, data_file(cfg, cfg.image_dir) if cfg.image_dir else "")
    return folder if os.path.isdir(folder) and any(os.scandir(folder)) else ""


def main(argv) -> int:
    SignalGuard().install()  # so that half-written files are removed
    with contextlib.ExitStack() as locks:
        return export(argv, locks)


def export(argv, locks: contextlib.ExitStack) -> int:
    cfg = load_config(argv)
    checkpoint = checkpoint_file(cfg)
    if not checkpoint.lower().endswith(".ckpt"):
        raise UserError(f"checkpoint_file_path: only a checkpoint (.ckpt) can be exported, got {checkpoint}")
    if cfg.file_format == "AIR" and cfg.device_target != "Ascend":
        raise UserError(
            f"file_format: AIR is written on Ascend only, device_target is {cfg.device_target}; use MINDIR or ONNX here"
        )
    if cfg.export_nms and cfg.file_format != "ONNX":
        raise UserError(f"export_nms: only an ONNX file can include NMS, file_format is {cfg.file_format}")
    if cfg.export_nms and (cfg.nms, cfg.tta) != ("hard", "none"):
        raise UserError(
            f"export_nms: NMS inside a file is hard and sees no mirror image, here nms is {cfg.nms} and tta {cfg.tta}; "
            f"leave out export_nms, or give --nms=hard --tta=none"
        )
    if cfg.export_nms and cfg.tile:
        raise UserError(
            f"export_nms: with tile {cfg.tile}, NMS takes place over all tiles of a picture, not inside the file; "
            f"leave out export_nms, or give --tile=0 for a file that sees pictures of a tile's size"
        )
    if cfg.export_dynamic_batch and cfg.file_format != "ONNX":
        raise UserError(
            f"export_dynamic_batch: only an ONNX file takes any number of images, file_format is {cfg.file_format}"
        )
    if cfg.export_precision != "float32" and cfg.file_format != "ONNX":
        raise UserError(
            f"export_precision: only an ONNX file is written in {cfg.export_precision}, file_format is "
            f"{cfg.file_format}"
        )

    from src.inference.exporter import export_network, target_path
    from src.inference.metadata import metadata_from_config
    from src.inference.pictures import comparison_pictures
    from src.inference.score_threshold import evaluated_threshold

    path = target_path(cfg.file_name, cfg.file_format)
    images, shapes, source = comparison_pictures(picture_folder(cfg), cfg.img_shape, max(COMPARED, cfg.batch_size))
    setup_logging()
    prepare_environment()
    init_device(cfg)
    log_notes(cfg, LOGGER.warning)

    from src.boxes.default_boxes import default_box_keys
    from src.inference.detector import build_inference
    from src.models.build import build_model
    from src.models.weights import load_network

    calibration = None
    if cfg.export_precision == "int8":  # first, as data may be missing
        from src.evaluation.quantization import build_calibration

        calibration = build_calibration(cfg)
    cfg.use_float16 = False  # for training alone; `export_precision` says what an ONNX file computes in
    model = build_model(cfg)
    load_network(
        model, checkpoint, "checkpoint_file_path", strict=True, classes=cfg.classes, boxes=default_box_keys(cfg)
    )
    locks.enter_context(hold_file(path, "export", "file_name"))
    description = metadata_from_config(cfg, cfg.export_uint8, cfg.export_nms)
    description = replace(description, dynamic_batch=cfg.export_dynamic_batch, precision=cfg.export_precision)
    found = evaluated_threshold(checkpoint)
    if found is not None:
        description = replace(description, f1_threshold=found.overall, class_f1_thresholds=found.classes)
        print(f"score to show from: {found.overall:.3f} ({found.source})")
    inference = build_inference(model, cfg)
    report = export_network(inference, description, cfg.file_format, path, images, shapes, calibration)
    print(f"exported: {path}")
    print(f"{report} ({source})")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
