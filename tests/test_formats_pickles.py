from __future__ import annotations

import argparse
import contextlib
import copyreg
import datetime as dt
import decimal
import functools
import gc
import io
import os
import pickle
import random
import re
import sys
import tracemalloc
import uuid
import warnings
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus.calls import Made, dumped
from corpus.pickles import (
    COSTLY,
    HOSTILE,
    MALFORMED,
    PROTOCOLS,
    circular_module,
    legacy_with_storage,
    planted,
    tensor,
    texts,
    torch_legacy,
    torch_zip,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcn_convert import CheckFailedError, convert
from fcn_convert.cli.inspect_view import about
from fcn_convert.errors import CheckpointError
from fcn_convert.formats import open_checkpoint, pickle_machine, torch_records
from fcn_convert.formats.pickle_machine import MAX_TEXT, PlacedBytes
from fcn_convert.formats.pickles import (
    OPERATIONS,
    Call,
    Global,
    Opaque,
    Persistent,
    Pickle,
    read_pickle,
)
from fcn_convert.formats.source import SourceFile
from fcn_convert.infer.inspection import inspect_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles") / "data.pkl"


def whole(path: Path, raw: bytes) -> Pickle:
    path.write_bytes(raw)
    with SourceFile(path) as file:
        return read_pickle(file, 0, file.size)


def read(path: Path, raw: bytes) -> Any:
    return whole(path, raw).root


def equal(ours: Any, theirs: Any) -> bool:
    """Compare types too, and without recursion, NaN equal to itself."""
    todo = [(ours, theirs)]
    while todo:
        a, b = todo.pop()
        if type(a) is not type(b) and not (type(a) is PlacedBytes and type(b) is bytes):
            return False
        if isinstance(a, dict):
            if list(a) != list(b):
                return False
            todo += zip(a.values(), b.values(), strict=True)
        elif isinstance(a, list | tuple):
            if len(a) != len(b):
                return False
            todo += zip(a, b, strict=True)
        elif a != b and (a == a or b == b):  # noqa: PLR0124 - NaN
            return False
    return True


# Plain data.

KEYS = st.text(max_size=4) | st.binary(max_size=3) | st.integers(-(2**63), 2**63 - 1) | st.none()
DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.floats()
    | st.text(st.characters(), max_size=6)
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(data=DATA, protocol=st.sampled_from([3, 4, 5]), in_python=st.booleans())
def test_plain_data_of_the_standard_library(
    place: Path, data: object, protocol: int, *, in_python: bool
) -> None:
    if in_python:
        buffer = io.BytesIO()
        pickle._Pickler(buffer, protocol).dump(data)  # type: ignore[attr-defined]
        raw = buffer.getvalue()
    else:
        raw = pickle.dumps(data, protocol)
    assert equal(read(place, raw), data)


TEXTS_ONLY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=20,
)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(data=TEXTS_ONLY, protocol=st.sampled_from([0, 1, 2]))
def test_plain_data_in_old_protocols(place: Path, data: object, protocol: int) -> None:
    # Bytes are a call of _codecs.encode there.
    assert equal(read(place, pickle.dumps(data, protocol)), data)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_framed_data(place: Path, protocol: int) -> None:
    shared = [1, 2]
    found = read(place, pickle.dumps({"a": shared, "b": shared, "c": ["x" * 60_000]}, protocol))
    assert found == {"a": [1, 2], "b": [1, 2], "c": ["x" * 60_000]}
    assert found["a"] is found["b"]


