"""Finds the state dicts in what a pickle holds: bare, wrapped by a trainer, or as a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from fcn_convert.errors import printable
from fcn_convert.formats.layouts import ROLES as KNOWN_ROLES
from fcn_convert.formats.numpy_records import Array, array_of
from fcn_convert.formats.pickle_machine import Node
from fcn_convert.formats.records import RecordError, Unreadable
from fcn_convert.formats.torch_records import (
    Record,
    Tensor,
    attributes_of,
    class_name,
    mapping_of,
    members_of,
    owner_of_method,
    tensor_of,
)
from fcn_convert.tensors import MAX_TENSORS, Index, LeftOut, StateDict, TensorInfo, shown

MAX_WRAPPERS = 4
"""Dictionaries a state dict may be nested in; trainers use one or two."""
MAX_MODULES = 200
"""Modules nested in each other."""
MAX_VISITS = 8 * MAX_TENSORS
"""Entries looked at, however often the file refers to the same ones."""
MAX_NAMES = 64 * MAX_TENSORS
"""Characters of all names put together from their parts."""
_MAX_SHOWN = 60

MAX_LISTED = 16
"""Members of a list that are looked into: a state dict, an optimizer's, an epoch."""

EXTRA_STATE = "_extra_state"
MODULE_NOTE = (
    "names are those of the modules' default state_dict(); their state-dict hooks were not run"
)

FOREIGN_ROLES = KNOWN_ROLES.keys() - {"weight", "bias", "0", "1"}
"""What arrays are called where layers are dictionaries, as in TensorFlow's ports."""
ROLES = FOREIGN_ROLES | {"weight", "bias", "running_mean", "running_var"}
_SCRIPT_OBJECT = "torch.ScriptObject"
"""How a quantized module of PyTorch holds its weights, as an attribute like any other."""
PACKED = "packed for quantized kernels"
_MAX_PACKED = 2
"""Tensors of a quantized layer: weight and bias."""
MAX_LAYER_LIST = 4
"""Arrays of a layer that is a list: weight and bias, and of a norm two more."""

Nodes = Sequence[Node]
Locate = Callable[[str, Tensor], TensorInfo]
"""Places a tensor of that name in the file; raises RecordError where it does not fit."""
LocateArray = Callable[[str, Array], TensorInfo]
"""The same for an array of NumPy's."""


class TensorError(RecordError):
    """A tensor of a state dict that lies about itself, or is malformed."""


