"""TensorBoard files of a run, `output_path/summary/events.out.tfevents.*`, written without a thread.

The writer of tensorboardX passes records to a thread. On a full disk the thread dies with a traceback, and the training
then waits for it forever.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Dict

from src.utils.log import write_or_go_on
from src.utils.output import append_bytes, output_error


class Summary:
    """A file of scalars. After a write error it logs one warning and writes nothing more.

    Args:
        folder: created if missing.
    """

    def __init__(self, folder: str):
        from tensorboardX.crc32c import crc32c
        from tensorboardX.proto.event_pb2 import Event

        self._crc32c, self._event = crc32c, Event
        self.path = os.path.join(folder, f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}")
        self._lost = False
        if write_or_go_on(self.path, self._make_folder, folder):
            self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    @staticmethod
    def _make_folder(folder: str) -> None:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise output_error(folder, error) from error

    def add(self, values: Dict[str, float], step: int) -> None:
        """Add the scalars of a step, by name."""
        event = self._event(wall_time=time.time(), step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._append(event)

    def _append(self, event) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        record = length + self._checksum(length) + data + self._checksum(data)
        if not self._lost:  # after a lost record nothing is appended: later ones would hide the gap
            self._lost = not write_or_go_on(self.path, append_bytes, self.path, record)

    def _checksum(self, data: bytes) -> bytes:
        """The masked CRC-32C of the TFRecord format."""
        crc = self._crc32c(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
