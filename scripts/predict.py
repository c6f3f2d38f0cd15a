#!/usr/bin/env python3
"""Detect objects on pictures and videos.

    python3 scripts/predict.py --model output/ckpt_0/best_map.ckpt photos/ more/*.jpg clip.mp4 --output detections

--model is a checkpoint, or a MINDIR or ONNX file of export.py (an ONNX file needs no MindSpore). The inputs are files,
folders (with all subfolders; links are followed) and patterns. --output receives every picture and video with its
detections drawn (at most 100 per picture, those with the highest scores), and detections.json: all detections in COCO's
format (`images`, `categories`, and `annotations` with a score; a category id is the index of the class). With
--label_format they are also written as labels of the pictures for a labelling tool: text files of YOLO (in the folder
labels), or label_studio.json, tasks of Label Studio with predictions.

Reading, the network, drawing and writing overlap in threads. Drawings are marked in the file, so that they are not
detected on again. Files that cannot be read or written are named, and the exit status is not 0. On a full disk drawings
make room for detections.json.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from src.inference.detector import NMS_KINDS, TTA_KINDS  # noqa: E402
from src.inference.label_files import LABEL_FORMATS  # noqa: E402
from src.inference.pipeline import Picture, concurrent_calls, detect  # noqa: E402
from src.inference.predictor import Predictor  # noqa: E402
from src.inference.results import CocoResults  # noqa: E402
from src.inference.runtimes import RUNTIMES  # noqa: E402
from src.inference.search import find_files, is_video  # noqa: E402
from src.utils.drawing import DRAWN, DrawingPaths, draw_detections  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.locks import hold_folder  # noqa: E402
from src.utils.log import LOGGER, progress, setup_logging  # noqa: E402
from src.utils.output import (  # noqa: E402
    Arrivals,
    OutputError,
    ensure_writable,  # noqa: E402
    write_picture,
)
from src.utils.signals import SignalGuard  # noqa: E402
from src.utils.text import one_line  # noqa: E402
from src.utils.video import VideoFile  # noqa: E402

RESULT = "detections.json"
MAX_KINDS = 12  # classes named in the last lines


class Drawings(Arrivals):
    """The drawings of a run; `paths`: those that were written, in order."""

    def __init__(self):
        super().__init__("drawings")
        self.paths = []

    def add(self, path: str) -> None:
        """Note a drawing that was written."""
        self.paths.append(path)
        self.count += 1

    def remove_last(self) -> int:
        """Remove the newest drawing to make room, and return its size in bytes."""
        path = self.paths.pop()
        size = os.path.getsize(path)
        os.remove(path)
        self.count -= 1
        self.add_failure(OutputError(f"removed {one_line(path)}: {RESULT} needs its space on a full disk", True))
        return size


class Prediction:
    """Detection on the files of a run: `found`, `drawings`, and `unread`, the files that could not be read."""

    def __init__(self, predictor, folder: str, max_detections: int):
        self.predictor, self.folder = predictor, folder
        self.found, self.drawings = CocoResults(predictor.classes, max_detections), Drawings()
        self.unread, self._renamed = [], []

    def run(self, files: list) -> None:
        """Detect on pictures and videos in their order."""
        paths = DrawingPaths(self.folder, files, [RESULT])
        with progress(len(files), "detecting", "files") as bar:
            for are_videos, group in itertools.groupby(files, is_video):
                if are_videos:
                    for path in group:
                        self._detect_video(path, paths.path(path, ".mp4"))
                        bar.update()
                else:
                    self._detect_pictures(group, paths, bar)
        if self._renamed:
            first = one_line(", ".join(self._renamed[:3]))
            LOGGER.info("drawings under another name, because theirs was taken: %d (%s)", len(self._renamed), first)

    def _detect_pictures(self, files, paths: DrawingPaths, bar) -> None:
        pictures = (Picture(path, paths.path(path, extension_of(path))) for path in files)
        with contextlib.closing(detect(pictures, self.predictor, self._write)) as detected:
            for picture in detected:
                if picture.read_error is None:
                    self.found.add(picture.path, picture.shape, picture.detections)
                    self._note_drawing(picture.path, picture.target, picture.write_error)
                else:
                    self._note_unread(picture.path, picture.read_error)
                bar.update()

    def _detect_video(self, path: str, target: str) -> None:
        """Detect on every frame of a video; if it cannot be drawn, the detections are kept."""
        with contextlib.ExitStack() as stack:
            video = cv2.VideoCapture(path)
            stack.callback(video.release)
            rate = video.get(cv2.CAP_PROP_FPS) or 25.0
            frames = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            bar = stack.enter_context(progress(frames or None, one_line(os.path.basename(path)), "frames"))
            drawn = stack.enter_context(VideoFile(target, rate))
            detected = stack.enter_context(
                contextlib.closing(detect(frames_of(video, path), self.predictor, self._draw))
            )
            error, number = None, 0
            for frame in detected:
                number += 1
                self.found.add(path, frame.shape, frame.detections, frame=frame.number)
                bar.update()
                if error is None:
                    try:
                        drawn.write(frame.drawn)
                    except OutputError as failure:
                        error = failure
            if not number:
                self._note_unread(path, UserError(f"cannot read {one_line(path)}: no frame can be decoded"))
                return
            if number < 0.9 * frames:
                LOGGER.warning("%s: only %d of %d frames could be decoded", one_line(path), number, frames)
            try:
                if error is None:
                    drawn.close()
            except OutputError as failure:
                error = failure
        self._note_drawing(path, target, error)

    def _draw(self, picture: Picture) -> np.ndarray:
        return draw_detections(picture.image, *picture.detections, self.predictor.classes)

    def _write(self, picture: Picture) -> None:
        write_picture(picture.target, self._draw(picture), drawing=True)

    def _note_drawing(self, path: str, target: str, error) -> None:
        if error is not None:
            self.drawings.add_failure(error)
        else:
            self.drawings.add(target)
        name = os.path.basename(target)
        if not name.startswith(os.path.splitext(os.path.basename(path))[0] + "."):
            self._renamed.append(f"{os.path.basename(path)[:60]} as {name[-60:]}")

    def _note_unread(self, path: str, error: UserError) -> None:
        LOGGER.warning("%s", error)
        self.unread.append(path)


def extension_of(path: str) -> str:
    """The extension of a picture's drawing."""
    return ".png" if path.lower().endswith(".png") else ".jpg"


