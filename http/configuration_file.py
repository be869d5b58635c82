"""A YAML configuration file, with the line of everything in it: an error must say where it is."""

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml


class ConfigurationError(Exception):
    """The configuration can't be used; the message is one line that says where, what and how to mend it."""


class ConfigurationFile:
    """A parsed file: its data, and the lines that they stand on.

    Attributes:
        path: where it was read from.
        data: the top-level mapping; an empty file is an empty one.
    """

    def __init__(self, path: Path, data: dict[Any, Any], root: yaml.Node | None) -> None:
        self.path = path
        self.data = data
        self._root = root

    def where(self, location: Sequence[Hashable]) -> str:
        """Return ``file:line`` of a key or list item (as far as the path goes into the file)."""
        node, line = self._root, 1
        for step in location:
            found = _step(node, step)
            if found is None:
                break
            node, line = found
        return f"{self.path}:{line}"


def read_configuration_file(path: Path) -> ConfigurationFile:
    """Read a file.

    Raises:
        ConfigurationError: it can't be read, is no YAML, is no mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: can't read the configuration: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: the configuration is not UTF-8 text") from None
    root = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        _refuse_duplicates(path, root)
        data = loader.construct_document(root) if root is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigurationError(f"{path}:{line}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ConfigurationError(f"{path}:{_line_of_fault(root)}: not YAML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{path}: nested too deeply") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path}:1: the configuration must be a mapping of keys to values")
    return ConfigurationFile(path, data, root)


def _step(node: yaml.Node | None, step: Hashable) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step].start_mark.line + 1
    return None


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield every node once; an anchor's may be met again."""
    waiting = [root] if root is not None else []
    visited = set()
    while waiting:
        node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting.extend(child for pair in node.value for child in pair)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)


def _refuse_duplicates(path: Path, root: yaml.Node | None) -> None:
    for node in _nodes(root):
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, _ in node.value:
                line = key.start_mark.line + 1
                name = str(key.value)
                if name in lines:
                    raise ConfigurationError(f"{path}:{line}: {name} stands here again, after line {lines[name]}")
                lines[name] = line


def _line_of_fault(root: yaml.Node | None) -> int:
    """Return the line of a scalar that looks like a date or number and is none: its error has no mark."""
    constructor = yaml.constructor.SafeConstructor()
    for node in _nodes(root):
        if isinstance(node, yaml.ScalarNode):
            try:
                constructor.construct_object(node)
            except ValueError:
                return int(node.start_mark.line) + 1
    return 1
