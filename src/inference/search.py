"""Pictures and videos named on a command line: files, folders with all below them, patterns."""

from __future__ import annotations

import glob
import os
import re
from typing import Dict, Iterator, List, Sequence

from src.utils.errors import UserError
from src.utils.log import LOGGER
from src.utils.output import is_drawing
from src.utils.text import one_line

PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
# picture formats that are not read; a file of such a name is one of ours where its first bytes say so
OTHER_PICTURES = (".webp", ".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".ico")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_NAMES, _KINDS = 3, 12  # shown of what is left out
_HIDDEN = ("__MACOSX",)


def is_video(path: str) -> bool:
    """By the extension of its name."""
    return path.lower().endswith(VIDEOS)


def find_files(places: Sequence[str], output: str = "") -> List[str]:
    """Picture and video files: a file is itself, a folder all below it, anything else a pattern (`*`, `**`).

    In folders and patterns a file counts by its extension, and one without an extension, or with that of another
    picture format, by its first bytes. Linked folders are searched, each folder once. Left out, and named in one line
    of the log: every other file, hidden files and folders, dead links, the drawings of this program, and the folder
    `output` where it lies below a place.

    Raises:
        UserError: a place that holds none.
    """
    search = _Search(output)
    for place in places:
        search.add(place)
    if not search.files:
        search.refuse(f"nothing to detect on in {one_line(', '.join(places))}")
    if search.left_out:
        LOGGER.info("%s", search.summary())
    return search.files


class _Search:
    def __init__(self, output: str):
        self.files: List[str] = []
        self.left_out: Dict[str, List[str]] = {}  # kind -> names
        self._output = os.path.realpath(output) if output else ""
        self._known = set()  # real paths of `files`
        self._reached = 0

    def add(self, place: str) -> None:
        """All files of a place.

        Raises:
            UserError: it holds none. Drawings that are left out count, as a shell's `*` names those of an earlier run.
        """
        self._reached = 0
        if os.path.isfile(place):
            self._named(place)
        elif os.path.isdir(place):
            self._folder(place)
        else:
            self._pattern(place)
        if not self._reached:
            what = "no picture or video in the folder" if os.path.isdir(place) else "no such file, folder or pattern:"
            self.refuse(f"{what} {one_line(place)} (supported: {', '.join(PICTURES + VIDEOS)})")

    def refuse(self, reason: str) -> None:
        """Raise a UserError that says what is left out, too."""
        raise UserError(reason + (f"; {self.summary()}" if self.left_out else ""))

    def summary(self) -> str:
        """The line about what is left out."""
        kinds = sorted(self.left_out.items(), key=lambda item: (-len(item[1]), item[0]))
        parts = []
        for kind, names in kinds[:_KINDS]:
            first = ", ".join(name if len(name) <= 60 else name[:57] + "..." for name in names[:_NAMES])
            parts.append(f"{kind}: {len(names)} ({first}{', ...' if len(names) > _NAMES else ''})")
        rest = sum(len(names) for _, names in kinds[_KINDS:])
        parts += [f"other kinds: {rest}"] * bool(rest)
        others = [kind for kind in OTHER_PICTURES if kind in self.left_out]
        parts += [f"convert {', '.join(others)} to JPEG or PNG to have them read"] * bool(others)
        return f"left out {sum(len(names) for _, names in kinds)}: {'; '.join(parts)}"

    def _leave(self, kind: str, path: str) -> None:
        self.left_out.setdefault(kind, []).append(one_line(os.path.basename(path)))

    def _named(self, path: str) -> None:
        """A file that was named as a place."""
        if path.endswith(".json") and self._output == os.path.dirname(os.path.realpath(path)):
            self._leave("in the output folder", path)
            self._reached += 1
        else:
            self._take(path)

    def _take(self, path: str) -> None:
        """A picture or video."""
        self._reached += 1
        if is_drawing(path):
            self._leave("drawings of this program", path)
            return
        real = os.path.realpath(path)
        if real not in self._known:
            self._known.add(real)
            self.files.append(path)

    def _found(self, path: str) -> None:
        """A file of a folder or pattern."""
        name = os.path.basename(path)
        extension = os.path.splitext(name)[1].lower()
        if name.startswith(".") or name in _HIDDEN:
            self._leave("hidden", path)
        elif not os.path.exists(path):
            self._leave("dead links", path)
        elif not os.path.isfile(path):
            self._leave("no regular files", path)
        elif extension in PICTURES + VIDEOS or _has_picture_bytes(path, extension):
            self._take(path)
        else:
            self._leave(extension if _is_extension(extension) else "without an extension", path)

    def _pattern(self, pattern: str) -> None:
        base = re.split(r"[*?\[]", pattern)[0]
        base = os.path.realpath(base[: base.rfind("/") + 1] or ".")
        for path in sorted(glob.glob(pattern, recursive=True)):
            if self._hides(base) and _lies_in(os.path.realpath(path), self._output):
                if os.path.isfile(path):
                    self._reached += 1
                    self._leave("in the output folder", path)
            elif not os.path.isdir(path):
                self._found(path)
            elif "**" not in pattern:
                self._folder(path)

    def _hides(self, base: str) -> bool:
        """The output folder lies below `base`, and is left out there."""
        return bool(self._output) and base != self._output and _lies_in(self._output, base)

    def _folder(self, top: str) -> None:
        """All below a folder in order of their paths, what is behind links last."""
        hides = self._hides(os.path.realpath(top))
        seen, links, files = set(), [top], []
        while links:
            files += sorted(self._walk(links.pop(0), seen, links, hides))
        for path in files:
            self._found(path)

    def _walk(self, top: str, seen: set, links: List[str], hides: bool) -> Iterator[str]:
        """Files below a folder; links to folders go to `links`."""
        folders = [top]
        while folders:
            folder = folders.pop()
            try:
                stat = os.stat(folder)
                if (stat.st_dev, stat.st_ino) in seen:
                    continue
                seen.add((stat.st_dev, stat.st_ino))
                if hides and _is_same(folder, self._output):
                    for name in _pictures_below(folder):
                        self._leave("in the output folder", name)
                    continue
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                self._leave("folders that cannot be read", folder)
                continue
            for entry in entries:
                if not os.path.isdir(entry.path):
                    yield entry.path
                elif entry.name.startswith(".") or entry.name in _HIDDEN:
                    self._leave("hidden", entry.path)
                elif entry.is_symlink():
                    links.append(entry.path)
                else:
                    folders.append(entry.path)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_same(folder: str, output: str) -> bool:
    """One folder, by whatever path, or a folder in it."""
    return _lies_in(os.path.realpath(folder), output) or (os.path.exists(output) and os.path.samefile(folder, output))


def _pictures_below(folder: str) -> Iterator[str]:
    for _, _, names in os.walk(folder):
        for name in sorted(names):
            if name.lower().endswith(PICTURES + VIDEOS) and not name.startswith("."):
                yield name


def _is_extension(extension: str) -> bool:
    """Letters and digits; not the end of a date or of a sentence."""
    return re.fullmatch(r"\.(?=.*[a-z])[a-z0-9_~-]{1,10}", extension) is not None


def _has_picture_bytes(path: str, extension: str) -> bool:
    """A JPEG or PNG without an extension, or with that of another picture format."""
    if _is_extension(extension) and extension not in OTHER_PICTURES:
        return False
    try:
        with open(path, "rb") as handle:
            return handle.read(8).startswith(_MAGIC)
    except OSError:
        return False
