#!/usr/bin/env python3
"""Detect objects on pictures and videos.

    python3 scripts/predict.py --model output/ckpt_0/best_map.ckpt photos/ more/*.jpg clip.mp4 --output detections

--model is a checkpoint, or a MINDIR or ONNX file of export.py (an ONNX file needs no MindSpore). Places are files,
folders (with all below them) and patterns. In --output: every picture and video with its boxes (at most 100, the
surest), and detections.json with all of them in COCO's form (`images`, `categories`, `annotations`, each with a score;
a category's id is the class's index).
"""

from __future__ import annotations

import argparse
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it tells in one line where this Python has no packages
import src  # noqa: E402, F401

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from src.drawing import draw_detections  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402
from src.inference.pictures import find_files, is_video, read_picture  # noqa: E402
from src.log import LOGGER, progress, setup_logging  # noqa: E402
from src.output import write_json  # noqa: E402
from src.preflight import writable_folder  # noqa: E402


class Found:
    """Detections of all pictures in COCO's form."""

    def __init__(self, classes: list):
        self.classes = classes
        self.images, self.annotations = [], []

    def add(self, file_name: str, shape: tuple, detections: tuple, **more) -> None:
        """One picture's; `more` goes into its row."""
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": file_name, "height": shape[0], "width": shape[1], **more})
        boxes, labels, scores = detections
        for (y1, x1, y2, x2), label, score in zip(boxes.tolist(), labels.tolist(), scores.tolist()):
            width, height = x2 - x1, y2 - y1
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": [x1, y1, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": score,
                }
            )

    def save(self, path: str) -> None:
        """Write it whole or not at all."""
        content = {
            "images": self.images,
            "categories": [{"id": k, "name": name} for k, name in enumerate(self.classes) if k],
            "annotations": self.annotations,
        }
        write_json(path, content)


def detect_picture(path: str, target: str, predictor, found: Found) -> int:
    """Detect on a picture, draw and note it; the number of detections."""
    image = read_picture(path)
    detections = predictor(image)
    found.add(path, image.shape[:2], detections)
    boxes, labels, scores = detections
    cv2.imwrite(target, draw_detections(image[..., ::-1], boxes, labels, scores, predictor.classes))
    return len(boxes)


def detect_video(path: str, target: str, predictor, found: Found) -> int:
    """Detect on every frame of a video; the number of detections."""
    video = cv2.VideoCapture(path)
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    frames = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    writer, count, number = None, 0, 0
    with progress(frames or None, os.path.basename(path), "frames") as bar:
        while True:
            read, frame = video.read()
            if not read:
                break
            detections = predictor(np.ascontiguousarray(frame[..., ::-1]))
            found.add(path, frame.shape[:2], detections, frame=number)
            boxes, labels, scores = detections
            drawn = draw_detections(frame, boxes, labels, scores, predictor.classes)
            if writer is None:
                size = (drawn.shape[1], drawn.shape[0])
                writer = cv2.VideoWriter(target, cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
            writer.write(drawn)
            count, number = count + len(boxes), number + 1
            bar.update()
    video.release()
    if writer is None:
        raise UserError(f"cannot read {path}: no frame can be decoded")
    writer.release()
    return count


def targets(files: list, folder: str) -> list:
    """Where each file's drawing goes: its own name, numbered where two would meet; never the file itself."""
    taken, paths = {os.path.realpath(path) for path in files}, []
    for path in files:
        stem, ending = os.path.splitext(os.path.basename(path))
        ending = ".mp4" if is_video(path) else ".png" if ending.lower() == ".png" else ".jpg"
        number, target = 1, os.path.join(folder, stem + ending)
        while os.path.realpath(target) in taken:
            number += 1
            target = os.path.join(folder, f"{stem}_{number}{ending}")
        taken.add(os.path.realpath(target))
        paths.append(target)
    return paths


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", metavar="PLACE", help="picture, video, folder or pattern")
    parser.add_argument("--model", required=True, help="x.ckpt, x.mindir or x.onnx")
    parser.add_argument("--config_path", default="", help="for a checkpoint (default: its run's own config.yaml)")
    parser.add_argument("--output", default="detections", help="folder of drawings and json (default: %(default)s)")
    parser.add_argument("--min_score", type=float, help="least score (default: the model's)")
    parser.add_argument("--device_target", default="CPU", choices=("CPU", "GPU", "Ascend"))
    return parser.parse_args(argv)


def main(argv) -> int:
    options = parse(argv)
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise UserError(f"--min_score must lie in [0, 1], got {options.min_score}")
    files = find_files(options.places)
    if not os.path.isfile(options.model):
        raise UserError(f"--model: no such file: {os.path.abspath(options.model)}")
    setup_logging()
    from src.inference.predictor import Predictor

    predictor = Predictor(options.model, options.config_path, options.min_score, options.device_target)
    writable_folder(options.output, "output")
    found, failed, count, start = Found(predictor.classes), [], 0, time.time()
    with progress(len(files), "detecting", "files") as bar:
        for path, target in zip(files, targets(files, options.output)):
            try:
                count += (detect_video if is_video(path) else detect_picture)(path, target, predictor, found)
            except UserError as error:
                LOGGER.warning("%s", error)
                failed.append(path)
            bar.update()
    result = os.path.join(options.output, "detections.json")
    found.save(result)
    seconds = time.time() - start
    by_class = np.bincount([row["category_id"] for row in found.annotations], minlength=len(predictor.classes))
    kinds = ", ".join(f"{number} {predictor.classes[k]}" for k, number in enumerate(by_class) if number)
    print(
        f"{len(files) - len(failed)} of {len(files)} files, {len(found.images)} pictures in {seconds:.1f} s: "
        f"{count} detections{f' ({kinds})' if kinds else ''}"
    )
    print(f"drawings and detections.json: {os.path.abspath(options.output)}")
    if failed:
        raise UserError(f"{len(failed)} of {len(files)} files could not be read, first {failed[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
