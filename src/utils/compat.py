"""Differences between the APIs of MindSpore 1.10 and 2.10.

Detected by `hasattr`, never by version. Each function names what the two versions do; it can be removed when
1.10 is no longer supported.
"""

from __future__ import annotations

from typing import Callable

import mindspore as ms


def set_device_target(target: str, device_id: int | None = None) -> None:
    """2.10 has `set_device` (and warns about the old keyword); 1.10 only `set_context(device_target=)`.

    2.10 refuses `set_device` once anything was computed (in a notebook, for example), even for the same device.
    """
    if not hasattr(ms, "set_device"):
        ms.set_context(device_target=target)
        if device_id is not None and target != "CPU":
            ms.set_context(device_id=device_id)
    elif target != "CPU":
        ms.set_device(target, *([] if device_id is None else [device_id]))
    else:
        try:
            ms.set_device(target)
        except RuntimeError:
            if ms.get_context("device_target") != target:
                raise


def start_profiler(folder: str) -> Callable[[], None]:
    """Start profiling into `folder`; the returned function stops it and writes the analysis.

    1.10 has `ms.Profiler` only; 2.10 has `mindspore.profiler.profile` and warns about the old class.
    """
    if hasattr(ms, "profiler") and hasattr(ms.profiler, "profile"):
        profiler = ms.profiler.profile(on_trace_ready=ms.profiler.tensorboard_trace_handler(folder), start_profile=True)
        profiler.start()
        return profiler.stop
    profiler = ms.Profiler(output_path=folder)
    return profiler.analyse
