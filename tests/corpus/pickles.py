"""Pickles that are malformed, that would run code, and checkpoints of circles, claims and lies."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from corpus.calls import Id, Made, dumped

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Planter:
    """Pickles as a call of os.system that would create a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def texts(*values: str) -> bytes:
    return b"".join(b"X" + struct.pack("<I", len(v)) + v.encode() for v in values)


def planted(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Yield pickles that create `marker` under pickle.load, in every way a pickle can call."""
    command = f"touch {marker}"
    code = f"__import__('os').system({command!r})"
    for protocol in PROTOCOLS:
        yield f"reduce-{protocol}", pickle.dumps(Planter(marker), protocol)
    targets = [
        "os.system",
        "posix.system",
        "subprocess.getoutput",
        "builtins.eval",
        "builtins.exec",
    ]
    for target in targets:
        module, name = target.split(".")
        argument = texts(code if module == "builtins" else command)
        by_line = f"c{module}\n{name}\n".encode()
        by_stack = texts(module, name) + b"\x93"
        for how, function in (("global", by_line), ("stack-global", by_stack)):
            yield f"{target}-{how}-reduce", function + argument + b"\x85R."
            yield f"{target}-{how}-obj", b"(" + function + argument + b"o."
            yield f"{target}-{how}-newobj", function + argument + b"\x85\x81."
            yield f"{target}-{how}-newobj-ex", function + argument + b"\x85}\x92."
            yield f"{target}-{how}-memo", function + b"q\x000h\x00" + argument + b"\x85R."
            yield f"{target}-{how}-key", b"}" + function + argument + b"\x85RK\x01s."
            yield f"{target}-{how}-item", b"}K\x01" + function + argument + b"\x85Rs."
            yield f"{target}-{how}-popped", function + argument + b"\x85R0N."
            yield f"{target}-{how}-persistent", function + argument + b"\x85RQ."
            yield f"{target}-{how}-nested", b"](" + function + argument + b"\x85R" + b"e."
        yield f"{target}-inst", b"(" + argument + f"i{module}\n{name}\n.".encode()
    system = b"cos\nsystem\n"
    touch = texts(command)
    mapped = b"cbuiltins\nlist\ncbuiltins\nmap\n" + system + b"](" + touch + b"e\x86R\x85R."
    yield "map", mapped
    attribute = b"cbuiltins\ngetattr\ncos\nsystem\n" + texts("__call__") + b"\x86R"
    yield "getattr", attribute + touch + b"\x85R."
    yield "dotted", texts("os", "system.__call__") + b"\x93" + touch + b"\x85R."
    instance = b"ccollections\nOrderedDict\n)R"
    setstate = b"}" + texts("__setstate__") + system + b"s"
    yield "build-setstate", instance + setstate + b"b" + touch + b"b."
    yield "build-slots", instance + b"N" + setstate + b"\x86b" + touch + b"b."
    yield "append", b"cfileinput\nFileInput\n)R" + touch + b"a."
    yield "extension", b"\x82\x01" + touch + b"\x85R."


def torch_zip(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        out.writestr("archive/data.pkl", pickled)
        out.writestr("archive/data/0", bytes(16))
    return buffer.getvalue()


def torch_legacy(pickled: bytes) -> bytes:
    magic, version = 0x1950A86A20F9469CFC6C, 1001
    header = (magic, version, {"protocol_version": version, "little_endian": True})
    return b"".join(pickle.dumps(p, 2) for p in header) + pickled + pickle.dumps([], 2)


def legacy_with_storage(pickled: bytes) -> bytes:
    """A legacy file whose storage 0 has four floats, as most of the cases say."""
    head = torch_legacy(pickled).removesuffix(pickle.dumps([], 2))
    return head + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16)


MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is truncated"),
    "ext1": (b"\x82\x01.", "unsupported opcode"),
    "ext2": (b"\x83\x01\x00.", "unsupported opcode"),
    "ext4": (b"\x84\x01\x00\x00\x00.", "unsupported opcode"),
    "next-buffer": (b"\x97.", "unsupported opcode"),
    "readonly-buffer": (b"N\x98.", "unsupported opcode"),
    "unknown-opcode": (b"\xff.", "unsupported opcode"),
    "protocol-6": (b"\x80\x06N.", "protocol 6 is not known"),
    "stop-at-once": (b".", "does not end with one object"),
    "two-objects": (b"NN.", "does not end with one object"),
    "open-mark": (b"N(.", "does not end with one object"),
    "memo-bomb-get": (b"j\xff\xff\xff\xff.", "its memo has no object 4294967295"),
    "memo-empty-put": (b"r\xff\xff\xff\xff.", "its stack is empty"),
    "memo-beyond-32-bits": (b"Np4294967296\n.", "its memo has no place 4294967296"),
    "memo-negative": (b"Np-1\n.", "its memo has no place -1"),
    "memo-get-negative": (b"Nq\x00g-1\n.", "its memo has no object -1"),
    "memo-of-text": (b"Npx\n.", "b'x' is not a number"),
    "memo-of-5000-digits": (b"Np" + b"9" * 5000 + b"\n.", "is not a number"),
    "integer-of-5000-digits": (b"I" + b"9" * 5000 + b"\n.", "is not a number"),
    "long-of-5000-digits": (b"L" + b"9" * 5000 + b"L\n.", "is not a number"),
    "integer-of-text": (b"Iabc\n.", "b'abc' is not a number"),
    "integer-of-nul": (b"I1\x00\n.", "is not a number"),
    "float-of-text": (b"Fabc\n.", "b'abc' is not a number"),
    "line-without-end": (b"I123", "a line does not end"),
    "line-of-a-megabyte": (b"V" + b"x" * 1_000_000 + b"\n.", "a line is longer than 65536 bytes"),
    "unquoted": (b"Sabc\n.", "a text is not quoted"),
    "half-quoted": (b"S'abc\"\n.", "a text is not quoted"),
    "quote-only": (b"S'\n.", "a text is not quoted"),
    "unknown-escape": (b"S'\\q'\n.", "a malformed escape"),
    "octal-escape-too-large": (b"S'\\777'\n.", "a malformed escape"),
    "hex-escape-cut": (b"S'\\x4'\n.", "a malformed escape"),
    "escape-at-the-end": (b"S'a\\'\n.", "a malformed escape"),
    "unicode-escape-cut": (b"V\\u12\n.", "a text is not raw-unicode-escape"),
    "unicode-escape-too-large": (b"V\\U00110000\n.", "a text is not raw-unicode-escape"),
    "text-not-utf8": (b"X\x01\x00\x00\x00\xff.", "a text is not utf-8"),
    "global-not-utf8": (b"c\xff\nx\n.", "a text is not utf-8"),
    "persistent-not-utf8": (b"P\xff\n.", "a text is not utf-8"),
    "global-of-one-line": (b"cos\n", "a line does not end"),
    "negative-bytes": (b"T\xff\xff\xff\xff.", "a length is negative: -1"),
    "negative-long": (b"\x8b\x00\x00\x00\x80.", "a length is negative"),
    "stack-global-of-numbers": (b"K\x01K\x02\x93.", "a global is not named by texts"),
    "stack-global-of-bytes": (b"C\x01aC\x01b\x93.", "a global is not named by texts"),
    "obj-without-class": (b"(o.", "an object has no class"),
    "key-without-value": (b"}(Nu.", "a key but no value"),
    "dict-without-value": (b"(Nd.", "a key but no value"),
    "items-on-a-list": (b"]NNs.", "items are set on something that takes none"),
    "items-on-none": (b"N(NNu.", "items are set on something that takes none"),
    "items-on-a-global": (b"ca\nb\nNNs.", "items are set on something that takes none"),
    "append-to-a-dict": (b"}Na.", "elements are appended to something that takes none"),
    "append-to-a-tuple": (b")(Ne.", "elements are appended to something that takes none"),
    "append-to-a-persistent": (b"NQNa.", "elements are appended to something that takes none"),
    "build-on-a-global": (b"ca\nb\nNb.", "state is set on something that has none"),
    "build-on-a-dict": (b"}}b.", "state is set on something that has none"),
    "build-on-a-persistent": (b"NQ}b.", "state is set on something that has none"),
    "build-on-none": (b"NNb.", "state is set on something that has none"),
    "build-on-nothing": (b"Nb.", "its stack is empty"),
    "build-twice": (b"N)R}b}b.", "state is set twice"),
    "extra-items-in-a-dict": (b"}NNNu.", "it has no mark to go back to"),
    **{
        f"stack-empty-{pickletools.code2op[chr(c)].name}": (
            bytes([c]) + b"a\na\n.",
            "its stack is empty|no mark to go back to",
        )
        for c in b"0\x85\x86\x87R\x81\x92baesu\x90dtlo1\x91\x932Q"
    },
    **{
        f"gigabytes-{pickletools.code2op[chr(code)].name}": (
            bytes([code]) + claim + b"x.",
            "it is truncated",
        )
        for code, claim in [
            (ord("T"), b"\xff\xff\xff\x7f"),
            (ord("X"), b"\xff\xff\xff\xff"),
            (ord("B"), b"\xff\xff\xff\xff"),
            (ord("U"), b"\xff"),
            (ord("C"), b"\xff"),
            (0x8A, b"\xff"),
            (0x8B, b"\xff\xff\xff\x7f"),
            (0x8C, b"\xff"),
            (0x8D, b"\xff" * 8),
            (0x8E, b"\xff" * 7 + b"\x7f"),
            (0x96, b"\xff" * 8),
        ]
    },
}


def deep(kind: str, depth: int) -> bytes:
    call = b"N)R"
    parts = {
        "tuples": (b"N", b"\x85" * depth),
        "lists": (b"]" * depth, b"a" * (depth - 1)),
        "dict-values": (b"}" + b"N}" * depth, b"s" * depth),
        "dict-key": (b"}N" + b"\x85" * depth, b"Ns"),
        "functions": (b"N", b")R" * depth),
        "arguments": (b"ca\nb\nq\x000" + b"h\x00" * depth + b"N", b"\x85R" * depth),
        "persistents": (b"N", b"Q" * depth),
        "states": (call * depth, b"b" * (depth - 1)),
        "elements": (call * depth, b"a" * (depth - 1)),
        "items": (call + (b"N" + call) * depth, b"s" * depth),
        "marks": (b"(" * depth, b"t" * depth),
    }
    return b"".join(parts[kind]) + b"."


DEPTHS = {
    **dict.fromkeys(("tuples", "lists", "dict-key", "functions"), 1_000_000),
    # A million of these would take more than the limit, or much time.
    **dict.fromkeys(("dict-values", "marks", "persistents", "arguments"), 300_000),
    **dict.fromkeys(("states", "elements", "items"), 300_000),
}
READABLE = "holds no state dict"
"""What is said of a pickle that is in order, but holds no tensors."""
OVER = "its objects would take more than 128 MB"
DEEP: dict[str, tuple[Callable[[], bytes], str]] = {
    **{
        f"deep-{kind}": (lambda k=kind, d=depth: deep(k, d), READABLE)  # type: ignore[misc]
        for kind, depth in DEPTHS.items()
    },
    "deep-dict-values-of-all-memory": (lambda: deep("dict-values", 2_000_000), OVER),
}


def numbered(unit: bytes, count: int) -> Iterable[bytes]:
    return (unit % struct.pack("<I", 2 * i + 1) for i in range(count))


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "tuple-of-nones": (lambda: b"(" + b"N" * 9_000_000 + b"t.", OVER),
    "memo-puts": (lambda: b"N" + b"\x94" * 4_000_000 + b".", READABLE),
    "memo-scattered": (lambda: b"N" + b"".join(numbered(b"r%b", 1_200_000)), OVER),
    "marks": (lambda: b"(" * 10_000_000, OVER),
    "lists": (lambda: b"]" * 10_000_000, OVER),
    "dict-of-integers": (lambda: b"}" + b"".join(numbered(b"J%bNs", 1_200_000)), OVER),
    "wide-texts": (
        lambda: (b"X" + struct.pack("<I", 1_000_000) + b"a" * 999_996 + "😀".encode()) * 60,
        OVER,
    ),
}


def tensor(**changes: object) -> Made:
    said = {"key": "0", "numel": 4, "offset": 0, "shape": (4,), "stride": (1,), "kind": None}
    said |= {"bits": OrderedDict(), **changes}
    storage = Id(("storage", said["kind"] or torch.FloatStorage, said["key"], "cpu", said["numel"]))
    arguments = (storage, said["offset"], said["shape"], said["stride"], False, OrderedDict())
    extra = (said["bits"],) if said["bits"] else ()
    return Made(torch._utils._rebuild_tensor_v2, *arguments, *extra)


def module(
    parameters: object = None, modules: object = None, buffers: object = None, **more: object
) -> Made:
    parts = {"_parameters": parameters, "_buffers": buffers, "_modules": modules}
    state = {name: {} if part is None else part for name, part in parts.items()}
    return Made(torch.nn.Module, state={**state, **more})


def with_itself(make: Callable[[Any], Any], container: Any) -> Any:
    make(container)
    return container


def circular_module() -> Made:
    inner: dict[str, object] = {}
    outer = module({"w": tensor()}, inner)
    inner["again"] = outer
    return outer


def doubled(levels: int, make: Callable[[Any], Any], last: Any) -> Any:
    for _ in range(levels):
        last = make(last)
    return last


def inside(inner: Made, _: object) -> Made:
    return module(modules={"a": inner})


def enumerate_as_text(values: Iterable[object]) -> Iterator[tuple[str, object]]:
    return ((str(i), value) for i, value in enumerate(values))


def nested_call(path: str, inside: bytes, depth: int) -> bytes:
    """Raw: `path(path(…inside…))`."""
    package, name = path.rsplit(".", 1)
    function = f"c{package}\n{name}\n".encode() + b"r\x00\x00\x00\x700"
    return function + b"j\x00\x00\x00\x70" * depth + inside + b"\x85R" * depth


W = {"w": tensor()}

LONG = "n" * 1_000_000

PARAMETER = "torch._utils._rebuild_parameter"

NESTED = (
    "holds more names than any model|has names longer than any model's|more than 131072 tensors"
)

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "list-in-itself": (lambda: dumped(with_itself(lambda x: x.append(x), [])), "no state dict"),
    "dict-in-itself": (lambda: dumped(with_itself(lambda x: x.update(a=x), {})), "no state dict"),
    "dict-in-itself-100-times": (
        lambda: dumped(with_itself(lambda x: x.update({str(i): x for i in range(100)}), {})),
        NESTED,
    ),
    "dicts-shared-60-levels": (
        lambda: dumped(doubled(60, lambda d: {"a": d, "b": d}, W)),
        "no state dict",
    ),
    "dicts-shared-widely": (
        lambda: dumped(doubled(5, lambda d: {str(i): d for i in range(100)}, W)),
        NESTED,
    ),
    "module-in-itself": (lambda: dumped(circular_module()), "deeper than 200, or in a circle"),
    "modules-shared-60-levels": (
        lambda: dumped(doubled(60, lambda m: module(modules={"a": m, "b": m}), module())),
        NESTED,
    ),
    "modules-nested-210-deep": (
        # From the inside out: pickle itself cannot nest that far.
        lambda: dumped(dict(enumerate_as_text(accumulate([{}] * 210, inside, initial=module(W))))),
        "deeper than 200",
    ),
    "modules-with-many-transients": (
        lambda: dumped(
            [
                shared := [str(i) for i in range(50_000)],
                module(
                    modules={
                        str(i): module(_non_persistent_buffers_set=shared) for i in range(1000)
                    }
                ),
            ][1]
        ),
        NESTED,
    ),
    "module-names-of-a-megabyte": (
        lambda: dumped(doubled(50, lambda m: module(modules={LONG: m}), module(W))),
        "names longer than any model's",
    ),
    "entry-names-of-a-megabyte": (
        lambda: dumped({LONG: {**{str(i): 0 for i in range(1000)}, "model": W}}),
        "names longer than any model's",
    ),
    "many-entries": (
        lambda: dumped({**{str(i): 0 for i in range(131_100)}, "w": tensor()}),
        "more than 131072 tensors and other entries",
    ),
    "many-state-dicts": (
        lambda: dumped([shared := tensor(), {str(i): {f"w{i}": shared} for i in range(20_000)}][1]),
        r"and 19992 more; choose one",
    ),
    "ordered-dict-of-odd-pairs": (
        lambda: dumped(Made(OrderedDict, [[1], 2, [[], tensor()], [1.5, 1], ["w", tensor()]])),
        "a dictionary is made of something other than pairs",
    ),
    "sets-nested": (
        lambda: dumped(
            module(W, _non_persistent_buffers_set=Id("SETS")),
            {"SETS": nested_call("builtins.set", b"]", 200_000)},
        ),
        "",
    ),
    "parameters-nested": (
        lambda: dumped({**W, "v": Id("NEST")}, {"NEST": nested_call(PARAMETER, b"N", 300_000)}),
        "tensor 'v' cannot be read: it is wrapped in more than 16 calls",
    ),
    "deep-metadata-of-a-tensor": (
        lambda: dumped({"w": tensor(bits={str(i): True for i in range(50)})}),
        "it is marked with 50 bits",
    ),
    "integer-of-a-megabyte": (lambda: dumped({**W, "n": 1 << 8_000_000}), ""),
    "integer-of-5000-digits": (lambda: dumped({**W, "n": 10**5000}), ""),
    "deep-entry": (
        lambda: dumped({**W, "n": Id("DEEP")}, {"DEEP": b"N" + b"\x85" * 100_000}),
        "",
    ),
    "text-of-a-megabyte": (lambda: dumped({**W, "n": LONG, "m": LONG.encode()}), ""),
    # Records of tensors and storages.
    "name-is-a-surrogate": (
        lambda: dumped({"\ud800": tensor()}),
        r"tensor '\\ud800' cannot be written: its name is not valid Unicode text",
    ),
    "name-is-reserved": (
        lambda: dumped({"__metadata__": tensor()}),
        "its name is reserved by safetensors",
    ),
    "storage-of-unknown-type": (
        lambda: dumped({"w": tensor(kind=torch.nn.Module)}),
        "has the unknown type 'torch.nn.modules.module.Module'",
    ),
    "storage-id-of-text": (
        lambda: dumped({"w": Made(torch._utils._rebuild_tensor_v2, Id("x"), 0, (), ())}),
        "named in pickle protocol 0",
    ),
    "storage-id-too-short": (
        lambda: dumped({"w": Made(torch._utils._rebuild_tensor_v2, Id(("storage",)), 0, (), ())}),
        "a storage's id has 1 parts",
    ),
    "storage-id-of-another-kind": (
        lambda: dumped({"w": Made(torch._utils._rebuild_tensor_v2, Id(("x", 1)), 0, (), ())}),
        "its rebuilder is not given a storage",
    ),
    "storage-id-empty": (
        lambda: dumped({"w": Made(torch._utils._rebuild_tensor_v2, Id(()), 0, (), ())}),
        "its rebuilder is not given a storage",
    ),
    "storage-key-is-a-number": (
        lambda: dumped({"w": tensor(key=1)}),
        "does not name its type and its key",
    ),
    "storage-key-of-a-megabyte": (
        lambda: dumped({"w": tensor(key=LONG)}),
        "does not name its type and its key",
    ),
    "storage-key-climbs": (lambda: dumped({"w": tensor(key="../0")}), "'../0' is not in the file"),
    "storage-numel-negative": (lambda: dumped({"w": tensor(numel=-1)}), "is not a natural number"),
    "storage-numel-is-a-float": (lambda: dumped({"w": tensor(numel=4.0)}), "not a natural number"),
    "storage-numel-huge": (
        lambda: dumped({"w": tensor(numel=2**62)}),
        "storage '0' has 16 bytes, but is declared with|is not in the file",
    ),
    "rebuilder-without-arguments": (
        lambda: dumped({"w": Made(torch._utils._rebuild_tensor_v2)}),
        "its rebuilder lacks arguments",
    ),
    "offset-negative": (lambda: dumped({"w": tensor(offset=-1)}), "its offset is not a natural"),
    "two-types": (
        lambda: dumped({"w": tensor(), "v": tensor(kind=torch.IntStorage)}),
        "storage '0' is declared with two sizes or types",
    ),
    "two-sizes": (
        lambda: dumped({"w": tensor(), "v": tensor(numel=3, shape=(3,))}),
        "storage '0' is declared with two sizes or types",
    ),
    "offset-too-far": (lambda: dumped({"w": tensor(offset=1)}), "reaches byte 20 of storage '0'"),
    "offset-huge": (lambda: dumped({"w": tensor(offset=2**63)}), "its offset is not a natural"),
    "offset-far-of-an-empty": (
        lambda: dumped({"w": tensor(offset=5, shape=(0,))}),
        "reaches byte 20 of storage '0'",
    ),
    "shape-too-large": (lambda: dumped({"w": tensor(shape=(5,))}), "reaches byte 20 of storage"),
    "shape-negative": (lambda: dumped({"w": tensor(shape=(-4,))}), "one of its sizes is not a nat"),
    "shape-of-bools": (lambda: dumped({"w": tensor(shape=(True,))}), "one of its sizes is not"),
    "shape-overflows": (
        lambda: dumped({"w": tensor(shape=(2**40, 2**40), stride=(0, 0))}),
        "its size, .*, overflows",
    ),
    "shape-overflows-before-a-0": (
        lambda: dumped({"w": tensor(shape=(2**40, 2**40, 0), stride=(0, 0, 0))}),
        "its size, .*, overflows",
    ),
    "shape-is-a-number": (lambda: dumped({"w": tensor(shape=4)}), "its sizes are not a tuple"),
    "shape-is-a-circle": (
        lambda: dumped({"w": tensor(shape=with_itself(lambda x: x.append(x), []), stride=(1,))}),
        "its sizes or strides are a list",
    ),
    "shape-is-a-size-of-nothing": (
        lambda: dumped({"w": tensor(shape=Made(torch.Size, 4))}),
        "its sizes are not a tuple",
    ),
    "shape-of-65-axes": (
        lambda: dumped({"w": tensor(shape=(1,) * 65, stride=(1,) * 65)}),
        "its sizes are not a tuple of at most 64 numbers",
    ),
    "strides-too-few": (lambda: dumped({"w": tensor(stride=())}), "1 sizes, but 0 strides"),
    "strides-negative": (lambda: dumped({"w": tensor(stride=(-1,))}), "one of its strides is not"),
    "strides-too-far": (lambda: dumped({"w": tensor(stride=(2,))}), "reaches byte 28 of storage"),
    "strides-huge": (
        lambda: dumped({"w": tensor(stride=(2**62,))}),
        r"reaches byte \d+ of storage '0', which has 16",
    ),
    "conjugated-reals": (
        lambda: dumped({"w": tensor(bits={"conj": True})}),
        "a bit that F32 cannot have",
    ),
    "negated-by-false": (
        lambda: dumped({"w": tensor(bits={"neg": False})}),
        "marked with a bit that is not set",
    ),
    "negated-bytes": (
        lambda: dumped({"w": tensor(kind=torch.ByteStorage, numel=16, bits={"neg": True})}),
        "a bit that U8 cannot have",
    ),
    "unknown-bit": (lambda: dumped({"w": tensor(bits={"x": True})}), "a bit that F32 cannot have"),
    "bits-are-no-dict": (lambda: dumped({"w": tensor(bits=[1])}), ""),
    "dtype-is-not-torch's": (
        lambda: dumped(
            {
                "w": Made(
                    torch._utils._rebuild_tensor_v3,
                    *(Id(("storage", torch.UntypedStorage, "0", "cpu", 16)), 0, (4,), (1,), False),
                    *(OrderedDict(), os.path.join),
                )
            }
        ),
        "its dtype is not named",
    ),
    "negated-in-v3": (
        lambda: dumped(
            {
                "w": Made(
                    torch._utils._rebuild_tensor_v3,
                    *(Id(("storage", torch.UntypedStorage, "0", "cpu", 16)), 0, (4,), (1,), False),
                    *(OrderedDict(), torch.uint16, {"neg": True}),
                )
            }
        ),
        "a bit that U16 cannot have",
    ),
    "arguments-are-no-tuple": (
        lambda: dumped({**W, "v": Id("CALL")}, {"CALL": b"ctorch._utils\n_rebuild_tensor_v2\nNR"}),
        "'v' cannot be read: the arguments of its rebuilder are not a tuple",
    ),
    "size-with-arguments-of-none": (
        lambda: dumped({"w": tensor(shape=Id("CALL"))}, {"CALL": b"ctorch\nSize\nK\x01R"}),
        "its sizes are not a tuple",
    ),
    "parameter-without-arguments": (
        lambda: dumped({**W, "p": Made(torch._utils._rebuild_parameter)}),
        "",
    ),
    "type-without-arguments": (
        lambda: dumped({**W, "p": Made(torch._tensor._rebuild_from_type_v2, 1)}),
        "",
    ),
    "module-of-a-tuple-state": (
        lambda: dumped({**W, "m": Made(torch.nn.Module, state=({}, {}))}),
        "",
    ),
}

COSTLY = {
    "dict-in-itself-100-times",
    "dicts-shared-widely",
    "modules-shared-60-levels",
    "modules-with-many-transients",
    "many-entries",
    "many-state-dicts",
    "entry-names-of-a-megabyte",
    "module-names-of-a-megabyte",
    "sets-nested",
    "parameters-nested",
    "integer-of-a-megabyte",
}
