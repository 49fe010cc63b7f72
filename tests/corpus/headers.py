"""safetensors files that break the format's rules: their header, their names, their places."""

from __future__ import annotations

import json
import struct


def file_bytes(header: bytes | str | dict[str, object], data: bytes = b"") -> bytes:
    if isinstance(header, dict):
        header = json.dumps(header)
    raw = header.encode("utf-8") if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str, shape: list[object], begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = entry("F32", [2], 0, 8)

X = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


def with_x(value: str) -> str:
    return f'{{"x":{value}}}'


MALFORMED = {
    # The length and the JSON.
    "header-beyond-the-file": (struct.pack("<Q", 11) + b'{"a":1}', "beyond the file's 15 bytes"),
    "header-over-100-MB": (struct.pack("<Q", 100_000_001) + b"{", "over the format's limit"),
    "header-of-100-MB": (struct.pack("<Q", 100_000_000) + b"{", "reaches beyond the file's 9 byt"),
    "header-of-all-bits": (b"\xff" * 8 + b"{}", "over the format's limit"),
    "no-header": (struct.pack("<Q", 0), "does not start with '{'"),
    "not-json": (file_bytes("{this is not JSON}"), "malformed at byte 1: expected text, found 't'"),
    "not-utf8": (file_bytes(b'{"\xff":' + X.encode() + b"}", bytes(8)), "is not UTF-8"),
    "cut-utf8": (file_bytes(b'{"a\xf0\x9f'), "is not UTF-8"),
    "a-list": (file_bytes("[]"), "does not start with '{'"),
    "leading-blank": (file_bytes(" {}"), "does not start with '{'"),
    "leading-bom": (file_bytes("\ufeff{}"), "does not start with '{'"),
    "unfinished": (file_bytes('{"x":' + X, bytes(8)), "expected '}', found the end"),
    "text-after-it": (file_bytes("{}{}"), "expected its end, found '{'"),
    "comma-at-its-end": (file_bytes('{"x":' + X + ",}", bytes(8)), "expected text, found '}'"),
    "comma-at-its-start": (file_bytes('{,"x":' + X + "}", bytes(8)), "expected text, found ','"),
    "no-colon": (file_bytes('{"x"' + X + "}", bytes(8)), "expected ':', found '{'"),
    "single-quotes": (file_bytes("{'x':1}"), "expected text"),
    "control-character": (file_bytes('{"a\n":' + X + "}", bytes(8)), "expected text"),
    "unknown-escape": (file_bytes('{"a\\q":' + X + "}", bytes(8)), "expected text"),
    "short-escape": (file_bytes('{"a\\u12":' + X + "}", bytes(8)), "expected text"),
    "lone-high-surrogate": (file_bytes('{"\\ud800":' + X + "}", bytes(8)), "expected text"),
    "lone-low-surrogate": (file_bytes('{"\\udc00":' + X + "}", bytes(8)), "expected text"),
    "swapped-surrogates": (file_bytes('{"\\udc00\\ud800":' + X + "}", bytes(8)), "expected text"),
    "raw-surrogate": (file_bytes(b'{"\xed\xa0\x80":1}'), "is not UTF-8"),
    # Names.
    "duplicate-name": (file_bytes(f'{{"x":{X},"x":{X}}}', bytes(8)), "names 'x' twice"),
    "duplicate-escaped": (file_bytes(f'{{"x":{X},"\\u0078":{X}}}', bytes(8)), "names 'x' twice"),
    "duplicate-metadata": (
        file_bytes('{"__metadata__":{},"__metadata__":{}}'),
        "names '__metadata__' twice",
    ),
    "duplicate-field": (
        file_bytes(with_x(X[:-1] + ',"shape":[2]}'), bytes(8)),
        "has the fields 'dtype', 'shape', 'data_offsets', 'shape'",
    ),
    "missing-field": (file_bytes(with_x('{"dtype":"F32"}')), "has the fields 'dtype', expected"),
    "no-fields": (file_bytes(with_x("{}")), "has the fields none, expected"),
    "entry-is-a-list": (file_bytes(with_x('["F32",[2],[0,8]]'), bytes(8)), "expected a tensor's"),
    "entry-is-null": (file_bytes(with_x("null")), "expected a tensor's entry"),
    "entry-nests": (file_bytes(with_x('{"dtype":{}}')), "expected a tensor's entry"),
    "entry-of-a-megabyte": (
        file_bytes(with_x('{"dtype":"' + "F" * 1_000_000 + '"}')),
        "expected a tensor's entry",
    ),
    # Dtypes, shapes, offsets.
    "unknown-dtype": (file_bytes({"x": entry("F33", [2], 0, 8)}, bytes(8)), "unknown dtype 'F33'"),
    "dtype-in-lower-case": (file_bytes({"x": entry("f32", [2], 0, 8)}, bytes(8)), "unknown dtype"),
    "dtype-is-a-number": (
        file_bytes(with_x('{"dtype":1,"shape":[2],"data_offsets":[0,8]}'), bytes(8)),
        r"unknown dtype \(not text\)",
    ),
    "negative-size": (file_bytes({"x": entry("F32", [-2], 0, 8)}, bytes(8)), "-2 is negative"),
    "minus-zero": (file_bytes(with_x(X.replace("[2]", "[-0]"))), "-0 is negative"),
    "negative-offset": (file_bytes({"x": entry("F32", [2], -8, 0)}, bytes(8)), "-8 is negative"),
    "size-of-65-bits": (
        file_bytes({"x": entry("F32", [2**64], 0, 8)}, bytes(8)),
        "18446744073709551616 does not fit in 64 bits",
    ),
    "size-of-5000-digits": (
        file_bytes(with_x(X.replace("[2]", f"[{'9' * 4000}]"))),
        "does not fit in 64 bits",
    ),
    "overflow": (file_bytes({"x": entry("F32", [2**40, 2**40], 0, 8)}, bytes(8)), "overflows"),
    "overflow-in-bytes": (file_bytes({"x": entry("F32", [2**62], 0, 8)}, bytes(8)), "overflows"),
    "overflow-before-a-zero": (
        file_bytes({"x": entry("F32", [2**63, 2**63, 0], 0, 0)}),
        r"overflows",
    ),
    "size-is-a-float": (file_bytes({"x": entry("F32", [2.0], 0, 8)}, bytes(8)), "not a list of"),
    "size-is-an-exponent": (file_bytes(with_x(X.replace("[2]", "[2e0]"))), "not a list of"),
    "size-is-a-bool": (file_bytes({"x": entry("F32", [True], 0, 4)}, bytes(4)), "not a list of"),
    "size-is-text": (file_bytes({"x": entry("F32", ["2"], 0, 8)}, bytes(8)), "not a list of"),
    "size-is-nan": (file_bytes(with_x(X.replace("[2]", "[NaN]"))), "not a list of"),
    "size-with-a-leading-0": (file_bytes(with_x(X.replace("[2]", "[02]"))), "entry of 'x' is malf"),
    "shape-is-null": (file_bytes(with_x(X.replace("[2]", "null"))), "not a list of"),
    "offsets-are-floats": (
        file_bytes({"x": entry("F32", [2], 0.0, 8.0)}, bytes(8)),
        "data_offsets of 'x' is not a list",
    ),
    "three-offsets": (file_bytes(with_x(X.replace("[0,8]", "[0,8,8]"))), "expected .begin, end."),
    "one-offset": (file_bytes(with_x(X.replace("[0,8]", "[8]"))), "expected .begin, end."),
    "offsets-swapped": (file_bytes({"x": entry("F32", [2], 8, 0)}, bytes(8)), "expected .begin"),
    "65-axes": (file_bytes({"x": entry("U8", [1] * 65, 0, 1)}, b"0"), "65 numbers in shape"),
    "size-mismatch": (
        file_bytes({"x": entry("F32", [3], 0, 8)}, bytes(8)),
        r"'x' has 8 bytes, but F32 \[3\] needs 12",
    ),
    "packed-not-whole-bytes": (
        file_bytes({"x": entry("F4", [3], 0, 2)}, bytes(2)),
        r"'x' has 2 bytes, but F4 \[3\] needs 1.5",
    ),
    "packed-not-whole-bytes-cut": (
        file_bytes({"x": entry("F4", [3], 0, 1)}, bytes(1)),
        r"'x' has 1 bytes, but F4 \[3\] needs 1.5",
    ),
    # The data.
    "hole-at-the-start": (
        file_bytes({"x": entry("F32", [2], 4, 12)}, bytes(12)),
        "a hole before 'x'",
    ),
    "hole-between": (
        file_bytes({"x": GOOD, "y": entry("F32", [1], 12, 16)}, bytes(16)),
        "a hole before 'y'",
    ),
    "overlap": (
        file_bytes({"x": GOOD, "y": entry("F32", [2], 4, 12)}, bytes(12)),
        "an overlap at 'y'",
    ),
    "same-place": (file_bytes({"x": GOOD, "y": GOOD}, bytes(8)), "an overlap at 'y'"),
    "beyond-the-data": (file_bytes({"x": GOOD}, bytes(7)), "it is truncated"),
    "far-beyond-the-data": (
        file_bytes({"x": entry("U8", [2**60], 0, 2**60)}, bytes(7)),
        "it is truncated",
    ),
    "trailing-bytes": (file_bytes({"x": GOOD}, bytes(9)), "bytes follow that belong to no tensor"),
    "only-trailing-bytes": (file_bytes({}, b"x"), "bytes follow that belong to no tensor"),
    # Metadata.
    "metadata-number": (file_bytes({"__metadata__": {"a": 1}}), "expected text, found '1'"),
    "metadata-null": (file_bytes({"__metadata__": {"a": None}}), "expected text, found 'n'"),
    "metadata-nested": (file_bytes({"__metadata__": {"a": {}}}), "expected text, found '{'"),
    "metadata-is-a-list": (file_bytes({"__metadata__": []}), "expected '{'"),
    "metadata-is-cut-null": (file_bytes('{"__metadata__":nul}'), "expected '{', found 'n'"),
    "metadata-is-text": (file_bytes({"__metadata__": "pt"}), "expected '{'"),
    "metadata-duplicate": (
        file_bytes('{"__metadata__":{"a":"1","a":"2"}}'),
        "metadata names 'a' twice",
    ),
    "metadata-unfinished": (file_bytes('{"__metadata__":{"a":"1"'), "expected '}', found the end"),
    "metadata-surrogate": (file_bytes('{"__metadata__":{"a":"\\ud83d"}}'), "expected text"),
    # Nesting and repetition.
    "nested-lists": (file_bytes(with_x("[" * 500_000)), "expected a tensor's entry"),
    "nested-lists-in-an-entry": (
        file_bytes(with_x('{"dtype":' + "[" * 1800 + "]" * 1800 + "}")),
        "entry of 'x' is malformed|has the fields",
    ),
    "nested-objects": (file_bytes('{"x":' * 500_000), "expected a tensor's entry"),
    "nested-dtype": (
        file_bytes(with_x(X.replace('"F32"', "[" * 400 + "]" * 400)), bytes(8)),
        r"unknown dtype \(not text\)",
    ),
    "long-names": (
        file_bytes('{"' + "n" * 30_000_000 + '":' + X + "}", bytes(8)),
        "over 24 MB of names",
    ),
}

STRICTER_THAN_THE_LIBRARY = {
    "leading-blank",
    "duplicate-name",
    "duplicate-escaped",
    "metadata-duplicate",
    "entry-is-a-list",
    "entry-of-a-megabyte",
    "65-axes",
    "long-names",
}
