"""Reading of YAML files: documents, merge keys, tabs, encodings; nothing about the meaning of keys."""

from __future__ import annotations

import codecs

import yaml

from src.utils.errors import UserError

_MERGE = "tag:yaml.org,2002:merge"
_MAX_BYTES = 10_000_000
# raised by PyYAML in addition to YAMLError: `!!int x`, a date of month 99, an int of 5000 digits, deep nesting
_CONSTRUCTION_ERRORS = (ValueError, TypeError, AttributeError, OverflowError, RecursionError, KeyError, IndexError)


class _Loader(yaml.SafeLoader):
    """SafeLoader that notes the first key given twice, with two values, in `twice`: (key, line).

    A published file gives one key twice with the same value.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self.twice = None

    def flatten_mapping(self, node):
        """Resolve merge keys: earlier mappings of a list take precedence, as in YAML; in PyYAML 6.0.4 later ones do."""
        sources, direct, merged = [], [], {}
        for key, value in node.value:
            if key.tag == _MERGE:
                sources += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                direct.append((key, value))
        node.value = direct  # first, as a mapping may merge itself
        for source in reversed(sources):
            if not isinstance(source, yaml.MappingNode):
                problem = "<< takes a mapping or a list of mappings"
                raise yaml.constructor.ConstructorError(None, None, problem, source.start_mark)
            self.flatten_mapping(source)
            merged.update((_name(key), (key, value)) for key, value in source.value)
        for key, _ in direct:
            merged.pop(_name(key), None)
        node.value = [*merged.values(), *direct]


def _name(key: yaml.Node):
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def _mapping(loader, node, deep=False):
    keys, values = [], []  # a list is a key too, until it is refused
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in keys and loader.twice is None:
            nodes = values[keys.index(key)], value_node
            first, second = (loader.construct_object(value, deep=True) for value in nodes)
            if first != second:
                loader.twice = (key, key_node.start_mark.line + 1)
        keys.append(key)
        values.append(value_node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_documents(path: str) -> tuple:
    """The documents of a YAML file, each a dict ({} for an empty one).

    Mappings that only serve as templates (`<<: *name` merges them) are not among the keys.

    Returns:
        (documents, at least one; a `UserError` for a key given twice, or None). The caller raises the error after
        more important checks.

    Raises:
        UserError: the file cannot be read or is not valid YAML; a document is not a mapping.
    """
    loader, nodes = _compose(_read_text(path), path)
    documents = []
    try:
        for number, node in enumerate(nodes, 1):
            if isinstance(node, yaml.MappingNode):
                _drop_templates(node)
            document = loader.construct_document(node)
            if document is None:
                document = {}
            if not isinstance(document, dict):
                raise UserError(
                    f"{path}: every YAML document must be a mapping of `key: value` lines, number {number} is not"
                )
            documents.append(document)
    except yaml.YAMLError as error:
        raise _not_valid(path, error) from None
    except _CONSTRUCTION_ERRORS as error:
        raise UserError(f"{path}: a value cannot be read: {' '.join(str(error).split())[:200]}") from None
    finally:
        loader.dispose()
    if not any(documents):
        raise UserError(f"{path}: the file is empty")
    if not documents[0]:
        raise UserError(f"{path}: the first YAML document is empty; the keys belong there, before the first bare `---`")
    fault = None
    if loader.twice is not None:
        fault = UserError(f"{path}, line {loader.twice[1]}: key '{loader.twice[0]}' is given twice")
    return documents, fault


def _read_text(path: str) -> str:
    try:
        with open(path, "rb") as handle:
            data = handle.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"--config_path: no such file: {path}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--config_path: cannot read {path}: {reason}") from None
    if len(data) > _MAX_BYTES:
        raise UserError(f"--config_path: {path} is larger than 10 MB; it is not a configuration")
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file") from None


def _compose(text: str, path: str) -> tuple:
    """(loader, root node of each document)."""
    while True:
        loader = None
        try:
            loader = _Loader(text)
            nodes = []
            while loader.check_node():
                nodes.append(loader.get_node())
            return loader, nodes
        except yaml.YAMLError as error:
            text = _replace_tab(text, error, getattr(loader, "flow_level", 0), path)
        except RecursionError:
            raise UserError(f"{path}: not valid YAML: lists or mappings are nested too deeply") from None


def _replace_tab(text: str, error: yaml.YAMLError, flow_level: int, path: str) -> str:
    """`text` with a space in place of the tab that PyYAML rejected.

    YAML allows tabs between tokens, PyYAML does not. As indentation they are not allowed.
    """
    mark = getattr(error, "problem_mark", None)
    if mark is None or "'\\t' that cannot start any token" not in str(error):
        raise _not_valid(path, error) from None
    before = text[: mark.index].rpartition("\n")[2]
    rest = text[mark.index :].partition("\n")[0]
    if not before.strip() and rest.strip() and not rest.strip().startswith("#") and not flow_level:
        raise UserError(f"{path}, line {mark.line + 1}: a tab at the start of a line; YAML indents with spaces")
    return text[: mark.index] + " " + text[mark.index + 1 :]


def _not_valid(path: str, error: yaml.YAMLError) -> UserError:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or error
    return UserError(f"{path}{line}: not valid YAML: {' '.join(str(problem).split())[:300]}")


def _drop_templates(root: yaml.MappingNode) -> None:
    """Remove top-level keys whose value is, or holds, a mapping that is merged elsewhere (`defaults: &name {...}`)."""
    merged, seen, nodes = set(), set(), [root]
    while nodes:
        node = nodes.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
            continue
        for key, value in node.value:
            nodes += [key, value]
            if key.tag == _MERGE:
                targets = value.value if isinstance(value, yaml.SequenceNode) else [value]
                merged.update(id(target) for target in targets)
    root.value = [(key, value) for key, value in root.value if key.tag == _MERGE or not _holds_any(value, merged, root)]


def _holds_any(value: yaml.Node, targets: set, root: yaml.Node) -> bool:
    seen, nodes = {id(root)}, [value]
    while nodes:
        node = nodes.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        if id(node) in targets:
            return True
        seen.add(id(node))
        nodes += node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
    return False
