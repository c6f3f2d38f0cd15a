"""SSD ResNet50-FPN for MindSpore. Importing it reads no arguments and sets no context."""

from __future__ import annotations

import ctypes
import os
import sysconfig

__version__ = "1.1.0"


def _make_cuda_runtime_findable() -> None:
    """mindspore-gpu 1.10 links libcudart.so.11.0 even when it runs on a CPU.

    Where the system has none, take the one of the package nvidia-cuda-runtime-cu11. It has to be in
    the process before the first `import mindspore`; it is a no-op in the MindSpore 2.10 world.
    """
    library = os.path.join(sysconfig.get_paths()["purelib"], "nvidia", "cuda_runtime", "lib", "libcudart.so.11.0")
    if not os.path.exists(library):
        return
    try:
        ctypes.CDLL("libcudart.so.11.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)


_make_cuda_runtime_findable()