@dataclass
class Search:
    """The state dicts found under a root, and everything that belongs to none of them."""

    locate: Locate
    locate_array: LocateArray
    found: list[StateDict] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    from_modules: bool = False
    visits: int = 0
    kept: int = 0
    characters: int = 0
    known: dict[tuple[int, int], bool] = field(default_factory=dict)
    layers: dict[int, bool] = field(default_factory=dict)

    def run(self, root: Node) -> None:
        """Look through `root`, a pickle's object.

        Raises RecordError where a tensor lies about its place, or where the nesting explodes.
        """
        if not self._visit("", root, 0):
            self.left_out.append(LeftOut("(the whole file)", _describe_whole(root)))
        if self.found and all(found.broken for found in self.found):
            raise RecordError(self.found[0].broken)

    def index(self, kind: str) -> Index:
        """Return what was found, in a container of that kind."""
        notes = (MODULE_NOTE,) if self.from_modules else ()
        return Index(kind, tuple(self.found), tuple(self.left_out), notes)

    def _visit(self, path: str, node: Node, depth: int) -> bool:
        """Collect the state dicts under `node`; return whether there are any."""
        node = owner_of_method(node)
        if _is_module(node):
            self.from_modules = True
            return self._collect(path, self._module_entries(node))
        mapping = mapping_of(node)
        if depth > MAX_WRAPPERS or (mapping is not None and _is_optimizer(mapping)):
            return False
        if mapping is None:
            return _is_list(node) and self._visit_members(path, node, depth)
        self._count(len(mapping))
        if self._are_layers(mapping, depth):
            return self._collect(path, self._layer_entries(mapping))
        inner = {
            key: self._visit(self._join(path, key), value, depth + 1)
            for key, value in mapping.items()
            if isinstance(key, str) and _may_hold_weights(key)
        }
        if not any(inner.values()):
            return _holds_tensors(mapping) and self._collect(path, iter(mapping.items()))
        if _holds_weights(mapping):  # a state dict with something else in it
            return self._collect(path, iter(mapping.items()))
        for key, value in mapping.items():
            if not inner.get(key):
                self._keep(1)
                self.left_out.append(LeftOut(self._join(path, key), _describe(value)))
        return True

    def _visit_members(self, path: str, members: Nodes, depth: int) -> bool:
        """Look into a list, as of a state dict and its epoch, whose members are numbered."""
        if len(members) > MAX_LISTED:
            return False
        self._count(len(members))
        inner = [
            not _is_list(member) and self._visit(self._join(path, str(at)), member, depth + 1)
            for at, member in enumerate(members)
        ]
        if any(inner):
            for at, (found, member) in enumerate(zip(inner, members, strict=True)):
                if not found:
                    self.left_out.append(LeftOut(self._join(path, str(at)), _describe(member)))
        return any(inner)

    def _collect(self, path: str, entries: Iterator[tuple[Node, Node]]) -> bool:
        """Take a state dict, or note why it cannot be read: perhaps another one is asked for."""
        try:
            self.collect(path, entries)
        except TensorError as error:
            self.found.append(StateDict(path, {}, broken=str(error)))
        return True

    def collect(self, path: str, entries: Iterator[tuple[Node, Node]]) -> None:
        """Take the entries, names and nodes, for one state dict; raises RecordError.

        TensorError where a single tensor is what cannot be read.
        """
        tensors: dict[str, TensorInfo] = {}
        left_out: list[LeftOut] = []
        unreadable: list[LeftOut] = []
        for name, node in entries:
            self._keep(1)
            text = _text(name)
            if text is None:
                left_out.append(LeftOut(_key_name(name), "its name is not text"))
                continue
            name = text
            if name in tensors:
                raise RecordError(f"has two tensors called {shown(name)}")
            try:
                record = _record(node)
                if isinstance(record, Tensor):
                    tensors[name] = self.locate(name, record)
                elif isinstance(record, Array):
                    tensors[name] = self.locate_array(name, record)
                elif isinstance(record, Unreadable):
                    unreadable.append(LeftOut(name, record.reason))
                else:
                    left_out.append(LeftOut(name, _describe(node)))
            except RecordError as error:
                raise TensorError(f"tensor {shown(name)} cannot be read: {error}") from error
        self.found.append(StateDict(path, tensors, tuple(left_out), tuple(unreadable)))

    def _are_layers(self, node: Node, depth: int = 0) -> bool:
        """Return whether a dictionary holds layers, each a dictionary or a list of its arrays.

        One such layer with names that are not PyTorch's distinguishes it from a trainer's wrapper.
        """
        mapping = mapping_of(node)
        if not mapping or depth > MAX_WRAPPERS:
            return False
        asked = (id(mapping), depth)  # what is shared widely is looked at once
        if asked not in self.known:
            self._count(len(mapping))
            self.known[asked] = self._have_roles(mapping, depth)
        return self.known[asked]

    def _have_roles(self, mapping: dict[Node, Node], depth: int) -> bool:
        inner = [value for value in mapping.values() if mapping_of(value) or _is_list(value)]
        if not inner or (len(inner) < len(mapping) and _holds_tensors(mapping)):
            return False
        return all(self._is_layer(value) or self._are_layers(value, depth + 1) for value in inner)

    def _is_layer(self, node: Node) -> bool:
        """Return whether a dictionary or a list is a layer of arrays under names that are known."""
        held = node if _is_list(node) else mapping_of(node)
        if not held or len(held) > (MAX_LAYER_LIST if _is_list(node) else len(ROLES)):
            return False
        if id(held) not in self.layers:
            self._count(len(held))
            self.layers[id(held)] = _holds_a_layer(held)
        return self.layers[id(held)]

    def _layer_entries(self, node: Node, prefix: str = "") -> Iterator[tuple[str, Node]]:
        """Yield the arrays of layers by the names of both, joined by a dot."""
        if _is_list(node):
            inner: dict[Node, Node] = {str(at): value for at, value in enumerate(node)}
        else:
            inner = mapping_of(node) or {}
        for key, value in inner.items():
            name = f"{prefix}{_text(key) or _key_name(key)}"
            if mapping_of(value) is not None or _is_list(value):
                yield from self._layer_entries(value, self._named(f"{name}."))
            else:
                yield self._named(name), value

    def _module_entries(
        self, module: Node, prefix: str = "", depth: int = 0
    ) -> Iterator[tuple[str, Node]]:
        """Yield what `state_dict()` would: parameters, persistent buffers, then submodules."""
        if depth > MAX_MODULES:
            raise RecordError(f"has modules nested deeper than {MAX_MODULES}, or in a circle")
        parameters, buffers, submodules, transient = _parts(module)
        self._count(1 + len(parameters) + len(buffers) + len(submodules) + len(transient))
        not_saved = set(filter(_is_text, transient))
        saved = [(name, value) for name, value in buffers.items() if name not in not_saved]
        for name, value in [*parameters.items(), *saved]:
            if value is not None and isinstance(name, str):
                yield self._named(prefix + name), value
        for name, value in attributes_of(module).items():
            if class_name(value) == _SCRIPT_OBJECT and isinstance(name, str):
                yield self._named(prefix + name), Unreadable(PACKED)
        for name, child in submodules.items():
            if child is None or not isinstance(name, str):
                continue
            if _is_module(child):
                inner = self._named(f"{prefix}{name}.")
                yield from self._module_entries(child, inner, depth + 1)
            else:
                yield self._named(prefix + name), child

    def _join(self, path: str, key: Node) -> str:
        return self._named(f"{path}.{_key_name(key)}") if path else _key_name(key)

    def _named(self, name: str) -> str:
        """Count the characters of a name that was put together."""
        self.characters += len(name)
        if self.characters > MAX_NAMES:
            raise RecordError("has names longer than any model's")
        return name

    def _keep(self, entries: int) -> None:
        self.kept += entries
        if self.kept > MAX_TENSORS:
            raise RecordError(f"holds more than {MAX_TENSORS} tensors and other entries")

    def _count(self, entries: int) -> None:
        """Bound the work: shared dictionaries can nest to any number of names."""
        self.visits += entries
        if self.visits > MAX_VISITS:
            raise RecordError("holds more names than any model: its dictionaries are nested")


