"""Cache of the compiled training step for the next start.

MindSpore can reuse a compiled graph, but does not check whether it is still the right one: other weights of the loss,
another number of layers or batch size are ignored silently. So the cache is enabled for one graph only, in a folder
named by a hash of everything the graph depends on, and a folder is valid once it holds the checksums of its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from typing import Iterator

from src.utils.log import LOGGER

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MANIFEST = "checksums.json"
KEPT = 8
ROOM = 200 << 20  # free bytes required to write a graph; one takes a few MB
# variables that select kernels, or how a graph is compiled
_ENVIRONMENT = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MS_DEV_JIT_SYNTAX_LEVEL",
    "MS_JIT_MODULES",
    "MS_DEV_BOOST_INFER",
    "SSD_PLAIN_CONV",
)


def cache_folder() -> str:
    """Where compiled graphs are kept: `$XDG_CACHE_HOME/ssd_resnet50_fpn` or `~/.cache/ssd_resnet50_fpn`.

    Raises:
        OSError: neither exists.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # a relative path is ignored (XDG Base Directory Specification)
        base = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(base):
        raise OSError("no home folder")
    return os.path.join(base, "ssd_resnet50_fpn")


def _sources() -> Iterator[str]:
    yield os.path.join(ROOT, "train.py")
    for folder, _, names in sorted(os.walk(os.path.join(ROOT, "src"))):
        yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(".py"))


def cache_key(made_from: dict) -> str:
    """Name of a graph: a hash of `made_from` (plain JSON), our source files, MindSpore, Python and the processor."""
    import mindspore as ms

    digest = hashlib.sha256()
    for path in _sources():
        with open(path, "rb") as handle:
            digest.update(os.path.relpath(path, ROOT).encode() + b"\0" + handle.read() + b"\0")
    platform_facts = [ms.__version__, os.path.dirname(ms.__file__), sys.version, platform.machine(), _processor()]
    platform_facts += [os.environ.get(name) for name in _ENVIRONMENT]
    digest.update(json.dumps([made_from, platform_facts], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
        return "".join(line for line in handle if line.startswith(("model name", "flags")))
    return platform.processor()


def _checksums(folder: str) -> dict:
    checksums = {}
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            if name != MANIFEST:
                with open(path, "rb") as handle:
                    checksums[os.path.relpath(path, folder)] = hashlib.sha256(handle.read()).hexdigest()
    return checksums


def _is_complete(folder: str) -> bool:
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as handle:
            expected = json.load(handle)
        return bool(expected) and expected == _checksums(folder)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def compile_cache(made_from: dict) -> Iterator[None]:
    """The one graph compiled in the block is taken from the cache or added to it.

    Args:
        made_from: everything that the graph depends on in addition to this program's files.
    """
    try:
        folder = os.path.join(cache_folder(), cache_key(made_from))
        known = _is_complete(folder)
        used = folder if known else f"{folder}.writing-{os.getpid()}"
        if not known:
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(used, exist_ok=True)
            _check_room(used)
    except OSError as error:
        LOGGER.debug("no compile cache: %s", error)
        yield
        return
    LOGGER.debug("compile cache %s: %s", "found" if known else "made", folder)
    _switch(True, used)
    try:
        yield
        if not known:
            _keep(used, folder)
    finally:
        _switch(False, used)
        if not known:
            shutil.rmtree(used, ignore_errors=True)


def _check_room(folder: str) -> None:
    """Check for disk space: MindSpore ends the process, or keeps half a graph, if it cannot write it.

    Raises:
        OSError: the folder cannot be written, or the disk is nearly full; the folder is removed.
    """
    try:
        free = shutil.disk_usage(folder).free
        if free < ROOM:
            raise OSError(f"{free} bytes free in {folder}")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _switch(on: bool, folder: str) -> None:
    import mindspore as ms

    if on:
        ms.set_context(enable_compile_cache=True, compile_cache_path=folder)
    else:
        ms.set_context(enable_compile_cache=False)


def _keep(written: str, folder: str) -> None:
    """Give a written folder its final name; remove the oldest beyond `KEPT`, and leftovers of killed runs."""
    with contextlib.suppress(OSError):  # another run was faster, or the disk is full: nothing is cached
        checksums = _checksums(written)
        if not checksums:
            return
        with open(os.path.join(written, MANIFEST), "w", encoding="utf-8") as handle:
            json.dump(checksums, handle)
        os.rename(written, folder)
        others = [os.path.join(cache_folder(), name) for name in os.listdir(cache_folder())]
        others = sorted((path for path in others if path != folder), key=os.path.getmtime, reverse=True)
        for path in others[KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)