def frames_of(video: cv2.VideoCapture, path: str):
    """The frames of a video."""
    for number in itertools.count():
        read, frame = video.read()
        if not read:
            return
        yield Picture(path, image=frame, number=number)


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
            size = 200 * sum(found.count_by_class()) + 500 * len(found.images)
            if not error.full or sum(map(os.path.getsize, drawings.paths)) < size:
                raise
            while drawings.paths and size > 0:
                size -= drawings.remove_last()


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="picture, video, folder or pattern")
    parser.add_argument("--model", required=True, help="x.ckpt, x.mindir or x.onnx")
    parser.add_argument("--config_path", default="", help="of a checkpoint (default: config.yaml of its run)")
    parser.add_argument(
        "--output", default="detections", help="folder for drawings and detections.json (default: %(default)s)"
    )
    parser.add_argument("--min_score", type=float, help="minimum score (default: best F1 in its evaluation)")
    parser.add_argument("--max_detections", type=int, default=DRAWN, help="maximum per picture (default: %(default)s)")
    parser.add_argument(
        "--label_format", default="", choices=tuple(LABEL_FORMATS), help="also write labels for a labelling tool"
    )
    parser.add_argument("--device_target", default="CPU", choices=("CPU", "GPU", "Ascend"))
    parser.add_argument("--runtime", default="", choices=RUNTIMES, help="of an ONNX file (default: onnxruntime)")
    parser.add_argument(
        "--nms",
        default="",
        choices=NMS_KINDS,
        help="remove overlapping detections, or lower their scores (default: the configuration's, or hard)",
    )
    parser.add_argument(
        "--tta",
        default="",
        choices=TTA_KINDS,
        help="flip: average with the mirror image, in twice the time (default: the configuration's, or none)",
    )
    parser.add_argument(
        "--tile",
        type=int,
        help="side in pixels of the square tiles that a picture is cut into, 0 for none (default: the model's)",
    )
    parser.add_argument(
        "--overlap", type=float, help="share of a tile's side that neighbours have in common (default: the model's)"
    )
    return parser.parse_args(argv)


