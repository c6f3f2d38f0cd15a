#!/usr/bin/env python3
"""Detect objects on pictures and videos.

    python3 scripts/predict.py --model output/ckpt_0/best_map.ckpt photos/ more/*.jpg clip.mp4 --output detections

--model is a checkpoint, or a MINDIR or ONNX file of export.py (an ONNX file needs no MindSpore). Places are files,
folders (with all below them, links followed) and patterns. In --output: every picture and video with its boxes (at
most 100, the surest), and detections.json with all of them in COCO's form (`images`, `categories`, `annotations`, each
with a score; a category's id is the class's index). Drawings carry a mark and are not detected on again. What could not
be read or written is named, and the exit status is not 0; detections.json comes first where the disk is full.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from src.inference.pictures import read_picture  # noqa: E402
from src.inference.runtimes import RUNTIMES  # noqa: E402
from src.inference.search import find_files, is_video  # noqa: E402
from src.utils.drawing import DrawingPaths, draw_detections  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.locks import hold_folder  # noqa: E402
from src.utils.log import LOGGER, progress, setup_logging  # noqa: E402
from src.utils.output import (  # noqa: E402
    Arrivals,
    OutputError,
    ensure_writable,  # noqa: E402
    write_json,
    write_picture,
)
from src.utils.signals import SignalGuard  # noqa: E402
from src.utils.text import one_line  # noqa: E402
from src.utils.video import VideoFile  # noqa: E402

RESULT = "detections.json"


class CocoResults:
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
        """Write all to `path`.

        Raises:
            OutputError: it could not be written.
        """
        content = {
            "images": self.images,
            "categories": [{"id": k, "name": name} for k, name in enumerate(self.classes) if k],
            "annotations": self.annotations,
        }
        write_json(path, content)


class Drawings(Arrivals):
    """The drawings of a run: `paths` of those that arrived, in order."""

    def __init__(self):
        super().__init__("drawings")
        self.paths = []

    def remove_last(self) -> int:
        """Remove the newest drawing to make room; its bytes."""
        path = self.paths.pop()
        size = os.path.getsize(path)
        os.remove(path)
        self.count -= 1
        self.add_failure(OutputError(f"cannot keep {one_line(path)}: {RESULT} needs its room on a full disk", True))
        return size


def detect_picture(path: str, target: str, predictor, found: CocoResults, drawings: Drawings) -> None:
    """Detect on a picture, draw and note it.

    Raises:
        UserError: it cannot be read.
    """
    image = read_picture(path)
    detections = predictor(image)
    found.add(path, image.shape[:2], detections)
    boxes, labels, scores = detections
    with drawings.one():
        drawn = draw_detections(image[..., ::-1], boxes, labels, scores, predictor.classes)
        write_picture(target, drawn, drawing=True)
        drawings.paths.append(target)


def detect_video(path: str, target: str, predictor, found: CocoResults, drawings: Drawings) -> None:
    """Detect on every frame of a video; where it cannot be drawn, the detections are kept.

    Raises:
        UserError: no frame can be decoded.
    """
    video = cv2.VideoCapture(path)
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    frames = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    number = 0
    with contextlib.ExitStack() as stack:
        stack.callback(video.release)
        bar = stack.enter_context(progress(frames or None, one_line(os.path.basename(path)), "frames"))
        drawn = stack.enter_context(VideoFile(target, rate))
        failure = None
        while True:
            read, frame = video.read()
            if not read:
                break
            detections = predictor(np.ascontiguousarray(frame[..., ::-1]))
            found.add(path, frame.shape[:2], detections, frame=number)
            number += 1
            bar.update()
            if failure is None:
                try:
                    drawn.write(draw_detections(frame, *detections, predictor.classes))
                except OutputError as error:
                    failure = error
        if not number:
            raise UserError(f"cannot read {one_line(path)}: no frame can be decoded")
        if number < 0.9 * frames:
            LOGGER.warning("%s: only %d of %d frames could be decoded", one_line(path), number, frames)
        with drawings.one():
            if failure is not None:
                raise failure
            drawn.close()
            drawings.paths.append(target)


def detect(files: list, folder: str, predictor, found: CocoResults, drawings: Drawings) -> list:
    """Detect on all files, drawing into a folder; the files that could not be read."""
    failed, renamed = [], []
    paths = DrawingPaths(folder, files, [RESULT])
    with progress(len(files), "detecting", "files") as bar:
        for path in files:
            extension = os.path.splitext(path)[1].lower()
            target = paths.path(path, ".mp4" if is_video(path) else ".png" if extension == ".png" else ".jpg")
            try:
                (detect_video if is_video(path) else detect_picture)(path, target, predictor, found, drawings)
                name = os.path.basename(target)
                if not name.startswith(os.path.splitext(os.path.basename(path))[0] + "."):
                    renamed.append(f"{os.path.basename(path)[:60]} as {name[-60:]}")
            except UserError as error:
                LOGGER.warning("%s", error)
                failed.append(path)
            bar.update()
    if renamed:
        first = one_line(", ".join(renamed[:3]))
        LOGGER.info("drawings under another name, because theirs was taken: %d (%s)", len(renamed), first)
    return failed


def save(found: CocoResults, path: str, drawings: Drawings) -> None:
    """Write detections.json. On a full disk the newest drawings make room for it: they can be drawn again.

    Raises:
        OutputError: it could not be written.
    """
    while True:
        try:
            found.save(path)
            return
        except OutputError as error:
            size = 200 * len(found.annotations) + 500 * len(found.images)
            if not error.full or sum(map(os.path.getsize, drawings.paths)) < size:
                raise
            while drawings.paths and size > 0:
                size -= drawings.remove_last()


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", metavar="PLACE", help="picture, video, folder or pattern")
    parser.add_argument("--model", required=True, help="x.ckpt, x.mindir or x.onnx")
    parser.add_argument("--config_path", default="", help="for a checkpoint (default: its run's own config.yaml)")
    parser.add_argument("--output", default="detections", help="folder of drawings and json (default: %(default)s)")
    parser.add_argument("--min_score", type=float, help="least score (default: the model's)")
    parser.add_argument("--device_target", default="CPU", choices=("CPU", "GPU", "Ascend"))
    parser.add_argument("--runtime", default="", choices=RUNTIMES, help="of an ONNX file (default: onnxruntime)")
    return parser.parse_args(argv)


def main(argv) -> int:
    options = parse(argv)
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise UserError(f"--min_score must lie in [0, 1], got {options.min_score}")
    if not os.path.isfile(options.model):
        raise UserError(f"--model: no such file: {one_line(os.path.abspath(options.model))}")
    SignalGuard().install()
    setup_logging()
    folder = os.path.abspath(options.output)
    files = find_files(options.places, folder)
    from src.inference.predictor import Predictor

    predictor = Predictor(options.model, options.config_path, options.min_score, options.device_target, options.runtime)
    ensure_writable(folder, "output")
    with hold_folder(folder, "prediction", key="output"):
        return run(files, folder, predictor)


def run(files: list, folder: str, predictor) -> int:
    """Detect, write, and say what arrived."""
    found, drawings, start = CocoResults(predictor.classes), Drawings(), time.time()
    unread = detect(files, folder, predictor, found, drawings)
    lost = None
    try:
        save(found, os.path.join(folder, RESULT), drawings)
    except OutputError as error:
        lost = error
    by_class = np.bincount([row["category_id"] for row in found.annotations], minlength=len(predictor.classes))
    kinds = ", ".join(f"{number} {predictor.classes[k]}" for k, number in enumerate(by_class) if number)
    print(
        f"{len(files) - len(unread)} of {len(files)} files, {len(found.images)} pictures in "
        f"{time.time() - start:.1f} s: {len(found.annotations)} detections{f' ({kinds})' if kinds else ''}"
    )
    tried = drawings.count + len(drawings.failed)
    state = "" if lost is None else "an older " if os.path.isfile(os.path.join(folder, RESULT)) else "no "
    print(f"{drawings.count} of {tried} drawings and {state}{RESULT}: {one_line(folder)}")
    faults = [str(error) for error in (lost, drawings.error()) if error]
    missing = bool(faults)
    if unread:
        faults.append(f"{len(unread)} of {len(files)} files could not be read, first {one_line(unread[0])}")
    if faults:
        raise (OutputError if missing else UserError)("; ".join(faults))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