@pytest.mark.parametrize("protocol", [4, 5])
def test_sets_are_lists(place: Path, protocol: int) -> None:
    assert sorted(read(place, pickle.dumps({1, 2, 3}, protocol))) == [1, 2, 3]
    assert sorted(read(place, pickle.dumps(frozenset({1, 2}), protocol))) == [1, 2]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(1.5, id="float"),
        pytest.param((1, 2), id="tuple"),
        pytest.param(2**63, id="64-bits"),
        pytest.param(-(2**63) - 1, id="minus-64-bits"),
        pytest.param(int, id="global"),
    ],
)
def test_odd_keys_are_opaque(place: Path, key: object) -> None:
    found = read(place, pickle.dumps({key: "a", "plain": "b"}))
    odd, plain = found
    assert isinstance(odd, Opaque)
    assert plain == "plain"
    assert list(found.values()) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        pytest.param("x" * (MAX_TEXT + 1), "text", id="text"),
        pytest.param(b"x" * (MAX_TEXT + 1), "bytes", id="bytes"),
        pytest.param(bytearray(MAX_TEXT + 1), "bytes", id="bytearray"),
        pytest.param(1 << 8 * MAX_TEXT, "integer", id="integer"),
    ],
)
def test_long_values_are_skipped(place: Path, value: object, kind: str) -> None:
    long, after = read(place, pickle.dumps([value, "after"], 5))
    assert isinstance(long, Opaque)
    assert long.kind == kind
    assert long.nbytes > MAX_TEXT
    assert after == "after"


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        pytest.param(b"S'a\\n\\x41\\101\\'\\\\'\n.", "a\nAA'\\", id="escapes"),
        pytest.param(b'S"\\377"\n.', b"\xff", id="python-2-bytes"),
        pytest.param(b"U\x02\xc3\xa9.", "é", id="python-2-utf8"),
        pytest.param(b"T\x01\x00\x00\x00\xff.", b"\xff", id="python-2-long-bytes"),
        pytest.param(b"V\\u20ac\\U0001f600x\n.", "€😀x", id="unicode-line"),
        pytest.param(b"I01\n.", True, id="old-true"),
        pytest.param(b"I00\n.", False, id="old-false"),
        pytest.param(b"I-7\n.", -7, id="integer-line"),
        pytest.param(b"L123L\n.", 123, id="long-line"),
        pytest.param(b"F1e3\n.", 1000.0, id="float-line"),
        pytest.param(b"\x80\x02\x8a\x00.", 0, id="long-of-no-bytes"),
        pytest.param(b"(K\x01K\x020.", None, id="pop"),
        pytest.param(b"K\x01(K\x02K\x031.", 1, id="pop-mark"),
        pytest.param(b"K\x01(0.", 1, id="pop-an-empty-mark"),
        pytest.param(b"K\x012\x86.", (1, 1), id="dup"),
        pytest.param(b"(K\x01K\x02d.", {1: 2}, id="dict"),
        pytest.param(b"(K\x01K\x02l.", [1, 2], id="list"),
        pytest.param(b"K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.", 5, id="memo-far"),
        pytest.param(b"K\x05q\x020K\x06\x940K\x07\x940h\x01h\x02\x86.", (6, 7), id="memo-mixed"),
        pytest.param(b"K\x05q\x000K\x06q\x000h\x00.", 6, id="memo-overwritten"),
    ],
)
def test_by_hand(place: Path, raw: bytes, value: object) -> None:
    if raw[:2] == b"(K" and raw.endswith(b"0."):
        with pytest.raises(CheckpointError, match="does not end with one object"):
            read(place, raw)
        return
    assert equal(read(place, raw), value)


def test_memo_counts_as_the_standard_library_does(place: Path) -> None:
    # MEMOIZE counts what is in the memo, wherever it lies.
    scattered = b"\x80\x04K\x05r\x09\x00\x00\x000K\x06\x940K\x07\x940h\x01h\x02h\x09\x87."
    assert read(place, scattered) == pickle.loads(scattered) == (6, 7, 5)
    taken_over = b"\x80\x04K\x05q\x010K\x06q\x000K\x07q\x010K\x08\x940h\x01h\x02\x86."
    assert read(place, taken_over) == pickle.loads(taken_over) == (7, 8)
    again = b"\x80\x04K\x05q\x010K\x06q\x000K\x07\x940h\x00h\x01h\x02\x87."
    assert read(place, again) == pickle.loads(again) == (6, 5, 7)


# What a pickle names, calls and instantiates stays a node.


