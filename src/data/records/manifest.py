"""The manifest of a record set: what it was made from, what it holds, and whether it is up to date.

A manifest `ssd.mindrecord.json` (or `ssd_eval.mindrecord.json`) lies next to the eight files. It is written last, so
files without it are another program's, or those of an unfinished conversion.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Dict, Optional, Sequence

from src.config import data_file
from src.data.readers.find_images import SOURCE_ENDINGS, files_below
from src.data.records.files import all_files
from src.data.records.ground_truth import given_annotation_files
from src.utils.output import write_json

VERSION = 4
"""Of the converter: records of another version are outdated."""
_KEYS = set("version settings data_path fingerprint sources given images bad_images".split())
_KEYS |= set("sizes count rows ids annotation_file".split())


def manifest_path(prefix: str) -> str:
    """Path of the manifest of the records `prefix0..7`."""
    return prefix + ".json"


def portable_path(path: str, data_path: str) -> str:
    """A path relative to `data_path` if it lies below it, so that both may be moved together; else unchanged."""
    below = os.path.join(os.path.abspath(data_path), "")
    return path[len(below) :] if path.startswith(below) else path


def record_settings(cfg, is_training: bool) -> dict:
    """What identifies a data set in a configuration: format, paths (`portable_path`), split and class list, and of
    training records whether images without boxes are among them, and how pictures are cut into tiles.

    Records with equal settings are versions of the same data set; others belong to another one.
    """
    if cfg.dataset == "coco":
        root, split = data_file(cfg, cfg.coco_root), cfg.train_data_type if is_training else cfg.val_data_type
        annotations = os.path.join(root, cfg.instances_set.format(split))
        paths = {"annotations": annotations, "images": os.path.join(root, split)}
    elif cfg.dataset == "voc":
        paths = {"folder": os.path.join(data_file(cfg, cfg.voc_root), "train" if is_training else "eval")}
    else:
        name = cfg.anno_path if is_training or not cfg.anno_path_val else cfg.anno_path_val
        paths = {"annotations": data_file(cfg, name), "images": data_file(cfg, cfg.image_dir)}
    paths = {key: portable_path(path, cfg.data_path) for key, path in paths.items()}
    options = {}  # those that are on: manifests of earlier versions stay valid
    if is_training and cfg.negative_images:
        options["negative_images"] = True
    if is_training and cfg.tile:
        options.update(tile=cfg.tile, overlap=cfg.overlap)
    return {"dataset": cfg.dataset, "classes": list(cfg.classes), **paths, **options}


def settings_key(settings: dict, data_path: str) -> str:
    """A short name of a data set, for a folder."""
    text = json.dumps([settings, os.path.abspath(data_path)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def file_checksum(path: str) -> str:
    """SHA-256 of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(settings: dict, sources: Sequence[str], images: Sequence[str], data_path: str) -> Dict[str, str]:
    """Short strings, one for each input whose change makes the records outdated.

    Args:
        sources, images: paths of the annotation files (of a folder the names in it count) and of the images, as
            `portable_path` gives them.

    Raises:
        OSError: one of them does not exist.
    """
    stats, contents, listing = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for path in images:
        stat = os.stat(os.path.join(data_path, path))
        stats.update(_bytes(f"{path}|{stat.st_size}|{stat.st_mtime_ns}\n"))
    for path in sources:
        contents.update(_bytes(f"{path}|{_source_checksum(os.path.join(data_path, path))}\n"))
    if settings["dataset"] == "voc":  # its files are found by listing folders, so a new name in a folder is a change
        for folder in sorted({os.path.dirname(path) for path in (*sources, *images)}):
            names = sorted(os.listdir(os.path.join(data_path, folder)))
            listing.update(_bytes("\n".join([folder, *names])))
    return {
        "converter version": str(VERSION),
        "annotation files": contents.hexdigest(),
        "image files": stats.hexdigest(),
        "names in the folders": listing.hexdigest(),
    }


def _source_checksum(path: str) -> str:
    """`file_checksum`, for a folder that of the names of the images and annotation files in it."""
    if not os.path.isdir(path):
        return file_checksum(path)
    names = (os.path.relpath(name, path) for name in files_below(path, SOURCE_ENDINGS))
    return hashlib.sha256(_bytes("\n".join(names))).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def read_manifest(prefix: str) -> Optional[dict]:
    """The manifest of the records, None where it is missing, damaged, of another version, or of an unfinished set."""
    try:
        with open(manifest_path(prefix), encoding="utf-8") as handle:
            content = json.load(handle)
        usable = _KEYS <= set(content) and content["version"] == VERSION
        return content if usable and len(content["rows"]) == content["count"] else None
    except (OSError, ValueError, TypeError):
        return None


def write_unfinished(prefix: str) -> None:
    """Mark the files as being replaced: otherwise an interrupted move would look like another program's records."""
    write_json(manifest_path(prefix), {"unfinished": True})


def write_manifest(prefix: str, content: dict) -> None:
    """Write the manifest of records that are complete and have their final names.

    Args:
        content: settings, data_path, fingerprint, sources, given (annotation files of the user), images,
            bad_images (how many were left out), count, rows (img_id of each row, in the order of the files), ids (the
            data set's id of each img_id, or None where they are the same) and annotation_file.
    """
    sizes = [os.path.getsize(path) for path in all_files(prefix)]
    write_json(manifest_path(prefix), dict(content, version=VERSION, sizes=sizes))


def annotation_entry(path: str, prefix: str, data_path: str) -> dict:
    """An annotation file in a manifest: its name and checksum if the conversion wrote it next to the records, which may
    be moved, else its path."""
    if os.path.dirname(path) != os.path.dirname(prefix):
        return {"path": portable_path(path, data_path)}
    return {"path": os.path.basename(path), "sha256": file_checksum(path)}


def annotation_path(manifest: dict, prefix: str, data_path: str) -> str:
    """Path of the annotation file that evaluation compares with, "" for training records."""
    entry = manifest["annotation_file"]
    if not entry:
        return ""
    return os.path.join(os.path.dirname(prefix) if "sha256" in entry else os.path.abspath(data_path), entry["path"])


def outdated_because(prefix: str, manifest: dict, cfg) -> str:
    """Why the records at `prefix` are outdated, "" if they are not. No annotation is parsed."""
    try:
        if [os.path.getsize(path) for path in all_files(prefix)] != manifest["sizes"]:
            return "the size of a record file has changed since it was written"
    except OSError:
        return "record files are missing"
    if manifest["bad_images"] > cfg.max_bad_images:
        return f"{manifest['bad_images']} broken images were left out, max_bad_images is {cfg.max_bad_images}"
    entry = manifest["annotation_file"]
    try:
        if entry and "sha256" in entry and file_checksum(annotation_path(manifest, prefix, "")) != entry["sha256"]:
            return "their annotation file was changed"
    except OSError:
        return "their annotation file is missing"
    if entry and given_annotation_files(cfg) != manifest["given"]:
        return "another file lies at voc_json"
    try:
        now = fingerprint(manifest["settings"], manifest["sources"], manifest["images"], cfg.data_path)
    except OSError as error:
        return f"one of their source files cannot be read: {error.filename}"
    changed = [key for key, value in now.items() if manifest["fingerprint"].get(key) != value]
    return f"changed since then: {', '.join(changed)}" if changed else ""
