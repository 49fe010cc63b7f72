"""TorchScript archives of `torch.jit.save`: the state dict, without running their code.

The layout is that of torch/csrc/jit/serialization: `data.pkl` holds the module's attributes,
submodules as instances of classes under `__torch__`; `code/…` holds the classes' source, whose
`__parameters__` and `__buffers__` say which attributes are of the state dict. That source is
searched as text for these two lists, and for nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.numpy_records import locate_array
from fcn_convert.formats.pickled_calls import warnings_of
from fcn_convert.formats.pickles import Call, Global, Node
from fcn_convert.formats.records import RecordError, Unreadable
from fcn_convert.formats.source import Files, Readable
from fcn_convert.formats.state_dicts import MAX_MODULES, PACKED, Search
from fcn_convert.formats.torch_records import attributes_of, tensor_of
from fcn_convert.formats.torch_zip import Archive, folders_of
from fcn_convert.formats.zip_directory import Member, check_stored, checksums, text_of
from fcn_convert.tensors import Index, shown

MAX_CODE = 64 << 20
"""Bytes of source looked through."""
MAX_WALKED = 16 << 20
"""Attributes looked at and characters of modules' names, all together: modules may be shared."""
_SEPARATOR = "|"
"""Between the parts of a name in a file of tch, PyTorch's binding for Rust: TorchScript has no dots
in the names of attributes, and nobody else bars."""
_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n((?:  __(?:parameters|buffers)__ = \["
    r'(?:"(?:[^"\\\n]|\\.)*+"(?:, )?)*+'
    r"\]\n)*)(  __(?:parameters|buffers)__)?",
    re.MULTILINE,
)
_ANY_CLASS = re.compile(r"^class (\w+)", re.MULTILINE)
_NAME = re.compile(r'"((?:[^"\\]|\\.)*+)"?')
"""Where one is never closed, it takes the rest; else each quote in it would be tried anew."""
_PACKED = "__torch__.torch.classes."
NOTE = "names are those of the TorchScript modules' parameters and buffers; their code was not run"


def recognises_members(names: Collection[str]) -> bool:
    """Return whether a zip file with these members is a TorchScript archive."""
    return any(f"{folder}constants.pkl" in names for folder in folders_of(names))


def read_members(files: Files, members: Mapping[str, Member]) -> Index:
    """Index an archive; raises CheckpointError where it is malformed, or holds no named weights."""
    path = files.main.path
    archive = Archive(files.main, members)
    folder = archive.folder
    values = [m for n, m in members.items() if n.startswith((f"{folder}data", f"{folder}const"))]
    check_stored(files.main, values, "torch.jit.save")
    search = Search(archive.locate, lambda name, array: locate_array(name, array, files))
    modules = _Modules(files.main, members, folder)
    try:
        pickle = archive.read()
        search.collect("", modules.entries(pickle.root))
    except RecordError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not search.found[0].tensors and not search.found[0].unreadable:
        raise CheckpointError(
            f"{path}: is a TorchScript archive without named weights: they were frozen into its "
            "code; save the state_dict() of the module before torch.jit.freeze"
        )
    warnings = warnings_of(path, pickle.running)
    found = search.index("TorchScript")
    return replace(found, notes=(NOTE,), warnings=warnings, checksums=checksums(values))


@dataclass
class _Modules:
    """The classes of an archive, with the attributes that belong to the state dict."""

    file: Readable
    members: Mapping[str, Member]
    folder: str
    known: dict[str, dict[str, frozenset[str] | None]] = field(default_factory=dict)
    read: int = 0
    walked: int = 0

    def entries(self, node: Node, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Node]]:
        """Yield what `state_dict()` would: a module's parameters and buffers, then submodules."""
        if depth > MAX_MODULES:
            raise RecordError(f"has modules nested deeper than {MAX_MODULES}, or in a circle")
        saved, attributes = self._saved(node), attributes_of(node)
        self.walked += 1 + len(prefix) + len(attributes)
        if self.walked > MAX_WALKED:
            raise RecordError("has more modules, or longer names of them, than any network")
        for name, value in attributes.items():
            if not isinstance(name, str) or value is None or saved is None:
                continue
            if name in saved:
                yield prefix + name.replace(_SEPARATOR, "."), value
            elif _class_of(value).startswith(_PACKED) or _holds_weights_of_its_own(value):
                yield prefix + name, Unreadable(PACKED)
            elif self._saved(value) is not None:
                yield from self.entries(value, f"{prefix}{name}.", depth + 1)

    def _saved(self, node: Node) -> frozenset[str] | None:
        """Return the parameters and buffers of a module; None for anything else."""
        path = _class_of(node)
        if path.split(".")[0] != "__torch__":
            return None
        module, _, name = path.rpartition(".")
        if module not in self.known:
            self.known[module] = dict(self._classes(module))
        if name not in self.known[module]:
            raise RecordError(
                f"has an object of {shown(path)}, a class that its code does not have"
            )
        return self.known[module][name]

    def _classes(self, module: str) -> Iterator[tuple[str, frozenset[str] | None]]:
        """Yield the classes of a file of code, with the weights of those that are modules."""
        name = f"code/{module.replace('.', '/')}.py"
        member = self.members.get(f"{self.folder}{name}")
        if member is None:
            raise RecordError(f"has modules whose code, {shown(name)}, is missing in it")
        self.read += member.nbytes
        raw = text_of(self.file, member, MAX_CODE - self.read + member.nbytes)
        code = raw.decode("utf-8", "replace")
        yield from ((name, None) for name in _ANY_CLASS.findall(code))
        for match in _CLASS.finditer(code):
            if match[3]:
                raise RecordError(f"lists the weights of {shown(match[1])} in a form unknown here")
            yield match[1], frozenset(_NAME.findall(match[2]))


def _holds_weights_of_its_own(node: Node) -> bool:
    """Return whether a module is kept as what its `__getstate__` gave, as older quantized ones."""
    state = node.state if isinstance(node, Call) else None
    return isinstance(state, tuple) and any(tensor_of(value) is not None for value in state)


def _class_of(node: Node) -> str:
    function = node.function if isinstance(node, Call) else None
    return function.path if isinstance(function, Global) else ""