def shape(node: Any) -> Any:
    """Turn placeholders into comparable tuples."""
    if isinstance(node, Call):
        return ("call", shape(node.function), shape(node.arguments))
    if isinstance(node, Global):
        return node.path
    return tuple(map(shape, node)) if isinstance(node, tuple) else node


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b"cos\nsystem\n.", "os.system", id="GLOBAL"),
        pytest.param(b"\x8c\x02os\x8c\x06system\x93.", "os.system", id="STACK_GLOBAL"),
        pytest.param(b"cos\nsystem\n(K\x01tR.", ("call", "os.system", (1,)), id="REDUCE"),
        pytest.param(b"(K\x01ios\nsystem\n.", ("call", "os.system", (1,)), id="INST"),
        pytest.param(b"(cos\nsystem\nK\x01o.", ("call", "os.system", (1,)), id="OBJ"),
        pytest.param(b"cos\nsystem\nK\x01\x85\x81.", ("call", "os.system", (1,)), id="NEWOBJ"),
        pytest.param(
            b"cos\nsystem\nK\x01\x85}\x92.", ("call", "os.system", ((1,), {})), id="NEWOBJ_EX"
        ),
    ],
)
def test_calls_are_inert(place: Path, raw: bytes, expected: object) -> None:
    assert shape(read(place, raw)) == expected


@pytest.mark.parametrize(
    ("raw", "running"),
    [
        pytest.param(b"cos\nsystem\n.", (), id="named-and-not-called"),
        pytest.param(b"cos\nsystem\n(K\x01tR.", ("os.system",), id="REDUCE"),
        pytest.param(b"(K\x01ios\nsystem\n.", ("os.system",), id="INST"),
        pytest.param(b"(cos\nsystem\nK\x01o.", ("os.system",), id="OBJ"),
        pytest.param(b"cos\nsystem\nK\x01\x85\x81.", ("os.system",), id="NEWOBJ"),
        pytest.param(b"cos\nsystem\nK\x01\x85}\x92.", ("os.system",), id="NEWOBJ_EX"),
        pytest.param(b"cos\nsystem\n(K\x01tR0N.", ("os.system",), id="thrown-away"),
        pytest.param(
            b"cos\nsystem\n(K\x01tRcnt\nsystem\n)R\x86.", ("nt.system", "os.system"), id="2"
        ),
        pytest.param(b"c__builtin__\neval\n)R.", ("__builtin__.eval",), id="eval"),
        pytest.param(b"cbuiltins\ngetattr\n)R.", (), id="getattr"),
        pytest.param(b"cbuiltins\nset\n)R.", (), id="set"),
        pytest.param(b"csubprocess\nPopen\n)R.", ("subprocess.Popen",), id="a-class"),
        pytest.param(b"cos.path\njoin\n)R.", ("os.path.join",), id="of-a-module-within"),
        pytest.param(
            b"\x8c\x07logging\x8c\x09os.system\x93)R.", ("logging.os.system",), id="through-another"
        ),
        pytest.param(b"cmy.os\nMine\n)R.", (), id="a-users-module"),
        pytest.param(b"cos_tools\nsystem\n)R.", (), id="a-longer-name"),
    ],
)
def test_calls_that_would_run_something_are_known(
    place: Path, raw: bytes, running: tuple[str, ...]
) -> None:
    assert whole(place, raw).running == {*running}


def test_calls_of_a_very_long_name_cost_little(place: Path) -> None:
    assert whole(place, b"cos\n" + b"x" * 60_000 + b"\n)R.").running == {"os." + "x" * 97}


ORDINARY = {
    "options": argparse.Namespace(lr=0.1, out=Path("runs")),
    "when": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "numpy": np.random.default_rng(1).normal(size=3),
    "scalar": np.float32(1),
    "random": random.getstate(),
    "partial": functools.partial(torch.nn.ReLU, inplace=True),
    "counts": Counter("abc"),
    "many": defaultdict(list, a=[1]),
    "set": {1, 2},
    "range": range(3),
    "bound": "".join,
    "decimal": decimal.Decimal("0.1"),
    "id": uuid.UUID(int=1),
    "size": torch.Size([1, 2]),
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "module": torch.nn.Linear(2, 3),
    "made": Made(dict),
}


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("name", ORDINARY)
def test_what_trainers_save_beside_weights_is_not_warned_of(
    tmp_path: Path, name: str, protocol: int
) -> None:
    path = tmp_path / "m.pt"
    weights = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3)}
    for zipped in (True, False):
        torch.save(
            {"model": weights, name: ORDINARY[name]},
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=zipped,
        )
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.index.warnings == ()


