#!/usr/bin/env python3
"""Ship a checkpoint: python3 export.py --checkpoint_file_path x.ckpt --file_name ssd --file_format MINDIR|AIR|ONNX"""

from __future__ import annotations

import sys

from src.config import checkpoint_file, load_config
from src.device import init_device, prepare_environment
from src.errors import UserError, run_main
from src.log import setup_logging


def main(argv) -> int:
    cfg = load_config(argv)
    checkpoint = checkpoint_file(cfg)
    if cfg.file_format == "AIR" and cfg.device_target != "Ascend":
        raise UserError(
            f"file_format: AIR is written on Ascend only, device_target is {cfg.device_target}; use MINDIR or ONNX here"
        )
    setup_logging()
    prepare_environment()
    init_device(cfg)

    from src.evaluation.detector import build_inference
    from src.evaluation.export import export_network
    from src.models.build import build_model
    from src.models.weights import load_network

    model = build_model(cfg)
    load_network(model, checkpoint, "checkpoint_file_path", needs_all=True)
    inference = build_inference(model, cfg)
    inference.set_train(False)
    path, report = export_network(inference, cfg.file_name, cfg.file_format, (cfg.batch_size, 3, *cfg.img_shape))
    print(f"exported: {path}")
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
