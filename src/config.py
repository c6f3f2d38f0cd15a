"""YAML (+ `_BASE_`) and command line -> one checked EasyDict, SPEC section 1.

The complete GPU file is the schema: its keys are the only keys, its values' types are the types.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import math
import os

import yaml
from easydict import EasyDict

from src.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCHEMA_FILE = os.path.join(ROOT, "config", "ssd_resnet50_fpn_config_gpu.yaml")
BASE = "_BASE_"
PUBLISHED_BATCH = 128

# Keys of other models, known without standing in the GPU file: the SSD300 layout of default boxes
_FURTHER = {"min_scale": 0.2, "max_scale": 0.95, "aspect_ratios": [[], [2], [2], [2], [2]]}
_AT_LEAST_ONE = (
    "device_num",
    "batch_size",
    "epoch_size",
    "save_checkpoint_epochs",
    "keep_checkpoint_max",
    "eval_interval",
    "max_boxes",
    "num_classes",
    "num_addition_layers",
)
_NOT_NEGATIVE = (
    "device_id",
    "lr",
    "lr_init",
    "lr_end_rate",
    "warmup_epochs",
    "weight_decay",
    "momentum",
    "gamma",
    "pre_trained_epoch_size",
    "num_parallel_workers",
    "max_bad_images",
    "seed",
    "eval_start_epoch",
    "bn_recalibration_steps",
)
_SHARES = ("match_threshold", "nms_threshold", "min_score", "alpha")
_PER_LEVEL = ("steps", "num_default", "feature_size", "extras_out_channels")


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice."""


def _unique_mapping(loader, node, deep=False):
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _read_yaml(path: str) -> list:
    """The documents of a YAML file, each a dict."""
    try:
        with open(path, encoding="utf-8") as handle:
            documents = list(yaml.load_all(handle, Loader=_UniqueKeyLoader))
    except FileNotFoundError:
        raise UserError(f"--config_path: no such file: {path}") from None
    except OSError as error:
        raise UserError(f"--config_path: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    for document in documents:
        if not isinstance(document, dict):
            raise UserError(f"{path}: every YAML document must be a table of `key: value` lines")
    if not documents:
        raise UserError(f"{path}: the file is empty")
    return documents


def _unknown(key: str, known, where: str) -> UserError:
    near = difflib.get_close_matches(str(key), list(known), 1, 0.5)
    hint = f"did you mean '{near[0]}'?" if near else "--help lists the keys"
    return UserError(f"{where}: unknown key '{key}'; {hint}")


def _type_name(value) -> str:
    if value is None:
        return "null"
    return {bool: "True or False", int: "a whole number", float: "a number", str: "a text", list: "a list"}.get(
        type(value), type(value).__name__
    )


def _convert(key: str, value, example, where: str):
    """`value` in the type of `example`, or a UserError."""
    if key == "freeze_layer":
        if value in (None, "", "None", "null", "none"):
            return None
        example = [""] if isinstance(value, (list, tuple)) else ""
    wrong = UserError(f"{where}: {key} must be {_type_name(example)}, got {value!r}")
    if isinstance(example, bool):
        if isinstance(value, bool):
            return value
        raise wrong
    if isinstance(example, (int, float)):
        if isinstance(value, str):  # YAML reads 1e-3 as a text
            try:
                value = float(value)
            except ValueError:
                raise wrong from None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong
        if not math.isfinite(value):
            raise UserError(f"{where}: {key} must be a finite number, got {value}")
        # loss_scale and warmup_epochs are whole by default only
        if isinstance(example, int) and key not in ("loss_scale", "warmup_epochs"):
            if value != int(value):
                raise wrong
            return int(value)
        return value if isinstance(value, int) and isinstance(example, int) else float(value)
    if isinstance(example, str):
        if not isinstance(value, str):
            raise wrong
        return value
    if not isinstance(value, (list, tuple)):
        raise wrong
    if not value:
        raise UserError(f"{where}: {key} must not be an empty list")
    if key == "aspect_ratios":
        return [list(row) for row in value]
    return [_convert(f"{key}[{i}]", item, example[0], where) for i, item in enumerate(value)]


def _parse_text(key: str, text: str, example):
    """A command line value: literals for anything but texts."""
    if isinstance(example, str) or (key == "freeze_layer" and not text.strip().startswith("[")):
        return text
    if isinstance(example, bool):
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"command line: {message}; --help lists the options")


def _group_heads() -> dict:
    """Key -> the comment line above the group of keys that it opens in the schema file."""
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