def of_shards(path: Path, payload: object) -> None:
    torch.save({"fc.weight": torch.ones(4, 8), "x": payload}, path.with_name("s.bin"))
    path.write_text('{"weight_map": {"fc.weight": "s.bin"}}')


def an_array(path: Path, payload: object) -> None:
    state: Any = {"fc.weight": np.ones((4, 8), "f4"), "x": payload}
    np.save(path, state)


WRITERS: dict[str, tuple[str, Callable[[Path, object], object]]] = {
    "zip": ("m.pt", lambda path, x: torch.save({"fc.weight": torch.ones(4, 8), "x": x}, path)),
    "legacy": (
        "m.pt",
        lambda path, x: torch.save(
            {"fc.weight": torch.ones(4, 8), "x": x}, path, _use_new_zipfile_serialization=False
        ),
    ),
    "pickle": (
        "m.pkl",
        lambda path, x: path.write_bytes(pickle.dumps({"fc.weight": np.ones((4, 8)), "x": x})),
    ),
    "npy": ("m.npy", an_array),
    "shards": ("m.bin.index.json", of_shards),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_asks_to_run_something_is_warned_of_and_converted(
    tmp_path: Path, writer: str
) -> None:
    name, write = WRITERS[writer]
    path = tmp_path / name
    write(path, Made(os.mkdir, str(tmp_path / "planted")))
    said = rf"its pickle asks to call {os.mkdir.__module__}\.mkdir, as .* nothing of it was run"
    report = convert(path, {"feature_map": [2, 2, 2]}, tmp_path / "o.safetensors", level="bytes")
    [warning] = report.warnings
    assert re.search(said, warning)
    assert report.verdict.passed
    with pytest.raises(CheckFailedError, match=said):
        convert(path, {"feature_map": [2, 2, 2]}, tmp_path / "p.safetensors", strict=True)
    found = inspect_checkpoint(path)
    assert found.file["warnings"] == [warning]
    assert f"warning: {warning}" in list(about(found))
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("protocol", range(6), ids=str)
def test_a_file_that_only_runs_something_is_shown_and_refused(
    tmp_path: Path, protocol: int
) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(Made(os.mkdir, str(tmp_path / "planted")), protocol))
    named = rf"{os.mkdir.__module__}\.mkdir"
    with pytest.raises(CheckpointError, match=f"holds no state dict.*not a tensor: {named}"):
        convert(path, {"feature_map": [2, 2, 2]})
    [warning] = inspect_checkpoint(path).file["warnings"]
    assert re.search(f"its pickle asks to call {named}, as .* nothing of it was run", warning)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("protocol", range(6), ids=str)
def test_an_object_that_holds_arrays_is_read_in_every_protocol(
    tmp_path: Path, protocol: int
) -> None:
    path = tmp_path / "m.pkl"
    held = OrderedDict({"fc.weight": np.ones((4, 8), "f4")})
    path.write_bytes(pickle.dumps(held, protocol))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.state_dict(None).tensors.keys() == {"fc.weight"}


