"""Reads a pickle as data: a small interpreter of its opcodes that builds plain nodes.

Nothing a pickle names is ever imported, called or instantiated. A global becomes a `Global`, a
call a `Call`, a persistent id a `Persistent`; who knows what they mean (torch_records.py) reads
them afterwards. Opcodes: https://github.com/python/cpython/blob/3.11/Lib/pickletools.py.

`pickle.Unpickler` with a closed `find_class` is not enough: its memo allocates by index, BUILD
writes to whatever it is given, and a deeply nested key overflows the C stack. Here the memo is a
dict, nesting lives on a list, keys are scalars, and operations and memory are counted.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.source import SourceFile

MAX_OPERATIONS = 10_000_000
"""Opcodes of one pickle: some 250,000 tensors' worth, and a few seconds."""
MAX_MEMORY = 144 << 20
"""Estimated bytes of all nodes of one pickle: what 100,000 tensors take."""
MAX_TEXT = 1 << 20
"""Texts and byte strings above this length are skipped, not read: no name is that long."""
MAX_LINE = 1 << 16
_WINDOW_BYTES = 1 << 16

Node = Any
"""None, bool, int, float, str, bytes, tuple, list, dict, or one of the classes below."""


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A name that the pickle refers to; never looked up."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Call:
    """What calling `function` would have made, with what was stored into it afterwards."""

    function: Node
    arguments: Node
    state: Node = None
    items: dict[Node, Node] | None = None
    elements: list[Node] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference out of the pickle, in torch files to a storage."""

    value: Node


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A value nobody here needs: a long text, or a key that is no scalar."""

    kind: str
    nbytes: int = 0


@dataclass(frozen=True)
class Pickle:
    """A pickle that was read: its object, its persistent ids in order, and where it ended."""

    root: Node
    persistents: tuple[Persistent, ...]
    end: int


def read_pickle(file: SourceFile, start: int, end: int) -> Pickle:
    """Interpret the pickle that starts at byte `start` and ends at `end` at the latest.

    Raises CheckpointError where it is malformed, or larger than MAX_OPERATIONS or MAX_MEMORY.
    """
    window = _Window(file, start, end)
    machine = _Machine(window)
    try:
        root = machine.run()
    except _PickleError as error:
        raise CheckpointError(
            f"{file.path}: malformed pickle at byte {window.position}: {error}"
        ) from error
    return Pickle(root, tuple(machine.persistents), window.position)


class _PickleError(ValueError):
    """A malformed pickle; becomes a CheckpointError with the path and the position."""


