"""SSD for MindSpore. Importing it sets no context and reads no argument but the program's name."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import sysconfig

__version__ = "1.3.0"


def _make_cuda_runtime_findable() -> None:
    """mindspore-gpu 1.10 links libcudart.so.11.0 even when it runs on a CPU.

    Where the system has none, take the one of the package nvidia-cuda-runtime-cu11. It has to be in
    the process before the first `import mindspore`; it is a no-op under MindSpore 2.10.
    """
    library = os.path.join(sysconfig.get_paths()["purelib"], "nvidia", "cuda_runtime", "lib", "libcudart.so.11.0")
    if not os.path.exists(library):
        return
    try:
        ctypes.CDLL("libcudart.so.11.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)


# what the programs import at once, and what later
_AT_ONCE = ("cv2", "easydict", "numpy", "yaml")
# where programs lie that a user starts
_PROGRAM_FOLDERS = (".", "scripts", os.path.join("benchmarks", "rehearsal"))
PACKAGES = (*_AT_ONCE, "PIL", "matplotlib", "mindspore", "mpi4py", "pycocotools", "tensorboardX", "tqdm")


def missing_package_message(names: str) -> str:
    """What to do about packages that this Python has not, in one line."""
    return (
        f"{sys.executable} has no package {names}: 'bash scripts/environment.sh' makes .venv with all that is needed, "
        f"and '. .venv/bin/activate' makes it the python3 of this terminal"
    )


def _check_packages() -> None:
    """A program of this repository that the wrong Python runs ends here, in one line."""
    program, root = os.path.abspath(sys.argv[0]), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.dirname(program) not in [os.path.normpath(os.path.join(root, name)) for name in _PROGRAM_FOLDERS]:
        return
    missing = [name for name in _AT_ONCE if importlib.util.find_spec(name) is None]
    if missing:
        print(f"error: {missing_package_message(', '.join(missing))}", file=sys.stderr)
        sys.exit(2)


_check_packages()
_make_cuda_runtime_findable()