class Stored:
    """Made by a call, and then given a state or items, as no library does with a tensor."""

    def __init__(self, made: object, state: object = None, items: object = ()) -> None:
        self.reduced = made, state, items

    def __reduce__(self) -> Any:
        made, state, items = self.reduced
        function, arguments, *own = made.__reduce_ex__(2)  # type: ignore[misc]
        return function, arguments, state or next(iter(own), None), None, iter(items)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        pytest.param(lambda: Stored(torch.ones(2), state=(1,)), "changed after it was", id="build"),
        pytest.param(lambda: Stored(torch.ones(2), items=[(0, 7.0)]), "changed after", id="items"),
        pytest.param(lambda: Stored(np.ones(2), items=[(0, 7.0)]), "changed after", id="array"),
        pytest.param(
            lambda: Made(
                torch._utils._rebuild_parameter_with_state,
                *(torch.ones(2), False, OrderedDict(), {"data": torch.zeros(2)}),
            ),
            "changed after it was made",
            id="its-data",
        ),
        pytest.param(
            lambda: Made(OrderedDict, {"w": np.ones(2)}), "in a way that no library", id="dict"
        ),
        pytest.param(lambda: Made(dict, [("w", np.ones(2))]), "in a way that no", id="pairs"),
    ],
)
def test_what_is_other_than_its_call_says_is_refused(
    tmp_path: Path, payload: Callable[[], object], sentence: str
) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps({"v": np.ones(3), "w": payload()}))
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(path).state_dict(None)


PAIR = b"((K\x01K\x02tl"


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(b"ccollections\nOrderedDict\n" + PAIR + b"\x85R", id="REDUCE"),
        pytest.param(b"(ccollections\nOrderedDict\n" + PAIR + b"o", id="OBJ"),
        pytest.param(b"(" + PAIR + b"icollections\nOrderedDict\n", id="INST"),
    ],
)
def test_an_ordered_dictionary_has_the_pairs_of_its_call(place: Path, made: bytes) -> None:
    assert pickle.loads(made + b".") == {1: 2}
    assert read(place, made + b".").items == {1: 2}


@pytest.mark.parametrize("arguments", [PAIR + b"\x85", b"}\x85", b"K\x01\x85"])
def test_an_ordered_dictionary_that_drops_its_arguments_is_refused(
    place: Path, arguments: bytes
) -> None:
    raw = b"ccollections\nOrderedDict\n" + arguments + b"\x81."
    assert pickle.loads(raw) == {}
    with pytest.raises(CheckpointError, match="in a way that no library writes"):
        read(place, raw)


def test_a_number_that_python_takes_for_an_octal_one_is_refused(place: Path) -> None:
    with pytest.raises(CheckpointError, match="begins with a zero"):
        read(place, b"I010\n.")
    assert read(place, b"(I00\nI01\nI0\nt.") == (False, True, 0)


def test_two_names_that_are_one_text_are_not_one_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps({"w": np.ones((2, 3)), b"w": np.zeros((2, 3))}))
    with pytest.raises(CheckpointError, match="has two tensors called 'w'"):
        open_checkpoint(path)


def test_build_gives_state(place: Path) -> None:
    node = read(place, b"cx\nY\n)\x81}\x8c\x01aK\x01sb.")
    assert isinstance(node, Call)
    assert node.state == {"a": 1}


def test_elements_and_items_of_a_call(place: Path) -> None:
    node = read(place, b"cx\nY\n)\x81(K\x01K\x02eK\x03a(K\x04K\x05u\x8c\x01kNs.")
    assert node.elements == [1, 2, 3]
    assert node.items == {4: 5, "k": None}


def test_persistent_ids(place: Path) -> None:
    found = whole(place, b"(Pname\nK\x01Q\x86t.")
    ((first, second),) = found.root
    assert found.persistents == (first, second)
    assert isinstance(first, Persistent)
    assert (first.value, second.value) == ("name", 1)


WRAPPERS = {
    "bare": None,
    "zip": torch_zip,
    "legacy": torch_legacy,
    "legacy-with-storage": legacy_with_storage,
}


def attempt(path: Path, raw: bytes, wrapper: str) -> str:
    """Read a pickle, bare or wrapped; return the error, which must be the one kind."""
    wrap = WRAPPERS[wrapper]
    path.write_bytes(wrap(raw) if wrap else raw)
    try:
        if wrap is None:
            with SourceFile(path) as file:
                read_pickle(file, 0, file.size)
        else:
            with open_checkpoint(path) as checkpoint:
                checkpoint.state_dict(None)
    except CheckpointError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        assert len(message) < 1000
        return message
    return ""


