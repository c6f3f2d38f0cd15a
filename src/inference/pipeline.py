"""Detection on many pictures: reading, the network, and drawing and writing overlap in threads; results stay in order.

One picture at a time leaves cores idle: only the network uses all of them, and not fully. Here each thread takes a
picture (or as many as an exported file takes per call) through all stages, and concurrent calls of the network share
the cores. A network of MindSpore is called from the main thread only, while other threads read and write.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Callable, Iterable, Iterator, List, Optional

import cv2
import numpy as np

from src.data.images import read_header
from src.inference.pictures import read_picture
from src.inference.predictor import Predictor
from src.utils.errors import UserError
from src.utils.output import OutputError
from src.utils.threads import cores, ordered_map

MAX_BYTES = 1 << 29
"""Limit for the decoded pictures and frames in work at a time; the last one may exceed it."""
MAX_CALLS = 8
"""Limit for concurrent calls of the network: each allocates its own activations."""


def concurrent_calls() -> int:
    """Number of concurrent calls of an ONNX file that keeps all cores busy."""
    return min(cores(), MAX_CALLS)


class Picture:
    """A picture file, or a frame of a video, on its way through the stages.

    Attributes:
        path: of the file; number: of the frame, None for a picture file; target: what `finish` writes, if anything.
        image: BGR uint8 [H, W, 3]; None before a file is read and after `finish`; shape: its (height, width).
        detections: boxes_px [D, 4] y1, x1, y2, x2, labels [D], scores [D].
        read_error, write_error: why it has no detections; why its drawing was not written.
        drawn: what `finish` returned.
    """

    def __init__(self, path: str, target: str = "", image: Optional[np.ndarray] = None, number: Optional[int] = None):
        self.path, self.target, self.image, self.number = path, target, image, number
        self.shape = (0, 0) if image is None else image.shape[:2]
        self.pixels: Optional[np.ndarray] = None  # [T, h, w, 3]: tiles of the network's size, or the one picture
        self.detections: tuple = ()
        self.read_error: Optional[UserError] = None
        self.write_error: Optional[OutputError] = None
        self.drawn: Optional[np.ndarray] = None

    def size(self) -> int:
        """Bytes of the decoded picture, by the file's header; 0 for a file that cannot be read."""
        if self.image is not None:
            return self.image.nbytes
        with contextlib.suppress(OSError, ValueError):
            (height, width), _ = read_header(self.path)
            return 3 * height * width
        return 0


def detect(
    pictures: Iterable[Picture], predictor: Predictor, finish: Callable[[Picture], Optional[np.ndarray]]
) -> Iterator[Picture]:
    """Yield the pictures in order, detected on and finished.

    Detections are those of `predictor(image)`. They are equal to the last bit if the network takes one image per call.
    With a larger fixed batch a picture shares its call with others, and the runtime may choose kernels that round
    differently; in onnxruntime 1.32 on a CPU all bits were the same.

    Args:
        pictures: consumed ahead, within the limits of threads and `MAX_BYTES`.
        finish: called in a thread for each readable picture, to draw and write. An OutputError that it raises becomes
            `write_error`.
    """
    slots = threading.Semaphore(predictor.concurrent_calls)
    threads = concurrent_calls() + 2  # two may wait for files without idling the network

    def read(group: List[Picture]) -> List[Picture]:
        for picture in group:
            _read(picture, predictor)
        return group

    def run_network(group: List[Picture]) -> List[Picture]:
        readable = [picture for picture in group if picture.read_error is None]
        if readable:
            pixels = np.concatenate([picture.pixels for picture in readable])
            shapes = np.array([picture.shape for picture in readable])
            for picture, detections in zip(readable, predictor.detect(pixels, shapes)):
                picture.detections, picture.pixels = detections, None
        return group

    def complete(group: List[Picture]) -> List[Picture]:
        for picture in group:
            if picture.read_error is None:
                _finish(picture, finish)
        return group

    def all_stages(group: List[Picture]) -> List[Picture]:
        read(group)
        with slots:
            run_network(group)
        return complete(group)

    groups = _grouped(pictures, predictor.batch_size)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="pictures"))

        def mapped(function: Callable, items: Iterable) -> Iterator[List[Picture]]:
            results = ordered_map(pool, function, items, 2 * threads, MAX_BYTES)
            return stack.enter_context(contextlib.closing(results))

        if predictor.concurrent_calls > 1:
            results = mapped(all_stages, groups)
        else:
            detected = ((run_network(group), _size(group)) for group in mapped(read, groups))
            results = mapped(complete, detected)
        for group in results:
            yield from group


def _grouped(pictures: Iterable[Picture], size: int) -> Iterator[tuple]:
    """(pictures of a call, their bytes)."""
    pictures = iter(pictures)
    while True:
        group = list(islice(pictures, size))
        if not group:
            return
        yield group, _size(group)


def _size(group: List[Picture]) -> int:
    return sum(picture.size() for picture in group)


def _read(picture: Picture, predictor: Predictor) -> None:
    try:
        if picture.image is None:
            rgb = read_picture(picture.path)
            picture.image, picture.shape = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR, dst=rgb), rgb.shape[:2]
        picture.pixels = np.ascontiguousarray(predictor.cut(picture.image)[..., ::-1])
    except UserError as error:
        picture.read_error = error


def _finish(picture: Picture, finish: Callable[[Picture], Optional[np.ndarray]]) -> None:
    try:
        picture.drawn = finish(picture)
    except OutputError as error:
        picture.write_error = error
    picture.image = None