def _help(schema: dict, texts: dict, choices: dict) -> str:
    lines = [
        "usage: --key value or --key=value for every key; the command line wins over the YAML file",
        "",
        f"  --config_path FILE\n        YAML file (default {os.path.relpath(SCHEMA_FILE, ROOT)})",
    ]
    heads = _group_heads()
    for key, value in schema.items():
        if key in heads:
            lines += ["", f"{heads[key]}:"]
        shown = str(value) if len(str(value)) < 60 else str(value)[:56] + " ..."
        kind = "one of " + ", ".join(str(choice) for choice in choices[key]) if key in choices else _type_name(value)
        lines.append(f"  --{key}\n        {texts.get(key, '')} ({kind}; default {shown or repr(shown)})")
    return "\n".join(lines)


def _config_file(name: str) -> str:
    """A relative path counts from the current folder, else from the repository."""
    beside = os.path.join(ROOT, name)
    return beside if not os.path.exists(name) and os.path.exists(beside) else os.path.abspath(name)


def _from_files(path: str, schema: dict) -> tuple:
    """(values of `path` over its `_BASE_` over the schema, keys that `path` itself gives, texts, choices)."""
    documents = _read_yaml(path)
    own = dict(documents[0])
    values = dict(schema)
    base = own.pop(BASE, None)
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{path}: {BASE} must be a file name, got {base!r}")
        # beside the file, else one of this repository's
        beside = os.path.join(os.path.dirname(path), base)
        base_path = beside if os.path.exists(beside) else os.path.join(os.path.dirname(SCHEMA_FILE), base)
        base_values = dict(_read_yaml(base_path)[0])
        if BASE in base_values:
            raise UserError(f"{path}: {BASE} {base} has a {BASE} itself; one level only")
        values.update(_checked(base_values, schema, base_path))
    values.update(_checked(own, schema, path))
    texts = documents[1] if len(documents) > 1 else {}
    choices = documents[2] if len(documents) > 2 else {}
    return values, set(own), texts, choices


def _checked(values: dict, schema: dict, where: str) -> dict:
    for key in values:
        if key not in schema:
            raise _unknown(key, schema, where)
    return {key: _convert(key, value, schema[key], where) for key, value in values.items()}