class _Window:
    """Sequential reads from a part of a file, buffered."""

    def __init__(self, file: SourceFile, start: int, end: int) -> None:
        self._file = file
        self._buffer = b""
        self._at = 0
        self._next = start
        self._end = end

    @property
    def position(self) -> int:
        """File offset of the next byte."""
        return self._next - len(self._buffer) + self._at

    def take(self, count: int) -> bytes:
        """Return exactly the next `count` bytes."""
        stop = self._at + count
        if stop > len(self._buffer):
            self._fill(count)
            stop = count
        taken = self._buffer[self._at : stop]
        self._at = stop
        return taken

    def line(self) -> bytes:
        """Return the next line without its newline."""
        if self._buffer.find(b"\n", self._at) < 0:
            self._fill(min(MAX_LINE, self._end - self.position))
        stop = self._buffer.find(b"\n", self._at, self._at + MAX_LINE)
        if stop < 0:
            raise _PickleError("a line does not end")
        taken = self._buffer[self._at : stop]
        self._at = stop + 1
        return taken

    def skip(self, count: int) -> None:
        """Pass over the next `count` bytes without reading them."""
        if count > self._end - self.position:
            raise _PickleError(f"truncated: {count} bytes expected")
        self._next = self.position + count
        self._buffer, self._at = b"", 0

    def _fill(self, count: int) -> None:
        """Make at least `count` bytes available at the start of the buffer."""
        if count > self._end - self.position:
            raise _PickleError("truncated")
        rest = self._buffer[self._at :]
        length = min(max(count - len(rest), _WINDOW_BYTES), self._end - self._next)
        self._buffer, self._at = rest + self._file.pread(self._next, length), 0
        self._next += length


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, window: _Window) -> None:
        self.window = window
        self.take = window.take
        self.stack: list[Node] = []
        self.marked: list[list[Node]] = []
        self.memo: dict[int, Node] = {}
        self.persistents: list[Persistent] = []
        self.memory = 0

    def run(self) -> Node:
        """Interpret up to STOP and return the object left on the stack."""
        take, operations = self.take, OPERATIONS
        for _ in range(MAX_OPERATIONS):
            code = take(1)
            if code == b".":
                if len(self.stack) != 1 or self.marked:
                    raise _PickleError("it does not end with one object")
                return self.stack.pop()
            operation = operations.get(code)
            if operation is None:
                raise _PickleError(f"unknown or unsupported opcode {code!r}")
            operation(self)
        raise _PickleError(f"it has more than {MAX_OPERATIONS} operations")

    def push(self, node: Node, nbytes: int = 32) -> None:
        """Put a node on the stack and count its estimated size."""
        self.spend(nbytes)
        self.stack.append(node)

    def spend(self, nbytes: int) -> None:
        """Count memory; raises where a pickle would take more than MAX_MEMORY."""
        self.memory += nbytes
        if self.memory > MAX_MEMORY:
            raise _PickleError(f"its objects would take more than {MAX_MEMORY >> 20} MB")

    def pop(self) -> Node:
        """Take the top of the stack."""
        if not self.stack:
            raise _PickleError("its stack is empty")
        return self.stack.pop()

    def top(self) -> Node:
        """Look at the top of the stack."""
        if not self.stack:
            raise _PickleError("its stack is empty")
        return self.stack[-1]

    def mark(self) -> None:
        """Start a new group of nodes."""
        self.spend(64)
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Node]:
        """Take all nodes since the last mark."""
        if not self.marked:
            raise _PickleError("it has no mark to go back to")
        group, self.stack = self.stack, self.marked.pop()
        return group

    def remember(self, index: int) -> None:
        """Store the top of the stack in the memo."""
        node = self.top()
        self.spend(96)
        self.memo[index] = node

    def recall(self, index: int) -> None:
        """Push an object of the memo."""
        if index not in self.memo:
            raise _PickleError(f"its memo has no object {index}")
        self.push(self.memo[index], 8)

    def text(self, length: int) -> None:
        """Push a text of `length` bytes of UTF-8."""
        self.string(length, "text", lambda raw: _decoded(raw, "utf-8", "surrogatepass"))

    def string(self, length: int, kind: str, decode: Callable[[bytes], Node]) -> None:
        """Push the next `length` bytes, decoded; long ones are skipped and become Opaque."""
        if length > MAX_TEXT:
            self.window.skip(length)
            self.push(Opaque(kind, length))
        else:
            self.push(decode(self.take(length)), 64 + length)

    def call(self, function: Node, arguments: Node) -> None:
        """Push what a call would have made."""
        self.push(Call(function, arguments), 88)

    def store(self, pairs: list[Node]) -> None:
        """Set items, given as key, value, key, value, …, on the top of the stack."""
        if len(pairs) % 2:
            raise _PickleError("an item has a key but no value")
        target = self.top()
        if isinstance(target, Call):
            target.items = {} if target.items is None else target.items
            target = target.items
        if not isinstance(target, dict):
            raise _PickleError("items are set on something that takes none")
        self.spend(56 * len(pairs))
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_scalar(key)] = value

    def append(self, nodes: list[Node]) -> None:
        """Append to the list, or to the called object, on the top of the stack."""
        target = self.top()
        if isinstance(target, Call):
            target.elements = [] if target.elements is None else target.elements
            target = target.elements
        if not isinstance(target, list):
            raise _PickleError("elements are appended to something that takes none")
        self.spend(8 * len(nodes))
        target.extend(nodes)

    def build(self) -> None:
        """Give the called object on the top of the stack its state."""
        state, target = self.pop(), self.top()
        if not isinstance(target, Call):
            raise _PickleError("state is set on something that has none")
        if target.state is not None:
            raise _PickleError("state is set twice")
        target.state = state

    def persist(self, value: Node) -> None:
        """Push a reference out of the pickle."""
        reference = Persistent(value)
        self.spend(16)
        self.persistents.append(reference)
        self.push(reference, 48)


