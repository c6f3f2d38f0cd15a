"""What MindSpore's GPU back end takes from the system: checked, and made findable, before MindSpore is imported.

MindSpore does not say what is missing. 2.x looks for its GPU plugin only where CUDA_HOME/bin/nvcc names a CUDA version
that it has a plugin for, and otherwise "only supports one of the ['CPU']". docs/devices.md says where each part comes
from.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import mmap
import os
import re
import struct
import subprocess
import sys
import sysconfig
from typing import List, Tuple

from src.utils.errors import UserError

DRIVER = "libcuda.so.1"
_PLUGIN = "libmindspore_gpu.so"
# of /usr/include/elf.h
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRINGS, _RPATH, _RUNPATH = 1, 5, 15, 29


def prepare_gpu() -> None:
    """Load the libraries of MindSpore's GPU plugin into this process, and set CUDA_HOME if it has no fitting nvcc.

    Libraries are looked for as the loader does, then among the packages of requirements-gpu.txt. A MindSpore without
    GPU plugin and a vendor's build are left alone: what they need is known to them.

    Raises:
        UserError: something is missing; names all of it.
    """
    package = _mindspore_folder()
    plugins = gpu_plugins(package) if package and not is_vendor_build(package) else {}
    if not plugins:
        return
    missing = []
    release, problem = _cuda_release(sorted(filter(None, plugins)))
    plugin = plugins.get(release) or plugins[max(plugins)]
    names = missing_libraries(plugin, package)
    if DRIVER in names:
        names.remove(DRIVER)
        missing.append(f"the NVIDIA driver ({DRIVER})")
    if names:
        missing.append(f"{', '.join(names)} ('DEVICE=gpu bash scripts/environment.sh' installs them)")
    if problem:
        missing.append(problem)
    if missing:
        raise UserError(
            f"device_target: MindSpore's GPU back end lacks {'; '.join(missing)}; see docs/devices.md, or use "
            f"--device_target=CPU"
        )


def _mindspore_folder() -> str:
    """The folder of the package, which is not imported; "" without one."""
    spec = importlib.util.find_spec("mindspore")
    return os.path.dirname(spec.origin) if spec and spec.origin else ""


def is_vendor_build(package: str) -> bool:
    """Whether the version has a local part, as in 1.10.1+corex.3.0.0."""
    try:
        with open(os.path.join(package, "version.py"), encoding="utf-8") as handle:
            return re.search(r"__version__ = .*\+", handle.read()) is not None
    except OSError:
        return False


def gpu_plugins(package: str) -> dict:
    """CUDA release -> path of the plugin for it; 1.10 has one for all releases, "" here."""
    paths = glob.glob(os.path.join(glob.escape(package), "lib", "plugin", _PLUGIN + "*"))
    return {os.path.basename(path)[len(_PLUGIN) :].lstrip("."): path for path in paths}


def _cuda_release(releases: List[str]) -> Tuple[str, str]:
    """(release that MindSpore will find, "") or ("", what is missing). Sets CUDA_HOME to that of the environment if
    there is no fitting one."""
    if not releases:
        return "", ""
    given = os.environ.get("CUDA_HOME", "")
    release = nvcc_release(given)
    if release in releases:
        return release, ""
    own = os.path.join(sys.prefix, "cuda")  # of scripts/environment.sh
    if nvcc_release(own) in releases:
        os.environ["CUDA_HOME"] = own
        return nvcc_release(own), ""
    found = f"{given}/bin/nvcc is of release {release}" if release else f"there is no nvcc in {given}/bin"
    wanted = " or ".join(releases)
    return "", f"CUDA_HOME/bin/nvcc of release {wanted} ({found if given else 'CUDA_HOME is not set'})"


def nvcc_release(cuda_home: str) -> str:
    """The release that `nvcc --version` names, such as 11.6; "" if there is none."""
    nvcc = os.path.join(cuda_home, "bin", "nvcc")
    if not cuda_home or not os.access(nvcc, os.X_OK):
        return ""
    try:
        done = subprocess.run([nvcc, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(rb"release (\d+\.\d+)", done.stdout)
    return found.group(1).decode() if found else ""


def missing_libraries(plugin: str, package: str) -> List[str]:
    """Names of the libraries that a plugin needs and that cannot be loaded; the others are loaded now."""
    bundled = {name for _, _, names in os.walk(os.path.join(package, "lib")) for name in names}
    needed, folders = needed_libraries(plugin)
    names = [name for name in needed if name not in bundled]
    folders += glob.glob(os.path.join(glob.escape(sysconfig.get_paths()["purelib"]), "nvidia", "*", "lib"))
    for _ in range(2):  # the second time those whose own needs came later in the list
        names = [name for name in names if not _load(name, folders)]
    return names


def _load(name: str, folders: List[str]) -> bool:
    for folder in ("", *folders):
        path = os.path.join(folder, name)
        if folder and not os.path.exists(path):
            continue
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        if folder:  # not for this process: MindSpore asks `ldd` for the libraries, and logs errors where it finds none
            known = os.environ.get("LD_LIBRARY_PATH", "")
            os.environ["LD_LIBRARY_PATH"] = f"{known}:{folder}" if known else folder
        return True
    return False


def needed_libraries(path: str) -> Tuple[List[str], List[str]]:
    """(names of the libraries that a 64-bit ELF file needs, absolute folders in which it looks for them)."""
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (table,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        # of each segment: kind, flags, offset in the file, address, physical address, bytes in the file
        segments = [struct.unpack_from("<IIQQQQ", data, table + size * number) for number in range(count)]
        start, length = next((segment[2], segment[5]) for segment in segments if segment[0] == _DYNAMIC)
        entries = [struct.unpack_from("<qQ", data, start + 16 * number) for number in range(length // 16)]
        address = dict(entries)[_STRINGS]
        strings = next(
            address - first + offset
            for kind, _, offset, first, _, held in segments
            if kind == _LOAD and first <= address < first + held
        )

        def text(at: int) -> str:
            return data[strings + at : data.find(b"\0", strings + at)].decode()

        needed = [text(value) for tag, value in entries if tag == _NEEDED]
        paths = ":".join(text(value) for tag, value in entries if tag in (_RPATH, _RUNPATH))
    return needed, [folder for folder in paths.split(":") if folder.startswith("/")]
