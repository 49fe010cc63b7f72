"""Reads a pickle as data: a small interpreter of its opcodes that builds plain nodes.

Nothing a pickle names is ever imported, called or instantiated. A global becomes a `Global`, a
call a `Call`, a persistent id a `Persistent`; the code that knows what they mean
(torch_records.py) reads them afterwards. Opcodes:
https://github.com/python/cpython/blob/3.11/Lib/pickletools.py.

`pickle.Unpickler` with a closed `find_class` is not enough: its memo allocates by index, BUILD
writes to whatever it is given, and a deeply nested key overflows the C stack. Here the memo
grows by what is put, nesting lives on a list, keys are scalars, and operations and memory are
counted; see pickle_machine.py.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from sys import getsizeof
from types import MappingProxyType

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.pickle_machine import (
    Call,
    Global,
    Machine,
    Node,
    Opaque,
    Persistent,
    PickleError,
    Window,
    only_argument,
)
from fcn_convert.formats.source import Readable

__all__ = ["Call", "Global", "Node", "Opaque", "Persistent", "Pickle", "read_pickle"]

ORDERED_DICT = "collections.OrderedDict"

# What codecs.escape_decode takes without a warning.
_ESCAPED = re.compile(
    rb"""(?:[^\\]|\\(?:[\\'"abfnrtv\n]|[0-3][0-7]{0,2}|[4-7][0-7]?(?![0-7])|x[0-9a-fA-F]{2}))*+""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Pickle:
    """A pickle that was read: its object, its persistent ids in order, and where it ended.

    held: what its nodes take, and those of the pickles before it, in bytes. running: names that it
    asks to call and that run something, which no checkpoint needs.
    """

    root: Node
    persistents: tuple[Persistent, ...]
    end: int
    held: int
    running: frozenset[str] = frozenset()


def read_pickle(
    file: Readable,
    start: int,
    end: int,
    known: Mapping[str, Callable[[Node], Node]] = MappingProxyType({}),
    held: int = 0,
) -> Pickle:
    """Interpret the pickle that starts at byte `start` and ends at `end` at the latest.

    known: what the calls of some functions stand for, by their dotted names, made of the arguments.
    held: bytes of memory that the file's pickles before it take. Raises CheckpointError where it is
    malformed, or larger than MAX_OPERATIONS or MAX_MEMORY.
    """
    window = Window(file, start, end)
    machine = Machine(window, known, held)
    try:
        root = machine.run(OPERATIONS)
    except PickleError as error:
        raise CheckpointError(
            f"{file.path}: malformed pickle at byte {window.position}: {error}"
        ) from error
    persistents, running = tuple(machine.persistents), frozenset(machine.running)
    return Pickle(root, persistents, window.position, machine.memory, running)


def _decoded(raw: bytes, encoding: str, errors: str = "strict") -> str:
    try:
        return raw.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise PickleError(f"a text is not {encoding}") from error


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
        raise PickleError(f"{raw[:24]!r} is not a number") from error


def _index(m: Machine) -> int:
    index: int = _number(m.window.line(), int)
    return index


def _unsigned(m: Machine, width: int) -> int:
    return int.from_bytes(m.take(width), "little")


def _signed(m: Machine, width: int) -> int:
    return int.from_bytes(m.take(width), "little", signed=True)


def _length4(m: Machine) -> int:
    length = _signed(m, 4)
    if length < 0:
        raise PickleError(f"a length is negative: {length}")
    return length


def _big_integer(m: Machine, length: int) -> None:
    m.string(length, "integer", lambda raw: int.from_bytes(raw, "little", signed=True))


def _integer_line(m: Machine) -> None:
    raw = m.window.line()
    booleans = {b"00": False, b"01": True}
    if raw[:1] == b"0" and len(raw) > 1 and raw not in booleans:
        raise PickleError("a number begins with a zero, which Python takes for an octal one")
    m.sized(booleans[raw] if raw in booleans else _number(raw, int))


def _quoted_line(m: Machine) -> None:
    raw = m.window.line()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
        raise PickleError("a text is not quoted")
    if not _ESCAPED.fullmatch(raw, 1, len(raw) - 1):
        raise PickleError("a text has a malformed escape")
    unescaped, _ = codecs.escape_decode(raw[1:-1])
    m.sized(_python2_text(unescaped))


def _tuple(m: Machine, count: int) -> None:
    if len(m.stack) < count:
        raise PickleError("its stack is empty")
    split = len(m.stack) - count
    group = tuple(m.stack[split:])
    del m.stack[split:]
    m.push(group, 56 + 8 * count)


def _text(m: Machine, length: int) -> None:
    m.string(length, "text", lambda raw: _decoded(raw, "utf-8", "surrogatepass"))


def _name_line(m: Machine) -> str:
    """Read a line of text that is kept, but not pushed."""
    name = _decoded(m.window.line(), "utf-8")
    m.spend(getsizeof(name))
    return name


def _global_lines(m: Machine) -> Global:
    module = _name_line(m)
    return Global(module, _name_line(m))


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise PickleError("a global is not named by texts")
    m.push(Global(module, name), 64)


def _reduce(m: Machine) -> None:
    arguments, function = m.pop(), m.pop()
    _call(m, function, arguments)


def _call(m: Machine, function: Node, arguments: Node) -> None:
    m.call(function, arguments)
    if isinstance(function, Global) and function.path == ORDERED_DICT:
        pairs = _pairs(m, arguments)
        if pairs:
            m.store(list(chain.from_iterable(pairs)))


def _pairs(m: Machine, arguments: Node) -> list[Node]:
    """Python 2 pickles an OrderedDict as a call with a list of [key, value] lists."""
    members = only_argument(arguments)
    if not isinstance(members, list | tuple):
        return []
    m.spend(8 * len(members))  # one list can be given to any number of calls
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in members):
        raise PickleError("a dictionary is made of something other than pairs")
    return list(members)


def _new_object(m: Machine) -> None:
    """Make an object as a call does, except a dictionary: it is empty, whatever it is given."""
    arguments, cls = m.pop(), m.pop()
    if isinstance(cls, Global) and cls.path == ORDERED_DICT and arguments != ():
        raise PickleError("a dictionary is made in a way that no library writes")
    m.call(cls, arguments)


def _new_object_with_keywords(m: Machine) -> None:
    keywords, arguments, cls = m.pop(), m.pop(), m.pop()
    m.spend(72)
    m.call(cls, (arguments, keywords))


def _object(m: Machine) -> None:
    group = m.pop_mark()
    if not group:
        raise PickleError("an object has no class")
    _call(m, group[0], tuple(group[1:]))


def _instance(m: Machine) -> None:
    cls = _global_lines(m)
    _call(m, cls, tuple(m.pop_mark()))


def _store_one(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.store([key, value])


def _append_one(m: Machine) -> None:
    node = m.pop()
    m.append([node])


def _store_group(m: Machine) -> None:
    group = m.pop_mark()
    m.store(group)


def _append_group(m: Machine) -> None:
    group = m.pop_mark()
    m.append(group)


def _new_dict(m: Machine) -> None:
    group = m.pop_mark()
    m.push({}, 64)
    m.store(group)


def _new_sequence(m: Machine, make: Callable[[list[Node]], Node]) -> None:
    group = m.pop_mark()
    m.push(make(group), 56 + 8 * len(group))


def _pop_any(m: Machine) -> None:
    # POP on an empty group discards the mark, as in CPython.
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _protocol(m: Machine) -> None:
    version = m.take(1)[0]
    if version > 5:
        raise PickleError(f"protocol {version} is not known")


OPERATIONS: dict[bytes, Callable[[Machine], None]] = {
    # Structure.
    b"\x80": _protocol,
    b"\x95": lambda m: m.window.skip(8),  # FRAME: a hint for buffering
    b"(": Machine.mark,
    b"0": _pop_any,
    b"1": lambda m: m.pop_mark().clear(),
    b"2": lambda m: m.push(m.top(), 8),
    # Memo.
    b"p": lambda m: m.remember(_index(m)),
    b"q": lambda m: m.remember(_unsigned(m, 1)),
    b"r": lambda m: m.remember(_unsigned(m, 4)),
    b"\x94": lambda m: m.remember(),
    b"g": lambda m: m.recall(_index(m)),
    b"h": lambda m: m.recall(_unsigned(m, 1)),
    b"j": lambda m: m.recall(_unsigned(m, 4)),
    # Scalars.
    b"N": lambda m: m.push(None, 8),
    b"\x88": lambda m: m.push(True, 8),
    b"\x89": lambda m: m.push(False, 8),
    b"I": _integer_line,
    b"L": lambda m: m.sized(_number(m.window.line().rstrip(b"L"), int)),
    b"J": lambda m: m.push(_signed(m, 4)),
    b"K": lambda m: m.push(m.take(1)[0], 8),
    b"M": lambda m: m.push(_unsigned(m, 2)),
    b"\x8a": lambda m: _big_integer(m, _unsigned(m, 1)),
    b"\x8b": lambda m: _big_integer(m, _length4(m)),
    b"F": lambda m: m.push(_number(m.window.line(), float)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # Texts and bytes.
    b"S": _quoted_line,
    b"T": lambda m: m.string(_length4(m), "bytes", _python2_text),
    b"U": lambda m: m.string(_unsigned(m, 1), "text", _python2_text),
    b"V": lambda m: m.sized(_decoded(m.window.line(), "raw-unicode-escape")),
    b"X": lambda m: _text(m, _unsigned(m, 4)),
    b"\x8c": lambda m: _text(m, _unsigned(m, 1)),
    b"\x8d": lambda m: _text(m, _unsigned(m, 8)),
    b"B": lambda m: m.byte_string(_unsigned(m, 4)),
    b"C": lambda m: m.byte_string(_unsigned(m, 1)),
    b"\x8e": lambda m: m.byte_string(_unsigned(m, 8)),
    b"\x96": lambda m: m.byte_string(_unsigned(m, 8)),
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
    b"c": lambda m: m.push(_global_lines(m), 64),
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _new_object,
    b"\x92": _new_object_with_keywords,
    b"o": _object,
    b"i": _instance,
    b"b": Machine.build,
    b"P": lambda m: m.persist(_name_line(m)),
    b"Q": lambda m: m.persist(m.pop()),
}
"""Every opcode but STOP. Extension codes and out-of-band buffers point out of the file: refused."""