def _options(argv, schema: dict) -> tuple:
    """(config path or None, {key: text}) of a command line."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for key in ["config_path", *schema]:
        # resume alone may stand without a value
        more = {"nargs": "?", "const": "auto"} if key == "resume" else {}
        parser.add_argument(f"--{key}", default=argparse.SUPPRESS, **more)
    known, rest = parser.parse_known_args([str(word) for word in argv])
    for word in rest:
        if word.startswith("--"):
            raise _unknown(word[2:].split("=")[0], ["config_path", *schema], "command line")
    if rest:
        raise UserError(f"command line: '{rest[0]}' belongs to no option; write --key value or --key=value")
    given = dict(vars(known))
    return given.pop("config_path", None), given


def load_config(argv) -> EasyDict:
    """The checked configuration of a command line (without the program's name).

    `--help` prints every key and leaves. The result holds derived values too (`num_ssd_boxes`,
    `feature_size`, `num_parallel_workers`) and `config_path`, the file it came from.

    Raises:
        UserError: anything SPEC section 1 calls an error, naming the key and the file.
    """
    argv = list(argv)
    documents = _read_yaml(SCHEMA_FILE)
    schema = dict(documents[0], **_FURTHER)
    texts, choices = documents[1], documents[2]
    if any(word in ("-h", "--help") for word in argv):
        print(_help(documents[0], texts, choices))
        raise SystemExit(0)
    path, texts_given = _options(argv, schema)
    path = _config_file(path) if path is not None else SCHEMA_FILE
    values, own, _, more_choices = _from_files(path, schema)
    choices = dict(choices, **more_choices)
    given = {
        key: _convert(key, _parse_text(key, text, schema[key]), schema[key], "command line")
        for key, text in texts_given.items()
    }
    values.update(given)
    cfg = EasyDict(values)
    cfg.config_path = path
    # feature_size is checked against img_shape where it was given with or after it, else derived
    stated = set(given) if "img_shape" in given else own | set(given)
    _finish(cfg, stated, choices)
    return cfg


def _finish(cfg: EasyDict, stated: set, choices: dict) -> None:
    """Derived values and the checks between keys."""
    where = f"{cfg.config_path} or the command line"

    def bad(text):
        return UserError(f"{where}: {text}")

    for key, allowed in choices.items():
        # a list of freeze_layer holds beginnings of names, which the network knows
        if cfg[key] not in allowed and not isinstance(cfg[key], list):
            near = difflib.get_close_matches(str(cfg[key]), [str(a) for a in allowed], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise bad(f"{key} must be one of {', '.join(str(a) for a in allowed)}, got '{cfg[key]}'{hint}")
    for key in _AT_LEAST_ONE:
        if cfg[key] < 1:
            raise bad(f"{key} must be at least 1, got {cfg[key]}")
    for key in _NOT_NEGATIVE:
        if cfg[key] < 0:
            raise bad(f"{key} must not be negative, got {cfg[key]}")
    for key in _SHARES:
        if not 0 <= cfg[key] <= 1:
            raise bad(f"{key} must lie in [0, 1], got {cfg[key]}")
    if cfg.loss_scale <= 0:
        raise bad(f"loss_scale must be above 0, got {cfg.loss_scale}")
    for key, length in (("img_shape", 2), ("prior_scaling", 2)):
        if len(cfg[key]) != length:
            raise bad(f"{key} must have {length} entries, got {len(cfg[key])}: {cfg[key]}")
    if min(cfg.prior_scaling) <= 0:
        raise bad(f"prior_scaling must be above 0, got {cfg.prior_scaling}")
    _finish_classes(cfg, bad)
    _finish_boxes(cfg, stated, bad)
    cores = os.cpu_count() or 1
    cfg.num_parallel_workers = min(cfg.num_parallel_workers or cores, cores)
    if cfg.device_target == "CPU":
        cfg.loss_scale = 1


def _finish_classes(cfg, bad) -> None:
    if len(cfg.classes) != cfg.num_classes:
        raise bad(
            f"num_classes is {cfg.num_classes}, but classes has {len(cfg.classes)} names; "
            f"set num_classes to {len(cfg.classes)} (the background counts)"
        )
    if len(cfg.classes) < 2:
        raise bad("classes needs the background and at least one class")
    twice = sorted({name for name in cfg.classes if cfg.classes.count(name) > 1})
    if twice:
        raise bad(f"classes: '{twice[0]}' is given twice")


def _finish_boxes(cfg, stated: set, bad) -> None:
    levels = len(cfg.steps)
    for key in _PER_LEVEL:
        if min(cfg[key]) < 1:
            raise bad(f"{key} must be at least 1 everywhere, got {cfg[key]}")
        if len(cfg[key]) != levels:
            raise bad(f"{key} has {len(cfg[key])} entries, but steps has {levels}")
    largest = max(cfg.steps)
    for size in cfg.img_shape:
        if size < 1 or size % largest:
            lower = max(size // largest * largest, largest)
            raise bad(
                f"img_shape {cfg.img_shape}: height and width must be multiples of the largest step {largest}; "
                f"near {size} are {lower} and {lower + largest}"
            )
    # feature_size is one number a level: the longer side's, as published for square images
    derived = [max(cfg.img_shape) // step for step in cfg.steps]
    if cfg.use_anchor_generator:
        if "feature_size" in stated and cfg.feature_size != derived:
            raise bad(
                f"feature_size is {cfg.feature_size}, but img_shape {cfg.img_shape} with steps {cfg.steps} "
                f"gives {derived}"
            )
        cfg.feature_size = derived
        cells = [(cfg.img_shape[0] // step) * (cfg.img_shape[1] // step) for step in cfg.steps]
    else:
        cells = [size * size for size in cfg.feature_size]
    boxes = sum(count * number for count, number in zip(cells, cfg.num_default))
    if cfg.num_ssd_boxes not in (-1, boxes):
        raise bad(
            f"num_ssd_boxes is {cfg.num_ssd_boxes}, but img_shape, steps and num_default give {boxes}; "
            f"set -1 to have it computed"
        )
    cfg.num_ssd_boxes = boxes


def data_file(cfg, path: str) -> str:
    """`path` below `data_path`, unless it is absolute."""
    return os.path.abspath(os.path.join(cfg.data_path, path))


def checkpoint_file(cfg) -> str:
    """Absolute path of `checkpoint_file_path`, looked for in the current folder, then in `checkpoint_path`.

    Raises:
        UserError: it is in neither.
    """
    places = [cfg.checkpoint_file_path, os.path.join(cfg.checkpoint_path, cfg.checkpoint_file_path)]
    for place in places:
        if os.path.isfile(place):
            return os.path.abspath(place)
    raise UserError(
        f"checkpoint_file_path: no such checkpoint: {os.path.abspath(places[0])} (nor {os.path.abspath(places[1])})"
    )


def learning_rate_advice(cfg, devices: int = 1) -> str:
    """One line when lr was left at the value for 128 images a step while another batch is used, else ""."""
    batch = cfg.batch_size * devices
    if cfg.lr != 0.05 or batch == PUBLISHED_BATCH:
        return ""
    return (
        f"lr {cfg.lr} is the rate for {PUBLISHED_BATCH} images a step; for {cfg.batch_size} x {devices} = {batch} "
        f"the linear rule gives --lr={cfg.lr * batch / PUBLISHED_BATCH:.3g}"
    )
