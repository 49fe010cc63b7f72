"""YAML 1.2 into plain data, with the line of every key, and without what a spec does not need.

Anchors, aliases and tags are refused (an alias can make ten lines stand for gigabytes), and a
duplicate key is a problem instead of a silent choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fcn_convert.errors import CheckpointError, SpecError, printable
from fcn_convert.formats.source import SourceFile

_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")
}
_MAX_DEPTH = 16
_MAX_NODES = 20_000
"""Keys and values; reading a thousand of them takes a twentieth of a second."""


@dataclass
class Document:
    """A YAML document: its data, the line of each path into it, and its problems."""

    source: str
    construct: Callable[[Node], object]
    data: object = None
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, node: Node, problem: str) -> None:
        """Note a problem with its line."""
        self.problems.append(f"{problem} ({self.source}:{_line(node)})")


def read_text(path: Path, most_bytes: int) -> tuple[str, str]:
    """Return a file's text and the sha256 of its bytes; raises SpecError."""
    try:
        with SourceFile(path) as file:
            if file.size > most_bytes:
                raise SpecError(f"{path}: has {file.size} bytes, more than any spec")
            raw = file.pread(0, file.size)
    except CheckpointError as error:
        raise SpecError(*error.problems) from error
    try:
        return raw.decode("utf-8"), sha256(raw).hexdigest()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SpecError(f"the file is not UTF-8 ({path.name}:{line})") from error


def read_yaml(text: str, source: str) -> Document:
    """Parse a document; raises SpecError where it is not YAML at all."""
    yaml = YAML(typ="safe", pure=True)
    try:
        _check_events(yaml, text, source)
        root = yaml.compose(text)
        document = Document(source, SafeConstructor(loader=yaml).construct_object)
        if root is None:
            raise SpecError(f"the file is empty ({source}:1)")
        document.data = _plain(root, (), document)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f" ({source}:{mark.line + 1})" if mark else f" ({source})"
        raise SpecError(f"not valid YAML: {printable(str(error.problem))}{at}") from error
    except (YAMLError, RecursionError, ValueError) as error:
        reason = printable(str(error).split("\n")[0])
        raise SpecError(f"not valid YAML: {reason} ({source})") from error
    return document


def _check_events(yaml: YAML, text: str, source: str) -> None:
    """Raise SpecError for what must not even be composed: an alias, a tag, or too much."""
    depth = nodes = 0
    for event in yaml.parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        nodes += isinstance(event, NodeEvent)
        problem = _refused(event)
        if depth > _MAX_DEPTH:  # before the scanner, whose time is quadratic in the depth
            problem = "the file is nested too deeply"
        if nodes > _MAX_NODES:
            problem = f"the file has more than {_MAX_NODES} keys and values"
        if problem:
            raise SpecError(f"{problem} ({source}:{event.start_mark.line + 1})")


def _refused(event: Event) -> str | None:
    """Return what is wrong with a part of a document by itself; None where nothing is."""
    if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
        return "anchors and aliases are not allowed here"
    if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
        return f"tag {printable(str(event.tag))} is not allowed here"
    if isinstance(event, DocumentStartEvent) and event.version not in {None, (1, 2)}:
        return "a spec is YAML 1.2, and no other version"
    return None


def _line(node: Node) -> int:
    line: int = node.start_mark.line + 1
    return line


def _plain(node: Node, path: tuple[str | int, ...], document: Document) -> object:
    document.lines.setdefault(path, _line(node))
    if str(node.tag) not in _PLAIN_TAGS:
        tag, at = printable(str(node.tag)), f"({document.source}:{_line(node)})"
        raise SpecError(f"tag {tag} is not allowed here {at}")
    if isinstance(node, MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, SequenceNode):
        return [_plain(child, (*path, at), document) for at, child in enumerate(node.value)]
    try:
        value = document.construct(node)
        str(value)  # raises for 0xfff…, as reading it does for decimals
    except ValueError as error:  # a number of thousands of digits
        raise SpecError(f"not valid YAML: {error} ({document.source}:{_line(node)})") from error
    return value


def _mapping(
    node: MappingNode, path: tuple[str | int, ...], document: Document
) -> Mapping[str, object]:
    data: dict[str, object] = {}
    for key_node, value_node in node.value:
        # A key is text as written: `7:` and `no:` are names of modules here.
        if not isinstance(key_node, ScalarNode):
            document.add(key_node, "a key is not plain text")
            continue
        key = str(key_node.value)
        if key in data:
            document.add(key_node, f"duplicate key {printable(repr(key))}")
            continue
        document.lines[(*path, key)] = _line(key_node)
        data[key] = _plain(value_node, (*path, key), document)
    return data
