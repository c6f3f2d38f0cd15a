"""The compiled training step kept for the next start.

MindSpore can reuse a compiled graph, but does not look whether it is still the right one: other weights of the loss,
another number of layers or batch size are ignored without a word. So it is switched on for one graph only, in a folder
that is named after everything the graph comes from, and a folder counts once it holds its files' checksums.
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
ROOM = 200 << 20  # bytes free that a graph is written with; one takes a few MB
# what chooses between kernels, or how a graph is compiled
_ENVIRONMENT = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MS_DEV_JIT_SYNTAX_LEVEL",
    "MS_JIT_MODULES",
    "MS_DEV_BOOST_INFER",
)


def cache_folder() -> str:
    """Where compiled graphs are kept: `$XDG_CACHE_HOME/ssd_resnet50_fpn` or `~/.cache/ssd_resnet50_fpn`.

    Raises:
        OSError: there is neither.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # a relative one does not count (XDG Base Directory Specification)
        base = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(base):
        raise OSError("no home folder")
    return os.path.join(base, "ssd_resnet50_fpn")


def _sources() -> Iterator[str]:
    yield os.path.join(ROOT, "train.py")
    for folder, _, names in sorted(os.walk(os.path.join(ROOT, "src"))):
        yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(".py"))


def cache_key(made_from: dict) -> str:
    """Name of a graph: of `made_from` (plain JSON), this program's files, MindSpore, Python and the processor."""
    import mindspore as ms

    digest = hashlib.sha256()
    for path in _sources():
        with open(path, "rb") as handle:
            digest.update(os.path.relpath(path, ROOT).encode() + b"\0" + handle.read() + b"\0")
    place = [ms.__version__, os.path.dirname(ms.__file__), sys.version, platform.machine(), _processor()]
    place += [os.environ.get(name) for name in _ENVIRONMENT]
    digest.update(json.dumps([made_from, place], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
        return "".join(line for line in handle if line.startswith(("model name", "flags")))
    return platform.processor()


def _checksums(folder: str) -> dict:
    found = {}
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            if name != MANIFEST:
                with open(path, "rb") as handle:
                    found[os.path.relpath(path, folder)] = hashlib.sha256(handle.read()).hexdigest()
    return found


def _is_whole(folder: str) -> bool:
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as handle:
            wanted = json.load(handle)
        return bool(wanted) and wanted == _checksums(folder)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def compile_cache(made_from: dict) -> Iterator[None]:
    """Within it, the one graph that is compiled is taken from the cache or put there.

    Args:
        made_from: all that the graph depends on besides this program's files.
    """
    try:
        folder = os.path.join(cache_folder(), cache_key(made_from))
        known = _is_whole(folder)
        used = folder if known else f"{folder}.writing-{os.getpid()}"
        if not known:
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(used, exist_ok=True)
            _prove_room(used)
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


def _prove_room(folder: str) -> None:
    """MindSpore ends the process, or keeps half a graph, where it cannot write it.

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
    """Give a written folder its name; remove the oldest beyond `KEPT`, and what killed runs left."""
    with contextlib.suppress(OSError):  # another run was quicker, or the disk is full: then there is none
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
