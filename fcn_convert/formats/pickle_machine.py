"""The machine that a pickle's opcodes (pickles.py) work on: its nodes, its input, its stack.

Nesting lives on a list, keys are scalars, and operations and memory are counted: whatever a file
says, it costs no more than the limits below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

from fcn_convert.formats.pickled_calls import MAX_NAME, runs_something
from fcn_convert.formats.source import Readable

MAX_OPERATIONS = 10_000_000
"""Opcodes of one pickle: some 250,000 tensors' worth, and a few seconds."""
MAX_MEMORY = 128 << 20
"""Estimated bytes of all nodes of a file's pickles: what 125,000 tensors take."""
MAX_TEXT = 1 << 20
"""Texts above this length are skipped, not read: no name is that long."""
MAX_BYTES = 1 << 14
"""Byte strings above this length are skipped: they are an array's values, which stay in place."""
MAX_LINE = 1 << 16
MAX_INDEX = 1 << 32
"""Where the memo ends: no pickler counts further, and larger integers' hashes can collide."""
_WINDOW_BYTES = 1 << 16
_MARK_BYTES = 64

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

    @property
    def is_changed(self) -> bool:
        """Whether anything was stored into it after it was made."""
        return (self.state, self.items, self.elements) != (None, None, None)


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference out of the pickle, in torch files to a storage."""

    value: Node


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A long text or byte string by its place in the file, or a key that is not a scalar.

    node: what the key is; a dictionary finds nothing by it.
    """

    kind: str
    nbytes: int = 0
    offset: int = 0
    node: Node = None


class PlacedBytes(bytes):
    """A byte string with the offset where the file holds it: it may be an array's values."""

    offset: int


class PickleError(ValueError):
    """A malformed pickle; becomes a CheckpointError with the path and the position."""


class Window:
    """Sequential reads from a part of a file, buffered."""

    def __init__(self, file: Readable, start: int, end: int) -> None:
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
        if stop < 0 and self._end - self.position > MAX_LINE:
            raise PickleError(
                f"a line is longer than {MAX_LINE} bytes, as where protocol 0 keeps an array; load "
                "it, and save it with pickle.dump(..., protocol=4)"
            )
        if stop < 0:
            raise PickleError("a line does not end")
        taken = self._buffer[self._at : stop]
        self._at = stop + 1
        return taken

    def skip(self, count: int) -> None:
        """Pass over the next `count` bytes without reading them."""
        if count > self._end - self.position:
            raise PickleError(f"it is truncated: {count} bytes expected")
        if self._at + count > len(self._buffer):
            self._next = self.position + count
            self._buffer, self._at = b"", 0
        else:
            self._at += count

    def _fill(self, count: int) -> None:
        """Make at least `count` bytes available at the start of the buffer."""
        if count > self._end - self.position:
            raise PickleError("it is truncated")
        rest = self._buffer[self._at :]
        length = min(max(count - len(rest), _WINDOW_BYTES), self._end - self._next)
        self._buffer, self._at = rest + self._file.pread(self._next, length), 0
        self._next += length