def _scalar(key: Node) -> Node:
    """Return a key that is safe to hash; any other becomes one that equals nothing.

    Integers beyond 64 bits and floats are not: their hashes can be made to collide at will.
    """
    if key is None or isinstance(key, str | bytes | bool):
        return key
    if isinstance(key, int) and -(1 << 63) <= key < 1 << 63:
        return key
    return Opaque("key")


def _decoded(raw: bytes, encoding: str, errors: str = "strict") -> str:
    try:
        return raw.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise _PickleError(f"a text is not {encoding}") from error


def _python2_text(raw: bytes) -> str | bytes:
    """A Python 2 `str`: text where it reads as UTF-8 (torch.load does so), else bytes."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _number(raw: bytes, convert: Callable[[bytes], Node]) -> Node:
    try:
        return convert(raw)
    except ValueError as error:
        raise _PickleError(f"{raw[:24]!r} is no number") from error


def _index(m: _Machine) -> int:
    index: int = _number(m.window.line(), int)
    return index


def _unsigned(m: _Machine, width: int) -> int:
    return int.from_bytes(m.take(width), "little")


def _signed(m: _Machine, width: int) -> int:
    return int.from_bytes(m.take(width), "little", signed=True)


def _length4(m: _Machine) -> int:
    length = _signed(m, 4)
    if length < 0:
        raise _PickleError(f"a length is negative: {length}")
    return length


def _big_integer(m: _Machine, length: int) -> None:
    m.string(length, "integer", lambda raw: int.from_bytes(raw, "little", signed=True))


def _integer_line(m: _Machine) -> None:
    raw = m.window.line()
    booleans = {b"00": False, b"01": True}
    m.push(booleans[raw] if raw in booleans else _number(raw, int))


def _quoted_line(m: _Machine) -> None:
    raw = m.window.line()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
        raise _PickleError("a text is not quoted")
    try:
        unescaped, _ = codecs.escape_decode(raw[1:-1])
    except ValueError as error:
        raise _PickleError("a text has a malformed escape") from error
    m.push(_python2_text(unescaped), 64 + len(raw))


def _tuple(m: _Machine, count: int) -> None:
    if len(m.stack) < count:
        raise _PickleError("its stack is empty")
    split = len(m.stack) - count
    group = tuple(m.stack[split:])
    del m.stack[split:]
    m.push(group, 56 + 8 * count)


def _global_lines(m: _Machine) -> Global:
    module = _decoded(m.window.line(), "utf-8")
    return Global(module, _decoded(m.window.line(), "utf-8"))


def _stack_global(m: _Machine) -> None:
    name, module = m.pop(), m.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise _PickleError("a global is not named by texts")
    m.push(Global(module, name), 64)


def _reduce(m: _Machine) -> None:
    arguments, function = m.pop(), m.pop()
    m.call(function, arguments)


def _new_object_with_keywords(m: _Machine) -> None:
    keywords, arguments, cls = m.pop(), m.pop(), m.pop()
    m.call(cls, (arguments, keywords))


def _object(m: _Machine) -> None:
    group = m.pop_mark()
    if not group:
        raise _PickleError("an object has no class")
    m.call(group[0], tuple(group[1:]))


def _instance(m: _Machine) -> None:
    cls = _global_lines(m)
    m.call(cls, tuple(m.pop_mark()))


def _store_one(m: _Machine) -> None:
    value, key = m.pop(), m.pop()
    m.store([key, value])


def _append_one(m: _Machine) -> None:
    node = m.pop()
    m.append([node])


def _store_group(m: _Machine) -> None:
    group = m.pop_mark()
    m.store(group)


def _append_group(m: _Machine) -> None:
    group = m.pop_mark()
    m.append(group)


def _new_dict(m: _Machine) -> None:
    group = m.pop_mark()
    m.push({}, 64)
    m.store(group)


def _new_sequence(m: _Machine, make: Callable[[list[Node]], Node]) -> None:
    group = m.pop_mark()
    m.push(make(group), 56 + 8 * len(group))


def _pop_any(m: _Machine) -> None:
    # POP on an empty group discards the mark, as in CPython.
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _protocol(m: _Machine) -> None:
    version = m.take(1)[0]
    if version > 5:
        raise _PickleError(f"protocol {version} is not known")


OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
    # Structure.
    b"\x80": _protocol,
    b"\x95": lambda m: m.window.skip(0) if m.take(8) else None,  # FRAME: a hint for buffering
    b"(": _Machine.mark,
    b"0": _pop_any,
    b"1": lambda m: m.pop_mark().clear(),
    b"2": lambda m: m.push(m.top(), 8),
    # Memo.
    b"p": lambda m: m.remember(_index(m)),
    b"q": lambda m: m.remember(_unsigned(m, 1)),
    b"r": lambda m: m.remember(_unsigned(m, 4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": lambda m: m.recall(_index(m)),
    b"h": lambda m: m.recall(_unsigned(m, 1)),
    b"j": lambda m: m.recall(_unsigned(m, 4)),
    # Scalars.
    b"N": lambda m: m.push(None, 8),
    b"\x88": lambda m: m.push(True, 8),
    b"\x89": lambda m: m.push(False, 8),
    b"I": _integer_line,
    b"L": lambda m: m.push(_number(m.window.line().rstrip(b"L"), int)),
    b"J": lambda m: m.push(_signed(m, 4)),
    b"K": lambda m: m.push(m.take(1)[0], 8),
    b"M": lambda m: m.push(_unsigned(m, 2)),
    b"\x8a": lambda m: _big_integer(m, _unsigned(m, 1)),
    b"\x8b": lambda m: _big_integer(m, _length4(m)),
    b"F": lambda m: m.push(_number(m.window.line(), float)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # Texts and bytes.
    b"S": _quoted_line,
    b"T": lambda m: m.string(_length4(m), "text", _python2_text),
    b"U": lambda m: m.string(_unsigned(m, 1), "text", _python2_text),
    b"V": lambda m: m.push(_decoded(m.window.line(), "raw-unicode-escape"), 128),
    b"X": lambda m: m.text(_unsigned(m, 4)),
    b"\x8c": lambda m: m.text(_unsigned(m, 1)),
    b"\x8d": lambda m: m.text(_unsigned(m, 8)),
    b"B": lambda m: m.string(_unsigned(m, 4), "bytes", bytes),
    b"C": lambda m: m.string(_unsigned(m, 1), "bytes", bytes),
    b"\x8e": lambda m: m.string(_unsigned(m, 8), "bytes", bytes),
    b"\x96": lambda m: m.string(_unsigned(m, 8), "bytes", bytes),
    # Collections.
    b")": lambda m: m.push((), 8),
    b"\x85": lambda m: _tuple(m, 1),
    b"\x86": lambda m: _tuple(m, 2),
    b"\x87": lambda m: _tuple(m, 3),
    b"t": lambda m: _new_sequence(m, tuple),
    b"]": lambda m: m.push([], 64),
    b"l": lambda m: _new_sequence(m, list),
    b"}": lambda m: m.push({}, 72),
    b"d": _new_dict,
    b"\x8f": lambda m: m.push([], 64),  # EMPTY_SET: a list here, since nothing is hashed
    b"\x91": lambda m: _new_sequence(m, tuple),  # FROZENSET
    b"a": _append_one,
    b"e": _append_group,
    b"\x90": _append_group,  # ADDITEMS
    b"s": _store_one,
    b"u": _store_group,
    # Globals, calls and what they make.
    b"c": lambda m: m.push(_global_lines(m), 160),
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _reduce,  # NEWOBJ: class and arguments, like REDUCE
    b"\x92": _new_object_with_keywords,
    b"o": _object,
    b"i": _instance,
    b"b": _Machine.build,
    b"P": lambda m: m.persist(_decoded(m.window.line(), "utf-8")),
    b"Q": lambda m: m.persist(m.pop()),
}
"""Every opcode but STOP. Extension codes and out-of-band buffers point out of the file: refused."""
