"""Atomic writing of videos: to a temporary file, whose frames are counted, then renamed (see `src.utils.output`)."""

from __future__ import annotations

import contextlib
import os

import cv2
import numpy as np

from src.utils.output import MARK_BOX, failure, free_bytes, output_error, part_file


class VideoFile:
    """An MPEG-4 video written frame by frame; `close` gives it its name and marks it as a drawing (`is_drawing`).

    OpenCV reports no write error, so the finished file is opened again and its frames are counted.

    Args:
        path: of the video, ending in .mp4; rate: frames per second.
    """

    def __init__(self, path: str, rate: float):
        self.path, self.rate, self.frames = os.path.realpath(path), rate, 0
        self._writer, self._stack = None, contextlib.ExitStack()
        self._part, self._size = "", (0, 0)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_) -> None:
        self._release()
        self._stack.close()

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, BGR uint8 [H, W, 3]; it is resized to the size of the first.

        Raises:
            OutputError: the file cannot be created, or the disk is full.
        """
        if self._writer is None:
            self._open(frame)
        if (frame.shape[1], frame.shape[0]) != self._size:
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(frame)
        self.frames += 1
        self._check_room()

    def close(self) -> None:
        """Finish the video and give it its name.

        Raises:
            OutputError: it is incomplete; nothing is left of it.
        """
        if self._writer is None:
            raise failure(self.path, "it has no frames")
        self._release()
        try:
            with open(self._part, "ab") as handle:
                handle.write(MARK_BOX)
                handle.flush()
                os.fsync(handle.fileno())  # a late write error of the video is reported here too
            written = _frames_in(self._part)
            if written != self.frames:
                free = free_bytes(self.path) or 0
                raise failure(self.path, f"{written} of {self.frames} frames were written", full=free < 1 << 20)
            os.replace(self._part, self.path)
        except OSError as error:
            raise output_error(self.path, error) from error

    def _open(self, frame: np.ndarray) -> None:
        try:
            self._part = self._stack.enter_context(part_file(self.path))
        except OSError as error:
            raise output_error(self.path, error) from error
        self._size = (frame.shape[1], frame.shape[0])
        self._writer = cv2.VideoWriter(self._part, cv2.VideoWriter_fourcc(*"mp4v"), self.rate, self._size)
        if not self._writer.isOpened():
            raise failure(self.path, f"OpenCV cannot write a video of {self._size[0]} x {self._size[1]} pixels")

    def _check_room(self) -> None:
        """Raise at once if the disk is full, not after the last frame."""
        free = free_bytes(self.path)
        if free is not None and free < 4096:
            try:
                with part_file(self.path) as probe, open(probe, "wb") as handle:
                    handle.write(bytes(4096))
            except OSError as error:
                raise output_error(self.path, error) from error

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None


def _frames_in(path: str) -> int:
    """Number of frames stated in a video file, 0 for a broken one."""
    video = cv2.VideoCapture(path)
    try:
        return int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    finally:
        video.release()