class Machine:
    """The stack, the marks and the memo of one pickle, and its calls that could run something.

    known: what the calls of some functions stand for, by their dotted names, made of the arguments.
    held: bytes of memory that count as this pickle's, too: those of pickles read before it.
    """

    def __init__(
        self, window: Window, known: Mapping[str, Callable[[Node], Node]], held: int = 0
    ) -> None:
        self.window = window
        self.known = known
        self.take = window.take
        self.stack: list[Node] = []
        self.marked: list[list[Node]] = []
        # Picklers count their memo from 0, which a list holds at a tenth of a dict's cost; any
        # other index goes to a dict, where a large one allocates nothing.
        self.memo: list[Node] = []
        self.scattered: dict[int, Node] = {}
        self.persistents: list[Persistent] = []
        self.running: set[str] = set()
        self.memory = held

    def run(self, operations: Mapping[bytes, Callable[[Machine], None]]) -> Node:
        """Interpret up to STOP and return the object left on the stack."""
        take = self.take
        for _ in range(MAX_OPERATIONS):
            code = take(1)
            if code == b".":
                if len(self.stack) != 1 or self.marked:
                    raise PickleError("it does not end with one object")
                return self.stack.pop()
            operation = operations.get(code)
            if operation is None:
                raise PickleError(f"it has the unknown or unsupported opcode {code!r}")
            operation(self)
        raise PickleError(f"it has more than {MAX_OPERATIONS} operations")

    def push(self, node: Node, nbytes: int = 40) -> None:
        """Put a node on the stack and count its estimated size."""
        self.spend(nbytes)
        self.stack.append(node)

    def spend(self, nbytes: int) -> None:
        """Count memory; raises where a pickle would take more than MAX_MEMORY."""
        self.memory += nbytes
        if self.memory > MAX_MEMORY:
            raise PickleError(f"its objects would take more than {MAX_MEMORY >> 20} MB")

    def pop(self) -> Node:
        """Take the top of the stack."""
        if not self.stack:
            raise PickleError("its stack is empty")
        return self.stack.pop()

    def top(self) -> Node:
        """Look at the top of the stack."""
        if not self.stack:
            raise PickleError("its stack is empty")
        return self.stack[-1]

    def mark(self) -> None:
        """Start a new group of nodes."""
        self.spend(_MARK_BYTES)
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Node]:
        """Take all nodes since the last mark."""
        if not self.marked:
            raise PickleError("it has no mark to go back to")
        self.memory -= _MARK_BYTES
        group, self.stack = self.stack, self.marked.pop()
        return group

    def remember(self, index: int | None = None) -> None:
        """Store the top of the stack in the memo, by default at the next place."""
        node, memo, scattered = self.top(), self.memo, self.scattered
        if index is None:
            index = len(memo) + len(scattered)
        if index == len(memo):
            self.spend(12)
            memo.append(node)
            if scattered:
                scattered.pop(index, None)
        elif 0 <= index < len(memo):
            memo[index] = node
        elif 0 <= index < MAX_INDEX:
            self.spend(128)
            scattered[index] = node
        else:
            raise PickleError(f"its memo has no place {index}")

    def recall(self, index: int) -> None:
        """Push an object of the memo."""
        if 0 <= index < len(self.memo):
            self.push(self.memo[index], 8)
        elif index in self.scattered:
            self.push(self.scattered[index], 8)
        else:
            raise PickleError(f"its memo has no object {index}")

    def sized(self, node: Node) -> None:
        """Push a text, bytes or an integer, counted by its real size."""
        self.push(node, getsizeof(node) + 16)

    def string(self, length: int, kind: str, decode: Callable[[bytes], Node]) -> None:
        """Push the next `length` bytes, decoded; long ones are skipped and become Opaque."""
        if length > (MAX_BYTES if kind == "bytes" else MAX_TEXT):
            offset = self.window.position
            self.window.skip(length)
            self.push(Opaque(kind, length, offset), 64)
        else:
            self.sized(decode(self.take(length)))

    def byte_string(self, length: int) -> None:
        """Push the next `length` bytes with their place."""
        offset = self.window.position

        def placed(raw: bytes) -> PlacedBytes:
            node = PlacedBytes(raw)
            node.offset = offset
            return node

        self.spend(200)
        self.string(length, "bytes", placed)

    def call(self, function: Node, arguments: Node) -> None:
        """Push what a call would have made, or, where that is known, what it stands for."""
        if self.known and isinstance(function, Global) and function.path in self.known:
            self.push(self.known[function.path](arguments), 88)
            return
        if isinstance(function, Global) and runs_something(function.module, function.name):
            self.spend(2 * MAX_NAME)
            self.running.add(function.path[:MAX_NAME])
        self.push(Call(function, arguments), 88)

    def store(self, pairs: Sequence[Node]) -> None:
        """Set items, given as key, value, key, value, …, on the top of the stack."""
        if len(pairs) % 2:
            raise PickleError("an item has a key but no value")
        target = self.top()
        if isinstance(target, Call):
            if target.items is None:
                self.spend(96)
                target.items = {}
            target = target.items
        if not isinstance(target, dict):
            raise PickleError("items are set on something that takes none")
        self.spend(56 * len(pairs))
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[scalar(key)] = value

    def append(self, nodes: list[Node]) -> None:
        """Append to the list, or to the called object, on the top of the stack."""
        target = self.top()
        if isinstance(target, Call):
            if target.elements is None:
                self.spend(80)
                target.elements = []
            target = target.elements
        if not isinstance(target, list):
            raise PickleError("elements are appended to something that takes none")
        self.spend(8 * len(nodes))
        target.extend(nodes)

    def build(self) -> None:
        """Give the called object on the top of the stack its state."""
        state, target = self.pop(), self.top()
        if not isinstance(target, Call):
            raise PickleError("state is set on something that has none")
        if target.state is not None:
            raise PickleError("state is set twice")
        target.state = state

    def persist(self, value: Node) -> None:
        """Push a reference out of the pickle."""
        reference = Persistent(value)
        self.spend(16)
        self.persistents.append(reference)
        self.push(reference, 48)


def only_argument(arguments: Node) -> Node:
    """Return the argument of a call that has one; None for any other call."""
    return arguments[0] if isinstance(arguments, tuple) and len(arguments) == 1 else None


def scalar(key: Node) -> Node:
    """Return a key that is safe to hash; any other becomes one that equals nothing.

    Integers beyond 64 bits and floats are not: their hashes can be made to collide at will.
    """
    if key is None or isinstance(key, str | bytes | bool):
        return key
    if isinstance(key, int) and -(1 << 63) <= key < 1 << 63:
        return key
    return Opaque("key", node=key)