def _record(node: Node) -> Record | Array | None:
    """Return the tensor or array that a node rebuilds, or None.

    A list stands for the weight in it that cannot be read: a quantized layer packs its two in one.
    """
    if isinstance(node, Tensor | Unreadable):
        return node
    if _is_list(node):
        packed = map(tensor_of, node[:_MAX_PACKED])
        return next((record for record in packed if isinstance(record, Unreadable)), None)
    record = tensor_of(node)
    return array_of(node) if record is None else record


def _holds_tensors(mapping: dict[Node, Node]) -> bool:
    """Return whether a tensor is among the values, be it a malformed one."""
    try:
        return any(_record(value) is not None for value in mapping.values())
    except RecordError:
        return True


def _holds_weights(mapping: dict[Node, Node]) -> bool:
    """Return whether modules' weights are among the values, and not just a trainer's tensors."""
    weights = {
        name: value
        for name, value in mapping.items()
        if isinstance(name, str) and name.endswith(".weight")
    }
    return _holds_tensors(weights)


def _is_list(node: Node) -> bool:
    return isinstance(node, list | tuple)


def _text(key: Node) -> str | None:
    """Return a key as text; bytes of ASCII count as text."""
    if isinstance(key, bytes) and key.isascii():
        return key.decode("ascii")
    return key if isinstance(key, str) else None


def _holds_a_layer(held: dict[Node, Node] | Nodes) -> bool:
    if not isinstance(held, dict):
        return all(_is_array(value) for value in held)
    roles = {_text(key) for key in held}
    return (
        bool(roles & FOREIGN_ROLES)
        and roles <= ROLES
        and all(_holds_tensors({None: value}) for value in held.values())
    )


def _is_array(node: Node) -> bool:
    return isinstance(array_of(node), Array)


def _is_module(node: Node) -> bool:
    attributes = attributes_of(node)
    return all(
        mapping_of(attributes.get(part)) is not None
        for part in ("_parameters", "_buffers", "_modules")
    )


def _parts(module: Node) -> tuple[dict[Node, Node], dict[Node, Node], dict[Node, Node], Nodes]:
    """Return a module's parameters, buffers and submodules, and the buffers it does not save."""
    attributes = attributes_of(module)
    return (
        mapping_of(attributes["_parameters"]) or {},
        mapping_of(attributes["_buffers"]) or {},
        mapping_of(attributes["_modules"]) or {},
        members_of(attributes.get("_non_persistent_buffers_set")),
    )


def _is_text(node: Node) -> bool:
    return isinstance(node, str)


def _is_optimizer(mapping: dict[Node, Node]) -> bool:
    return "param_groups" in mapping and "state" in mapping


def _may_hold_weights(key: str) -> bool:
    return "optim" not in key.lower() and not key.endswith(EXTRA_STATE)


def _key_name(key: Node) -> str:
    if isinstance(key, str):
        return key
    return f"[{key!r}]" if isinstance(key, int) else "[…]"


def _describe(node: Node) -> str:
    """Describe an entry that is not taken in a few words."""
    try:
        if _record(node) is not None:
            return "a tensor outside of the state dict"
    except RecordError:
        return "a malformed tensor"
    mapping = mapping_of(node)
    if mapping is not None:
        kind = "optimizer state" if _is_optimizer(mapping) else "a dictionary"
        return f"{kind} of {len(mapping)} entries"
    if _is_list(node):
        return f"a list of {len(node)} entries, which have no names"
    value = _value(node)
    if "keras" in value.split("."):
        return "a pickled Keras model, which model.save('model.keras') saves by name"
    return f"not a tensor: {printable(value[:_MAX_SHOWN])}"


def _describe_whole(node: Node) -> str:
    """Describe a file of which nothing is taken, a dictionary with its first entry."""
    described = _describe(node)
    for key, value in (mapping_of(node) or {}).items():
        name = printable(_text(key) or _key_name(key))[:_MAX_SHOWN]
        return f"{described}, of which {name} is {_describe(value)}"
    return described


def _value(node: Node) -> str:
    if isinstance(node, str | bytes):
        return repr(node[:_MAX_SHOWN])
    if node is None or isinstance(node, float):
        return repr(node)
    if isinstance(node, int):
        return repr(node) if node.bit_length() <= 64 else "a long integer"
    return class_name(node)