def main(argv) -> int:
    options = parse(argv)
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise UserError(f"--min_score must lie in [0, 1], got {options.min_score}")
    if options.max_detections < 1:
        raise UserError(f"--max_detections must be at least 1, got {options.max_detections}")
    if not os.path.isfile(options.model):
        raise UserError(f"--model: no such file: {one_line(os.path.abspath(options.model))}")
    SignalGuard().install()
    setup_logging()
    folder = os.path.abspath(options.output)
    files = find_files(options.inputs, folder)
    cv2.setNumThreads(1)  # the pictures are shared among threads already
    predictor = Predictor(
        options.model,
        options.config_path,
        None,
        options.device_target,
        concurrent_calls(),
        options.runtime,
        options.nms,
        options.tta,
        options.tile,
        options.overlap,
    )
    source = predictor.show_from(options.min_score)
    LOGGER.info("detections with a score above %.3g (%s)", predictor.min_score, source)
    ensure_writable(folder, "output")
    with hold_folder(folder, "prediction", key="output"):
        return run(files, folder, predictor, options.max_detections, options.label_format)


def print_summary(prediction: Prediction, files: int, seconds: float, lost) -> None:
    """Print what was found in so many files, and what was written; lost: why detections.json was not."""
    found, drawings, predictor = prediction.found, prediction.drawings, prediction.predictor
    counts = found.count_by_class()
    kinds = [(number, name) for number, name in zip(counts, predictor.classes) if number]
    named = sorted(kinds, key=lambda kind: -kind[0])[:MAX_KINDS] if len(kinds) > MAX_KINDS else kinds
    words = [f"{number} {name}" for number, name in named]
    words += [f"{len(kinds) - len(named)} more classes"] * (len(kinds) > len(named))
    print(
        f"{files - len(prediction.unread)} of {files} files, {len(found.images)} pictures in {seconds:.1f} s: "
        f"{sum(counts)} detections" + (f" ({', '.join(words)})" if words else "")
    )
    if found.reduced:
        LOGGER.warning(
            "%d of %d pictures have more than %d detections above the score %g (highest: %.2f); the best %d are kept; "
            "raise --min_score, or --max_detections to keep more",
            found.reduced,
            len(found.images),
            found.max_detections,
            predictor.min_score,
            found.max_score,
            found.max_detections,
        )
    tried = drawings.count + len(drawings.failed)
    state = "" if lost is None else "an older " if os.path.isfile(os.path.join(prediction.folder, RESULT)) else "no "
    print(f"{drawings.count} of {tried} drawings and {state}{RESULT}: {one_line(prediction.folder)}")


def run(files: list, folder: str, predictor, max_detections: int, label_format: str = "") -> int:
    """Detect, write, and print what was written."""
    prediction, start = Prediction(predictor, folder, max_detections), time.time()
    prediction.run(files)
    found, drawings, unread = prediction.found, prediction.drawings, prediction.unread
    lost = None
    try:
        save(found, os.path.join(folder, RESULT), drawings)
    except OutputError as error:
        lost = error
    print_summary(prediction, len(files), time.time() - start, lost)
    unlabelled = None
    try:
        if label_format:
            print(LABEL_FORMATS[label_format](found, folder))
    except OutputError as error:
        unlabelled = error
    faults = [str(error) for error in (lost, unlabelled, drawings.error()) if error]
    missing = bool(faults)
    if unread:
        faults.append(f"{len(unread)} of {len(files)} files could not be read, first {one_line(unread[0])}")
    if faults:
        raise (OutputError if missing else UserError)("; ".join(faults))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
