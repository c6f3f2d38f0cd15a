"""Image files of the formats of labelling tools: search in folders, the file that a path of another machine means, and
ids."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections import Counter
from typing import Dict, List, Optional, Sequence, Tuple

from src.data.issues import Issues
from src.data.readers.locate import IMAGE_ENDINGS, is_system_file, locate, on_disk
from src.utils.text import escape_surrogates

SOURCE_ENDINGS = (*IMAGE_ENDINGS, ".txt", ".json")
"""Of images and of the annotation files that are found by listing a folder."""
_RECORDS = re.compile(r".*\.mindrecord\d+$")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(.+)$")  # Label Studio puts this before the name of an uploaded file


def files_below(folder: str, endings: Sequence[str]) -> List[str]:
    """Absolute paths of the files with one of these endings (lower case) in a folder and its subfolders, sorted.

    Hidden files and folders, and folders of MindRecord files, are left out. Links to folders are not followed.
    """
    found = []
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_system_file(name))
        if any(_RECORDS.match(name) for name in names):
            continue
        names = (name for name in names if not is_system_file(name))
        found += [os.path.join(top, name) for name in names if name.lower().endswith(tuple(endings))]
    return sorted(found)


def ids_by_name(images: Sequence[str]) -> list:
    """An id for each image: its name if that is a unique number, else the next free number from 0."""
    stems = [os.path.splitext(os.path.basename(image))[0] for image in images]
    # up to 15 digits: a longer name is a time stamp or a hash, and JSON readers lose its last digits
    numbers = [int(stem) if stem.isascii() and stem.isdigit() and len(stem) < 16 else None for stem in stems]
    uses = Counter(numbers)
    taken, counter, ids = {number for number in numbers if uses[number] == 1}, 0, []
    for number in numbers:
        if number is None or uses[number] > 1:
            while counter in taken:
                counter += 1
            number, counter = counter, counter + 1
        ids.append(number)
    return ids


def ids_of_file(given: Sequence[object], images: Sequence[str], what: str, where: str, issues: Issues) -> list:
    """The ids that a file gives its images if they are distinct integers, else `ids_by_name`, which is noted.

    Args:
        given: an id as written for each image; what: names them in the message; where: the file.
    """
    numbers = [_integer(value) for value in given]
    if None not in numbers and len(set(numbers)) == len(numbers):
        return numbers
    issues.warn(f"times {what} are no distinct integers (images are numbered by their names)", where)
    return ids_by_name(images)


def _integer(value) -> Optional[int]:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def path_of_reference(reference: str) -> str:
    """The path in a URL or in a path of any system, with slashes: Label Studio's `/data/local-files/?d=a/1.jpg`,
    `s3://bucket/a/1.jpg`, `C:\\a\\1.jpg`."""
    text = reference.replace("\\", "/")
    if "?d=" in text and "local-files" in text:
        return urllib.parse.unquote(text.split("?d=", 1)[1].split("&")[0]).replace("\\", "/")
    if "://" in text:
        scheme, _, rest = text.partition("://")
        return urllib.parse.unquote(rest.split("?")[0]) if scheme.startswith("http") else rest
    return text


class ImageFinder:
    """Finds the image files of one folder by the paths that annotations give them.

    Args:
        folder: absolute path; it is listed, with its subfolders, when a path is not right as it stands.
    """

    def __init__(self, folder: str, issues: Issues):
        self.folder, self._issues = folder, issues
        self._names: Optional[Dict[str, List[str]]] = None

    def find(self, reference: str, by_name: bool = False) -> Tuple[str, str]:
        """(absolute path, name for a COCO-style json) of the image; the path of a missing one is that of the reference.

        Where no file is there, the file below the folder is taken whose path ends in the most parts of the reference.

        Args:
            by_name: the search by name is the rule for the format, and not noted.
        """
        path, name = locate(self.folder, reference, Issues())
        if os.path.isfile(path):
            return (path, name) if by_name else locate(self.folder, reference, self._issues)
        parts = [part for part in path_of_reference(reference).split("/") if part]
        upload = _UPLOAD.match(parts[-1]) if parts else None
        for last in (parts[-1:], [upload.group(1)] if upload else []):
            found = self._ending_in([*parts[:-1], *last]) if last else []
            if len(found) > 1:
                few = ", ".join(found[:3])
                self._issues.error("images have a name that several files have", f"{reference[:80]} ({few})")
            elif found:
                if not by_name:
                    self._issues.warn(
                        f"images were found by name below {self.folder} (their path is of another machine)", reference
                    )
                return os.path.join(self.folder, found[0]), escape_surrogates(found[0])
        if by_name and parts:
            return os.path.join(self.folder, on_disk(parts[-1])), parts[-1]
        return locate(self.folder, reference, self._issues)

    def _ending_in(self, parts: List[str]) -> List[str]:
        """Relative paths of the files that share the most last parts with `parts`, at least the name."""
        if self._names is None:
            self._names = {}
            for path in files_below(self.folder, IMAGE_ENDINGS):
                self._names.setdefault(os.path.basename(path), []).append(os.path.relpath(path, self.folder))
        wanted, best, found = [on_disk(part) for part in parts][::-1], 0, []
        for path in self._names.get(wanted[0], ()):
            same = 0
            for part, other in zip(path.split(os.sep)[::-1], wanted):
                if part != other:
                    break
                same += 1
            if same > best:
                best, found = same, []
            if same == best:
                found.append(path)
        return found
