"""YAML (+ `_BASE_`) and command line -> one checked EasyDict.

The complete GPU file is the schema: it defines the keys, and its values their types.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import functools
import os
import sys
from typing import List

from easydict import EasyDict

from src.config.checks import check_boxes, check_choices, check_classes, check_epochs, check_values
from src.config.help_text import help_text
from src.config.networks import NETWORKS, check_model_name
from src.config.notes import Given, list_notes
from src.config.published import PUBLISHED_KEYS, check_published
from src.config.values import convert, parse_text, shown
from src.config.yaml_file import read_documents
from src.utils.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONFIG_FOLDER = os.path.join(ROOT, "config")
SCHEMA_FILE = os.path.join(CONFIG_FOLDER, "ssd_resnet50_fpn_config_gpu.yaml")
BASE = "_BASE_"


@functools.lru_cache(maxsize=1)
def _schema() -> list:
    """Keys, help texts and choices of the schema file; do not modify the result."""
    return read_documents(SCHEMA_FILE)[0]


class _File:
    """Content of a YAML file: `values` (its keys over those of its `_BASE_`), `keys` in the file itself, `ignored`
    published keys, help `texts` and `choices`.

    Args:
        derived: the file whose `_BASE_` this one is.
    """

    def __init__(self, path: str, schema: dict, derived: str = ""):
        self.path = path
        documents, fault = read_documents(path) if path != SCHEMA_FILE else (copy.deepcopy(_schema()), None)
        if len(documents) > 3 and any(documents[3:]):
            raise UserError(f"{path}: {len(documents)} YAML documents; there are three: keys, help texts, choices")
        content, self.texts, choices = (documents + [{}, {}])[:3]
        base = content.pop(BASE, None)
        self.content, self.base, self._fault = content, None, fault
        self._schema, self._choices = schema, choices
        if base is not None:
            if derived:
                raise UserError(f"{derived}: {BASE} {os.path.basename(path)} has a {BASE} itself; one level only")
            if not isinstance(base, str) or not base.isprintable() or len(base) > 1000:
                raise UserError(f"{path}: {BASE} must be a file name, got {shown(base)}")
            # next to the file, else in this repository's config folder
            near = os.path.join(os.path.dirname(path), base)
            in_repository = os.path.join(CONFIG_FOLDER, base)
            self.base = _File(near if os.path.exists(near) else in_repository, schema, derived=path)

    def model_name(self):
        """As given, unchecked; None if the file does not name one."""
        return self.content.get("model_name", self.base.model_name() if self.base else None)

    def check(self) -> None:
        """Convert all values of the file.

        Raises:
            UserError: naming the file and the key.
        """
        if self._fault is not None:
            raise self._fault
        self.values, self.ignored, self.keys = {}, [], set(self.content)
        if self.base is not None:
            self.base.check()
            self.values.update(self.base.values)
            self.ignored += self.base.ignored
        values = _converted(self.content, self._schema, self.path)
        self.ignored += [key for key in values if key in PUBLISHED_KEYS and key not in self.ignored]
        self.values.update({key: value for key, value in values.items() if key not in PUBLISHED_KEYS})
        for key, text in self.texts.items():
            if not isinstance(key, str) or isinstance(text, (list, dict)):
                raise UserError(
                    f"{self.path}: the second YAML document holds help texts, one string per key: {shown(key)}"
                )
        self.choices = {}
        for key, allowed in self._choices.items():
            if key not in self._schema and key not in PUBLISHED_KEYS:
                raise unknown_key(key, self._schema, f"{self.path}, third YAML document")
            if not isinstance(allowed, list) or not allowed:
                raise UserError(
                    f"{self.path}: the third YAML document holds choices: {key} must be a list, got {shown(allowed)}"
                )
            where = f"{self.path}, choices of {key}"
            if key in self._schema and not isinstance(self._schema[key], list):
                self.choices[key] = [convert(key, choice, self._schema[key], where) for choice in allowed]


def unknown_key(key, known, where: str) -> UserError:
    """The error for an unknown key, with the most similar known one."""
    near = difflib.get_close_matches(str(key)[:100], list(known), 1, 0.5) if isinstance(key, str) else []
    hint = f"did you mean '{near[0]}'?" if near else "--help lists the keys"
    name = key if isinstance(key, str) and len(key) < 100 and key.isprintable() else shown(key)
    return UserError(f"{where}: unknown key '{name}'; {hint}")


def _converted(values: dict, schema: dict, where: str) -> dict:
    for key in values:
        if key not in schema and key not in PUBLISHED_KEYS:
            raise unknown_key(key, schema, where)
    examples = dict(PUBLISHED_KEYS, **schema)
    converted = {key: convert(key, value, examples[key], where) for key, value in values.items()}
    check_published(converted, where)
    return converted


@functools.lru_cache(maxsize=None)
def _network_defaults(name: str) -> dict:
    """Values of the keys that a configuration of this network leaves out; do not modify the result."""
    defaults = _File(os.path.join(CONFIG_FOLDER, NETWORKS[name].config), _schema()[0])
    defaults.check()
    # the precision is not taken from there: published files that leave it out mean float32
    return dict(_schema()[0], **{key: value for key, value in defaults.values.items() if key != "use_float16"})


def default_values() -> dict:
    """Values of the complete configuration file; do not modify the result."""
    return _schema()[0]


def _check_same_kind(model: str, asked: str, path: str) -> None:
    """Check that the network on the command line can be described by a file of another network.

    Raises:
        UserError: it cannot.
    """
    one, other = NETWORKS[model], NETWORKS[asked]
    if (one.strides, one.channels) != (other.strides, other.channels):
        raise UserError(
            f"command line: model_name {asked}, but {path} describes {model}; use "
            f"--config_path=config/{other.config}, or a file with the line _BASE_: {other.config}"
        )


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"command line: {message}; --help lists the options")


def _options(words: List[str], schema: dict) -> tuple:
    """(config path or None, {key: string}) of a command line."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    names = ["config_path", *schema, *PUBLISHED_KEYS]
    for key in names:
        # only resume may be given without a value
        more = {"nargs": "?", "const": "auto"} if key == "resume" else {}
        parser.add_argument(f"--{key}", default=argparse.SUPPRESS, **more)
    known, rest = parser.parse_known_args(words)
    for word in rest:
        if word.startswith("--"):
            raise unknown_key(word[2:].split("=")[0], names, "command line")
    if rest:
        raise UserError(f"command line: {shown(rest[0])} is not an option; write --key value or --key=value")
    given = dict(vars(known))
    return given.pop("config_path", None), given


