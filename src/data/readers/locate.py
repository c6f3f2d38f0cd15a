"""Paths of images in annotations, and the files that they refer to: one rule for every format (docs/data.md).

A path is used as written, also an absolute one or one with `..`. Only if no file is there, common mistakes are
corrected: Windows' backslashes, the folder's name given twice, percent-encoding. A file outside its folder is read and
noted.
"""

from __future__ import annotations

import os
import urllib.parse
from typing import Iterator, List, Tuple

from src.data.issues import Issues
from src.data.sample import DataSet
from src.utils.text import escape_surrogates, one_line

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
_SYSTEM = ("thumbs.db", "desktop.ini", "__macosx")


def is_system_file(name: str) -> bool:
    """A hidden file, as macOS (`._1.jpg`, `.DS_Store`) and Windows (`Thumbs.db`) leave them in folders."""
    return name.startswith(".") or name.lower() in _SYSTEM


def on_disk(name: str) -> str:
    """A name from an annotation in the form in which Python opens it: on disk it is UTF-8, whatever the locale."""
    try:
        return os.fsdecode(name.encode("utf-8", "surrogateescape"))
    except UnicodeError:  # a lone surrogate, as JSON may hold it
        return name


def locate(root: str, name: str, issues: Issues) -> Tuple[str, str]:
    """(absolute path, name for a COCO-style json) of an image.

    Args:
        root: absolute path of the folder of the images; name: as written in the annotation.
    """
    path = os.path.join(root, on_disk(name))
    if ".." not in name and "//" not in name and "./" not in name and not os.path.isabs(name):
        if "\\" not in name and "%" not in name and not name.startswith(os.path.basename(root) + "/"):
            return path, name  # nearly every image: no access to the disk
    if not os.path.lexists(path):
        for other, mistake in _other_readings(root, name):
            if os.path.isfile(os.path.join(root, on_disk(other))):
                issues.warn(f"images were found after a correction of their path ({mistake})", name)
                path = os.path.join(root, on_disk(other))
                break
    path = os.path.normpath(path)
    inside = os.path.relpath(path, root)
    if inside == os.pardir or inside.startswith(os.pardir + os.sep):
        issues.warn(f"images lie outside {root} (read from where their path points)", name)
        return path, escape_surrogates(path)
    return path, escape_surrogates(inside)


def _other_readings(root: str, name: str) -> Iterator[Tuple[str, str]]:
    slashed = name.replace("\\", "/")
    if slashed != name:
        yield slashed, "backslashes"
    prefix = os.path.basename(root) + "/"
    if slashed.startswith(prefix):
        yield slashed[len(prefix) :], f"it begins with the folder's name, {prefix}"
    if "%" in name:
        yield urllib.parse.unquote(slashed), "percent-encoded"
    if slashed.startswith(("http://", "https://")):
        yield urllib.parse.unquote(slashed.rsplit("/", 1)[-1]), "a URL: its last part"


def missing_images(data: DataSet) -> Tuple[List[str], str]:
    """(paths of the images that do not exist, a hint at the reason or "").

    Images without a box are included: in a list file their boxes may have been taken for a part of the path.
    """
    missing = [sample.path for sample in [*data.samples, *data.left_out] if not os.path.isfile(sample.path)]
    return missing, _hint(missing[0]) if missing else ""


def _hint(path: str) -> str:
    """A possible reason why an image is missing, in words."""
    folder, name = os.path.split(path)
    if "\\" in name:
        return f"'{one_line(name)[:80]}' holds backslashes, which separate folders on Windows only"
    if os.path.isdir(path):
        return "it is a folder"
    if os.path.islink(path):
        return f"it is a link to {one_line(os.readlink(path))}, which is not there"
    if "://" in path or ":/" in path:
        return "a URL is given where a file name is expected"
    if not os.path.isdir(folder):
        there = folder
        while not os.path.isdir(there):
            there = os.path.dirname(there)
        return f"there is no folder {one_line(os.path.relpath(folder, there))} in {one_line(there)}"
    present = [word for word in name.split() if word != name and os.path.isfile(os.path.join(folder, word))]
    if present:
        return (
            f"the folder has {one_line(present[0])}; the rest of the line is not a box xmin,ymin,xmax,ymax,class: "
            f"boxes come after the path, with commas and without spaces"
        )
    stem = os.path.splitext(name)[0].lower()
    alike = sorted(other for other in os.listdir(folder) if os.path.splitext(other)[0].lower() == stem)
    if alike:
        return f"the folder has {one_line(alike[0])}: extension and case must match"
    return ""