PLANTED = [name for name, _ in planted(Path("x"))]


def test_a_hundred_ways_to_plant() -> None:
    assert len(PLANTED) == len(set(PLANTED)) >= 100


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_nothing_is_called(tmp_path: Path, wrapper: str) -> None:
    marker = tmp_path / "marker"
    for name, raw in planted(marker):
        attempt(tmp_path / f"{name}.pt", raw, wrapper)
        assert not marker.exists(), name


def test_the_planted_pickles_would_plant(tmp_path: Path) -> None:
    # Under pickle.load, most do: a test of the test.
    marker = tmp_path / "marker"
    working = 0
    for name, raw in planted(marker):
        if "persistent" in name:
            continue
        with contextlib.suppress(Exception):  # Some plant before they fail.
            pickle.loads(raw)
        working += marker.exists()
        marker.unlink(missing_ok=True)
    assert working > 50


def test_no_module_is_imported(tmp_path: Path) -> None:
    (tmp_path / "planted_module.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    sys.path.insert(0, str(tmp_path))
    try:
        for wrapper in WRAPPERS:
            attempt(tmp_path / "m.pt", b"cplanted_module\nanything\n)R.", wrapper)
    finally:
        sys.path.remove(str(tmp_path))
    assert "planted_module" not in sys.modules
    assert not (tmp_path / "marker").exists()


def test_extension_registry_is_not_consulted(place: Path) -> None:
    copyreg.add_extension("os", "system", 240)
    try:
        with pytest.raises(CheckpointError, match=r"unknown or unsupported opcode b'\\x82'"):
            read(place, b"\x82\xf0.")
    finally:
        copyreg.remove_extension("os", "system", 240)


# Malformed.


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    raw, message = MALFORMED[case]
    path = tmp_path / "data.pkl"
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path, raw)
    assert str(caught.value).startswith(f"{path}: malformed pickle at byte ")
    for wrapper in ("zip", "legacy"):
        assert attempt(path, raw, wrapper)