def _config_file(name: str) -> str:
    """Absolute path of a configuration file: relative to the current folder, else to the repository."""
    in_repository = os.path.join(ROOT, name)
    exists = "\0" in name or os.path.exists(name) or not os.path.exists(in_repository)
    return os.path.abspath(name) if exists else in_repository


def _group_heads() -> dict:
    """First key of each group in the schema file -> the comment line above it."""
    heads, comment = {}, None
    with open(SCHEMA_FILE, encoding="utf-8") as handle:
        for line in handle:
            if line.startswith("---"):
                return heads
            if line.startswith("# "):
                comment = line[2:].strip()
            elif comment and ":" in line:
                heads[line.split(":")[0]], comment = comment, None
    return heads


def load_config(argv) -> EasyDict:
    """The checked configuration of a command line (without the program's name).

    `--help` prints every key and exits. The result also holds derived values (`num_ssd_boxes`,
    `feature_size`, `num_parallel_workers`) and `config_path`, the file it came from.

    Raises:
        UserError: an unknown key, a value of the wrong type or out of range, keys that contradict each other, a file
            that is missing or not YAML; names the key and the file.
    """
    words = [str(word) for word in argv]
    schema, texts, choices = copy.deepcopy(_schema())
    wants_help = any(word in ("-h", "--help") for word in words)
    name, options = _options([word for word in words if word not in ("-h", "--help")], schema)
    # checked first, since a file of another network differs in everything else too
    asked = check_model_name(options["model_name"], "command line") if "model_name" in options else None
    if name is None and asked is not None:
        path = os.path.join(CONFIG_FOLDER, NETWORKS[asked].config)
    else:
        path = SCHEMA_FILE if name is None else _config_file(name)
    source = _File(path, schema)
    of_file = source.model_name()
    if of_file is not None:
        of_file = check_model_name(of_file, path)
    if None not in (asked, of_file):
        _check_same_kind(of_file, asked, path)
    model = asked or of_file or schema["model_name"]
    source.check()
    defaults = _network_defaults(model)
    if wants_help:
        values, texts = dict(defaults, **source.values), dict(texts, **source.texts)
        print(help_text(_program(), path, values, _group_heads(), texts, dict(choices, **source.choices)))
        raise SystemExit(0)
    parsed = {key: parse_text(key, string, dict(PUBLISHED_KEYS, **schema)[key]) for key, string in options.items()}
    given = _converted(parsed, schema, "command line")
    ignored = source.ignored + [key for key in given if key in PUBLISHED_KEYS]
    cfg = EasyDict(copy.deepcopy(dict(defaults, **source.values)))
    cfg.update({key: value for key, value in given.items() if key not in PUBLISHED_KEYS})
    cfg.model_name, cfg.config_path = model, path
    origin = Given(set(given), source.keys, defaults)
    _finish(cfg, origin, (choices, source.choices))
    _fit_to_machine(cfg, origin, ignored)
    return cfg


def _program() -> str:
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return name if name.endswith(".py") else "train.py"


def _finish(cfg: EasyDict, origin: Given, choices: tuple) -> None:
    """Set derived values, and check ranges and the keys against each other."""
    where = f"{cfg.config_path} or the command line"

    def bad(message):
        return UserError(f"{where}: {message}")

    for allowed in choices:
        check_choices(cfg, allowed, bad)
    check_values(cfg, bad)
    check_epochs(cfg, origin.options, bad)
    check_classes(cfg, bad)
    # feature_size and num_ssd_boxes are checked if they were given with or after img_shape, else derived
    check_boxes(cfg, origin.with_or_after("img_shape"), bad)


def _fit_to_machine(cfg: EasyDict, origin: Given, ignored: List[str]) -> None:
    """Set values that depend on the machine, and collect the notes about keys without effect."""
    asked = cfg.num_parallel_workers, cfg.loss_scale
    cores = os.cpu_count() or 1
    cfg.num_parallel_workers = min(cfg.num_parallel_workers or cores, cores)
    if cfg.device_target == "CPU":
        cfg.loss_scale = 1
    # an attribute, not an item: items are written to a run's config.yaml
    object.__setattr__(cfg, "_notes", list_notes(cfg, origin, ignored, *asked))


def log_notes(cfg, log, for_training: bool = False) -> None:
    """Log keys without effect, one line each; called once, on rank 0.

    Args:
        log: called with a format and its argument, such as `LOGGER.warning`.
        for_training: include lines that concern only training.
    """
    notes, training = cfg.__dict__.get("_notes", ((), ()))
    for line in [*notes, *(training if for_training else ())]:
        log("%s", line)
