"""A Cell with a lower peak of memory at its first run."""

from __future__ import annotations

from mindspore import nn

from src.utils.memory import release_free_memory


class LeanCell(nn.Cell):
    """Returns the memory freed by its first compilation to the system, before its first run."""

    def __init__(self, auto_prefix: bool = True):
        super().__init__(auto_prefix=auto_prefix)
        self._released = False

    def compile(self, *args, **kwargs) -> None:
        """As in `nn.Cell`, which calls it before every run."""
        super().compile(*args, **kwargs)
        if not self._released:
            self._released = True
            release_free_memory()