EVERYTHING = {
    "a": [1, 2.5, None, True, 2**80, "é", b"\xff", (1, 2, 3, 4), {"k": {1}}],
    "o": OrderedDict([("x", frozenset({1}))]),
    "r": range(3),
    "t": bytearray(b"abc"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated_at_every_byte(place: Path, protocol: int) -> None:
    raw = pickle.dumps(EVERYTHING, protocol)
    read(place, raw)
    for length in range(len(raw)):
        with pytest.raises(CheckpointError, match="malformed pickle at byte"):
            read(place, raw[:length])


PARTS = [b"ca\nb\n", b"ccollections\nOrderedDict\n", b"X\x01\x00\x00\x00a", b"K\x01", b"q\x00"]
PARTS += [b"h\x00", b"(", b"N", b")", b"}", b"]", b"\x86", b"Nt", b"I1\n", b"0"] * 4


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(
    raw=st.lists(
        st.sampled_from([*(bytes([c]) for c in range(256)), *PARTS]),
        max_size=30,
    ).map(lambda parts: b"".join(parts) + b".")
)
def test_any_bytes_are_read_or_refused(place: Path, raw: bytes) -> None:
    for wrapper in WRAPPERS:
        attempt(place, raw, wrapper)


# What a pickle costs.

COUNTED = {
    "texts": b"\x8c\x01a",
    "short-bytes": b"C\x01a",
    "python-2-texts": b"U\x01a",
    "quoted-texts": b"S'abc'\n",
    "wide-texts": b"X\xe8\x03\x00\x00" + b"a" * 996 + "😀".encode(),
    "text-lines": b"V" + b"a" * 1000 + b"\n",
    "global-lines": b"c" + b"a" * 1000 + b"\nb\n",
    "instance-lines": b"(i" + b"a" * 1000 + b"\nb\n",
    "persistent-lines": b"P" + b"a" * 1000 + b"\n",
    "integer-lines": b"I" + b"9" * 800 + b"\n",
    "long-lines": b"L" + b"9" * 800 + b"L\n",
    "longs": b"\x8b\xe8\x03\x00\x00" + b"1" * 1000,
    "floats": b"G12345678",
    "float-lines": b"F1.5\n",
    "integers": b"J1234",
    "lists": b"]",
    "lists-of-one": b"]Na",
    "sets": b"\x8f",
    "frozensets": b"(N\x91",
    "tuples": b"N\x85",
    "tuples-of-3": b"NNN\x87",
    "marked-tuples": b"(Nt",
    "dicts": b"}",
    "dicts-of-one": b"}NNs",
    "marked-dicts": b"(NNd",
    "globals": b"ca\nb\n",
    "stack-globals": b"\x8c\x01a2\x93",
    "calls": b"N)R",
    "objects": b"N)\x81",
    "objects-with-keywords": b"N)N\x92",
    "marked-objects": b"(No",
    "states": b"N)RNb",
    "items-of-calls": b"N)RNNs",
    "elements-of-calls": b"N)RNa",
    "persistents": b"NQ",
}


@pytest.mark.parametrize("case", COUNTED)
def test_what_is_counted_is_what_it_takes(
    place: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    limit = 4 << 20
    monkeypatch.setattr(pickle_machine, "MAX_MEMORY", limit)
    place.write_bytes(COUNTED[case] * min(limit // 20, 2 + 5 * limit // len(COUNTED[case])))
    tracemalloc.start()
    try:
        with SourceFile(place) as file, pytest.raises(CheckpointError, match="take more than 4 MB"):
            read_pickle(file, 0, file.size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Lists grow by an eighth, dicts by doubling; what is estimated may be that much too little.
    assert peak < 1.4 * limit


# Circular and exploding structures, as checkpoints.


@pytest.mark.parametrize("case", sorted(HOSTILE.keys() - COSTLY))
def test_hostile_checkpoints(tmp_path: Path, case: str) -> None:
    make, message = HOSTILE[case]
    raw, path = make(), tmp_path / "m.pt"
    said = attempt(path, raw, "zip")
    assert re.search(message, said) if message else not said, said
    assert attempt(path, raw, "legacy")
    attempt(path, raw, "legacy-with-storage")


# Nothing is left behind.


def test_one_file_leaves_no_trace_for_the_next(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    good.write_bytes(torch_zip(dumped({"w": tensor(), "n": 1})))
    with open_checkpoint(good) as checkpoint:
        before = checkpoint.index
    tables = repr((OPERATIONS.keys(), vars(torch_records).keys(), sys.modules.keys()))
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    slots = b"N}" + texts("__defaults__", "__kwdefaults__") + b"s\x86b."
    cases = [rebuild + slots, rebuild + b")R" + slots, b"ccollections\nOrderedDict\n" + slots]
    cases += [make() for case, (make, _) in HOSTILE.items() if case not in COSTLY]
    cases += [raw for raw, _ in MALFORMED.values()]
    cases += [raw for _, raw in planted(tmp_path / "marker")]
    for raw in cases:
        for wrapper in ("zip", "legacy"):
            attempt(bad, raw, wrapper)
    with open_checkpoint(good) as checkpoint:
        assert checkpoint.index == before
    assert repr((OPERATIONS.keys(), vars(torch_records).keys(), sys.modules.keys())) == tables
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)
    assert OrderedDict(a=1) == {"a": 1}


def test_nothing_of_a_pickle_outlives_the_read(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(torch_zip(dumped({"w": tensor(), "m": circular_module()})))
    with pytest.raises(CheckpointError, match="in a circle"):
        open_checkpoint(path)
    path.write_bytes(torch_zip(dumped({"w": tensor(), "m": Made(os.getcwd)})))
    checkpoint = open_checkpoint(path)
    gc.collect()
    kept = [o for o in gc.get_objects() if type(o) in (Call, Global, Persistent)]
    checkpoint.__exit__(None, None, None)
    assert not kept


def test_long_escapes_give_no_warning(place: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError, match="malformed escape"):
            read(place, b"S'" + b"\\z" * 1000 + b"'\n.")
