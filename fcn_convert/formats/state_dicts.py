"""Finds the state dicts in what a pickle holds: bare, wrapped by a trainer, or as a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fcn_convert.errors import printable
from fcn_convert.formats.pickles import Node
from fcn_convert.formats.torch_records import (
    RecordError,
    Tensor,
    Unreadable,
    attributes_of,
    class_name,
    mapping_of,
    members_of,
    tensor_of,
)
from fcn_convert.tensors import MAX_TENSORS, LeftOut, StateDict, TensorInfo

MAX_WRAPPERS = 4
"""Dictionaries a state dict may lie in; trainers use one or two."""
MAX_MODULES = 200
"""Modules nested in each other."""

EXTRA_STATE = "_extra_state"
MODULE_NOTE = (
    "names are those of the modules' default state_dict(); their state-dict hooks were not run"
)

Locate = Callable[[str, Tensor], TensorInfo]
"""Places a tensor of that name in the file; raises RecordError where it does not fit."""


@dataclass
class Search:
    """The state dicts found under a root, and everything that belongs to none of them."""

    locate: Locate
    found: list[StateDict] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    from_modules: bool = False
    visits: int = 0

    def run(self, root: Node) -> None:
        """Look through `root`, a pickle's object.

        Raises RecordError where a tensor lies about its place, or where the nesting explodes.
        """
        if not self._visit("", root, 0):
            self.left_out.append(LeftOut("(the whole file)", _describe(root)))

    def _visit(self, path: str, node: Node, depth: int) -> bool:
        """Collect the state dicts under `node`; return whether there are any."""
        if _is_module(node):
            self.from_modules = True
            self._collect(path, _module_entries(node, "", 0))
            return True
        mapping = mapping_of(node)
        if mapping is None or depth > MAX_WRAPPERS or _is_optimizer(mapping):
            return False
        self._count(len(mapping))
        inner = {
            key: self._visit(f"{path}.{key}" if path else key, value, depth + 1)
            for key, value in mapping.items()
            if isinstance(key, str) and _may_hold_weights(key)
        }
        if not any(inner.values()):
            return self._collect_mapping(path, mapping)
        for key, value in mapping.items():
            if not inner.get(key):
                self.left_out.append(LeftOut(_join(path, key), _describe(value)))
        return True

    def _collect_mapping(self, path: str, mapping: dict[Node, Node]) -> bool:
        entries = [(key, value) for key, value in mapping.items() if isinstance(key, str)]
        try:
            holds_tensors = any(tensor_of(value) is not None for _, value in entries)
        except RecordError:
            holds_tensors = True
        if holds_tensors:
            self._collect(path, iter(entries))
        return holds_tensors

    def _collect(self, path: str, entries: Iterator[tuple[str, Node]]) -> None:
        tensors: dict[str, TensorInfo] = {}
        left_out: list[LeftOut] = []
        unreadable: list[LeftOut] = []
        for name, node in entries:
            self._count(1)
            try:
                record = tensor_of(node)
                if isinstance(record, Tensor):
                    tensors[name] = self.locate(name, record)
                elif isinstance(record, Unreadable):
                    unreadable.append(LeftOut(name, record.reason))
                else:
                    left_out.append(LeftOut(name, _describe(node)))
            except RecordError as error:
                raise RecordError(f"tensor {name!r} cannot be read: {error}") from error
        self.found.append(StateDict(path, tensors, tuple(left_out), tuple(unreadable)))

    def _count(self, entries: int) -> None:
        """Bound the work: shared dictionaries can nest to any number of names."""
        self.visits += entries
        if self.visits > 4 * MAX_TENSORS:
            raise RecordError("holds more names than any model: its dictionaries are nested")


def _is_module(node: Node) -> bool:
    attributes = attributes_of(node)
    return all(
        mapping_of(attributes.get(part)) is not None
        for part in ("_parameters", "_buffers", "_modules")
    )


def _module_entries(module: Node, prefix: str, depth: int) -> Iterator[tuple[str, Node]]:
    """Yield what `state_dict()` would: parameters, persistent buffers, then submodules."""
    if depth > MAX_MODULES:
        raise RecordError(f"has modules nested deeper than {MAX_MODULES}, or in a circle")
    attributes = attributes_of(module)
    transient = set(filter(_is_text, members_of(attributes.get("_non_persistent_buffers_set"))))
    buffers = mapping_of(attributes["_buffers"]) or {}
    own = [
        *(mapping_of(attributes["_parameters"]) or {}).items(),
        *((name, value) for name, value in buffers.items() if name not in transient),
    ]
    for name, value in own:
        if value is not None and isinstance(name, str):
            yield prefix + name, value
    for name, child in (mapping_of(attributes["_modules"]) or {}).items():
        if isinstance(name, str) and _is_module(child):
            yield from _module_entries(child, f"{prefix}{name}.", depth + 1)


def _is_text(node: Node) -> bool:
    return isinstance(node, str)


def _is_optimizer(mapping: dict[Node, Node]) -> bool:
    return "param_groups" in mapping and "state" in mapping


def _may_hold_weights(key: str) -> bool:
    return "optim" not in key.lower() and not key.endswith(EXTRA_STATE)


def _join(path: str, key: Node) -> str:
    name = key if isinstance(key, str) else f"[{key!r}]" if isinstance(key, int) else "[…]"
    return f"{path}.{name}" if path else name


def _describe(node: Node) -> str:
    """Say in a few words what an entry is that is not taken."""
    try:
        if tensor_of(node) is not None:
            return "a tensor outside of the state dict"
    except RecordError:
        return "a malformed tensor"
    mapping = mapping_of(node)
    if mapping is not None:
        kind = "optimizer state" if _is_optimizer(mapping) else "a dictionary"
        return f"{kind} of {len(mapping)} entries"
    if isinstance(node, str | int | float | bool | None):
        return f"not a tensor: {printable(repr(node)[:60])}"
    return f"not a tensor: {printable(class_name(node)[:60])}"
