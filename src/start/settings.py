"""start.yaml: the choices with their reasons as comments, left for editing; what the file holds wins over a choice."""

from __future__ import annotations

import os
from typing import Dict, List

import yaml

from src.config.load import CONFIG_FOLDER
from src.config.yaml_file import read_documents
from src.start.choose import RECIPE, Choice
from src.utils.output import atomic_write

BASE_FILE = "ssd_resnet50_fpn_config_gpu.yaml"
_HEAD = """# Choices of scripts/start.py. Edit them and give the same command again: the lines of this file win.
# A line that you remove is chosen again. All keys: docs/configuration.md
_BASE_: {base}
"""
_RECIPE_KEYS = ("optimizer", "box_loss", "class_prior", "crop_probability", "grey_probability", "min_score")


def recipe() -> Choice:
    """The training options of the quick start, which suit a short training."""
    content = read_documents(os.path.join(CONFIG_FOLDER, RECIPE))[0][0]
    return Choice({key: content[key] for key in _RECIPE_KEYS}, "the quick start's options for short trainings")


class Settings:
    """The choices of a start: those of `path`, if it exists, then the ones that are added.

    `values`: all keys; `lines`: one for each choice.
    """

    def __init__(self, path: str):
        self.path, self.given, self.values = path, {}, {}
        self.lines: List[str] = []
        self._groups: List[Choice] = []
        self.existed = os.path.isfile(path)
        if self.existed:
            documents, fault = read_documents(path)
            if fault is not None:
                raise fault
            self.given = {key: value for key, value in documents[0].items() if key != "_BASE_"}
            self.values.update(self.given)

    def add(self, choice: Choice) -> None:
        """Take a choice, except for the keys that the file gives."""
        new = {key: value for key, value in choice.values.items() if key not in self.given}
        if new:
            self._groups.append(Choice(new, choice.reason))
            self.lines += [self._groups[-1].line] * bool(choice.reason)
        kept = [key for key in choice.values if key in self.given and choice.reason]
        if kept:
            shown = ", ".join(f"{key} {self.given[key]}" for key in kept)[:200]
            self.lines.append(f"{shown}: from {os.path.basename(self.path)}")
        self.values.update(new)

    def has(self, *keys: str) -> bool:
        """Whether the file gives all these keys, so that nothing is to be chosen."""
        return all(key in self.given for key in keys)

    def replace(self, values: Dict[str, object]) -> None:
        """Change values that this program chose itself, in the file too."""
        text = self._read()
        for key, value in values.items():
            lines = [_pair(key, value) if line.startswith(f"{key}:") else line for line in text.splitlines()]
            text = "\n".join(lines) + "\n"
        self.values.update(values)
        self._write(text)

    def save(self) -> None:
        """Write the file, or add what it lacks. Lines that stand in it stay as they are."""
        text = self._read() if self.existed else _HEAD.format(base=BASE_FILE)
        for group in self._groups:
            text += f"\n# {group.reason}\n" if group.reason else "\n"
            text += "".join(f"{_pair(key, value)}\n" for key, value in group.values.items())
        if self._groups or not self.existed:
            self._write(text)
        self._groups, self.existed = [], True

    def _read(self) -> str:
        with open(self.path, encoding="utf-8-sig") as handle:
            return handle.read()

    def _write(self, text: str) -> None:
        with atomic_write(self.path) as handle:
            handle.write(text)


def _pair(key: str, value: object) -> str:
    """A line of YAML, however long: `replace` finds it by its key."""
    if isinstance(value, list):
        listed = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True)
        return f"{key}: {listed.rstrip()}"
    return yaml.safe_dump({key: value}, width=10**9, allow_unicode=True).rstrip()
