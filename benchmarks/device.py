"""The devices of this machine and their versions, for `scripts/check_device.py`. Imports no MindSpore."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib.util
import os
import platform
import re
import subprocess
import sys
from typing import Dict, List, NamedTuple, Optional

from src.utils.gpu_libraries import DRIVER

# of cuda.h
_MAJOR, _MINOR = 75, 76


class Devices(NamedTuple):
    """The devices of one kind.

    target: `device_target` for them; names: one per device; gib: memory of the first, 0 if unknown; capability: compute
    capability of a GPU, else 0; driver: its version, "" if unknown.
    """

    target: str
    names: List[str]
    gib: float = 0.0
    capability: float = 0.0
    driver: str = ""

    @property
    def precisions(self) -> List[str]:
        """The arithmetic that they have for float32 and float16 networks."""
        has_tf32 = self.target == "GPU" and self.capability >= 8
        return ["float32", "tf32", "float16"] if has_tf32 else ["float32", "float16"]

    def __str__(self) -> str:
        different = sorted(set(self.names))
        words = [" and ".join(f"{self.names.count(name)} x {name}" for name in different)]
        words += [f"{self.gib:.1f} GiB"] if self.gib else []
        words += [f"compute capability {self.capability:.1f}"] if self.capability else []
        words += [f"driver for {self.driver}"] if self.driver else []
        return ", ".join(words)


def choose_float32(precise: bool) -> None:
    """Forbid TF32 to cuBLAS and cuDNN, or leave it to their defaults (allowed where the GPU has it). They read the
    variable when they are first used."""
    os.environ.pop("NVIDIA_TF32_OVERRIDE", None)
    if precise:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"


def find_devices() -> Optional[Devices]:
    """The GPUs of this machine, else its Ascend devices, else None."""
    gpus = _gpus()
    if gpus:
        return gpus
    ascend = glob.glob("/dev/davinci[0-9]*")
    return Devices("Ascend", ["Ascend"] * len(ascend)) if ascend else None


def processor() -> Devices:
    """The CPU as a device."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as handle:
        name = re.search(r"model name\s*:\s*(.*)|$", handle.read()).group(1) or name
    return Devices("CPU", [f"{name} ({os.cpu_count()} cores)"])


def _driver() -> Optional[ctypes.CDLL]:
    with contextlib.suppress(OSError):
        driver = ctypes.CDLL(DRIVER)
        return None if driver.cuInit(0) else driver
    return None


def _gpus() -> Optional[Devices]:
    driver, count, version = _driver(), ctypes.c_int(), ctypes.c_int()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    driver.cuDriverGetVersion(ctypes.byref(version))
    names, device, size = [], ctypes.c_int(), ctypes.c_size_t()
    for number in range(count.value):
        name = ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode(errors="replace"))
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    parts = [ctypes.c_int(), ctypes.c_int()]
    for part, attribute in zip(parts, (_MAJOR, _MINOR)):
        driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
    capability = parts[0].value + parts[1].value / 10
    cuda = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return Devices("GPU", names, size.value / 2**30, capability, cuda)


def device_memory(number: int) -> Optional[int]:
    """Bytes in use on a GPU, of all processes; on another device what MindSpore has reserved; None if unknown."""
    driver = _driver()
    if driver is None:
        return _reserved_by_mindspore()
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), number)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        or driver.cuCtxSetCurrent(context)
        or driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    )
    return None if failed else total.value - free.value


def _reserved_by_mindspore() -> Optional[int]:
    import mindspore

    if not hasattr(mindspore, "runtime"):  # 1.10
        return None
    return mindspore.runtime.max_memory_reserved()


def versions() -> Dict[str, str]:
    """Versions of Python, of the packages that compute, and of the CUDA libraries that are loaded."""
    found = {"python": platform.python_version()}
    for package in ("mindspore", "mindspore-gpu", "mindspore-ascend", "numpy", "torch"):
        with contextlib.suppress(Exception):
            from importlib.metadata import version  # Python 3.8

            found[package] = version(package)
    number = ctypes.c_int()
    with contextlib.suppress(OSError, AttributeError):
        if ctypes.CDLL("libcudart.so.11.0").cudaRuntimeGetVersion(ctypes.byref(number)) == 0:
            found["CUDA"] = f"{number.value // 1000}.{number.value % 1000 // 10}"
    with contextlib.suppress(OSError, AttributeError):
        cudnn = ctypes.CDLL("libcudnn.so.8").cudnnGetVersion()
        found["cuDNN"] = f"{cudnn // 1000}.{cudnn % 1000 // 100}.{cudnn % 100}"
    return found


def has_torch(python: str) -> bool:
    """Whether a Python has PyTorch."""
    if python == sys.executable:
        return importlib.util.find_spec("torch") is not None
    with contextlib.suppress(OSError):
        code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
        return subprocess.run([python, "-c", code]).returncode == 0
    return False
