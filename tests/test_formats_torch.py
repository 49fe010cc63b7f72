from __future__ import annotations

import argparse
import io
import pickle
import tarfile
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus.calls import Made, dumped
from corpus.legacy import FLOATS, GOOD, MAGIC, MALFORMED, STORAGE, K, legacy, stored, v1
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import Checkpoint, open_checkpoint
from fcn_convert.formats.strided import read_values
from fcn_convert.tensors import StateDict, TensorInfo

ZIP = pytest.param(True, id="zip")
LEGACY = pytest.param(False, id="legacy")
both_forms = pytest.mark.parametrize("zipped", [ZIP, LEGACY])

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}

REBUILT_BY_V3 = {"U64", "U32", "U16"} | {name for name in DTYPES if name.startswith("F8")}


def save(path: Path, data: object, *, zipped: bool, protocol: int = 2) -> None:
    torch.save(data, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)


def row_major(values: torch.Tensor) -> bytes:
    """The oracle: a tensor's values in row-major order."""
    resolved = values.detach().resolve_conj().resolve_neg()
    copied = torch.empty(resolved.numel(), dtype=resolved.dtype).copy_(resolved.flatten())
    return bytes(copied.view(torch.uint8).numpy())


def gathered(path: Path, tensor: TensorInfo) -> bytes:
    """Follow offset and strides through the file with NumPy, and conj and neg bits."""
    raw = path.read_bytes()
    if not tensor.nbytes:
        return b""
    itemsize = tensor.dtype.itemsize
    element = np.dtype("<c8") if tensor.conjugated else np.dtype(f"V{itemsize}")
    if tensor.negated:
        element = np.dtype({"C64": "<c8", "F32": "<f4", "F64": "<f8"}[tensor.dtype.name])
    sizes = tensor.shape
    strides = tensor.strides
    if strides is None:
        count = int(np.prod(sizes))
        values = np.frombuffer(raw, element, count, tensor.offset).reshape(sizes)
    else:
        values = np.ndarray(
            sizes, element, raw, tensor.offset, tuple(stride * itemsize for stride in strides)
        )
    values = values.conj() if tensor.conjugated else values
    values = np.negative(values) if tensor.negated else values
    return np.ascontiguousarray(values).tobytes()


def check(path: Path, expected: dict[str, torch.Tensor], at: str | None = None) -> StateDict:
    """Compare names, order, dtypes, shapes and values with what torch has."""
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.state_dict(at)
        assert list(found.tensors) == list(expected)
        for name, tensor in found.tensors.items():
            want = expected[name]
            assert tensor.name == name
            assert DTYPES[tensor.dtype.name] == want.dtype
            assert tensor.shape == tuple(want.shape)
            assert gathered(path, tensor) == row_major(want), name
            assert bytes(read_values(checkpoint.files[0], tensor)) == row_major(want), name
    return found


def loaded(path: Path) -> Any:
    """Load a file that this test itself wrote."""
    return torch.load(path, weights_only=False)


def opened(path: Path) -> Checkpoint:
    with open_checkpoint(path) as checkpoint:
        return checkpoint


def some(*shape: int) -> torch.Tensor:
    return torch.arange(1.0, 1 + int(np.prod(shape))).reshape(shape)


# Tensors.


@both_forms
@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(tmp_path: Path, dtype: str, protocol: int, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    values = torch.arange(24, dtype=torch.uint8).view(2, 12)
    values = (values % 2 if dtype == "BOOL" else values.repeat(1, 8)).view(DTYPES[dtype])
    data = {"a": values, "t": values.t(), "0-d": values[0, 0], "empty": values[:0]}
    save(path, data, zipped=zipped, protocol=protocol)
    found = check(path, data)
    # torch cannot load the newer dtypes from the legacy files that it writes of them.
    if zipped or dtype not in REBUILT_BY_V3:
        check(path, loaded(path))
    assert {t.dtype.name for t in found.tensors.values()} == {dtype}
    assert opened(path).index.format == ("torch (zip)" if zipped else "torch (legacy)")


@both_forms
def test_special_values_keep_their_bits(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    bits = torch.tensor([0x7FC00001, -0x00400000, 0x7F800000, -0x80000000, 1], dtype=torch.int32)
    save(path, {"w": bits.view(torch.float32)}, zipped=zipped)
    found = check(path, loaded(path))
    assert gathered(path, found.tensors["w"]) == row_major(bits)


base = some(4, 5, 6)
VIEWS: dict[str, torch.Tensor] = {
    "row-major": base,
    "transposed": base.transpose(0, 2),
    "permuted": base.permute(1, 2, 0),
    "column-major": base[0].t().contiguous().t(),
    "rows": base[1:3],
    "columns": base[:, :, 1:4],
    "every-other": base[::2, 1::2, ::3],
    "one-element": base[2, 3, 4],
    "one-column": base[:, 2, 3],
    "expanded": base[:1].expand(7, 5, 6),
    "expanded-scalar": torch.tensor(3.0).expand(3, 4),
    "expanded-in-the-middle": base[:, :1, :].expand(4, 9, 6),
    "overlapping": torch.arange(10.0).unfold(0, 4, 1),
    "diagonal": base[0].diagonal(),
    "channels-last": some(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "axes-of-one": some(1, 3, 1).as_strided((1, 3, 1), (99, 1, 77)),
    "axis-of-one-strided": some(3, 1).as_strided((1, 3), (0, 1)),
    "empty": torch.empty(0),
    "empty-3-d": torch.empty(2, 0, 3),
    "empty-transposed": torch.empty(2, 0, 3).transpose(0, 2),
    "empty-slice-at-the-end": torch.arange(4.0)[4:],
    "0-d": torch.tensor(5.0),
    "64-axes": torch.ones((1,) * 64),
}


@both_forms
def test_an_empty_storage_of_two_types(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    empty = torch.empty(0)
    save(path, {"w": empty, "v": empty.view(torch.int32)}, zipped=zipped)
    check(path, loaded(path))


@both_forms
@pytest.mark.parametrize("view", VIEWS)
def test_views(tmp_path: Path, view: str, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    save(path, {"w": VIEWS[view]}, zipped=zipped)
    check(path, loaded(path))


@pytest.mark.parametrize(
    ("view", "is_plain"),
    [
        pytest.param("rows", True, id="rows"),
        pytest.param("transposed", False, id="transposed"),
        pytest.param("axes-of-one", True, id="axes-of-one"),
        pytest.param("empty-transposed", True, id="empty-transposed"),
        pytest.param("expanded", False, id="expanded"),
    ],
)
def test_row_major_views_are_plain(tmp_path: Path, view: str, *, is_plain: bool) -> None:
    path = tmp_path / "m.pt"
    save(path, {"w": VIEWS[view]}, zipped=True)
    assert opened(path).state_dict(None).tensors["w"].is_plain == is_plain


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch") / "m.pt"


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    seed=st.integers(0, 999),
    zipped=st.booleans(),
    data=st.data(),
)
def test_any_strides(
    place: Path, shape: list[int], seed: int, data: st.DataObject, *, zipped: bool
) -> None:
    strides = data.draw(st.lists(st.integers(0, 7), min_size=len(shape), max_size=len(shape)))
    offset = data.draw(st.integers(0, 9))
    storage = torch.rand(200, generator=torch.Generator().manual_seed(seed))
    save(place, {"w": storage.as_strided(shape, strides, offset)}, zipped=zipped)
    check(place, loaded(place))


complex_values = torch.complex(some(2, 3), -some(2, 3))
LAZY = {
    "conj": (complex_values.conj(), True, False),
    "conj-transposed": (complex_values.t().conj(), True, False),
    "neg": (torch._neg_view(some(2, 3)), False, True),
    "neg-of-complex": (torch._neg_view(complex_values), False, True),
    "conj-and-neg": (torch._neg_view(complex_values.conj()), True, True),
    "imaginary-part-of-conj": (complex_values.conj().imag, False, True),
    "real-part-of-conj": (complex_values.conj().real, False, False),
    "resolved": (complex_values.conj().resolve_conj(), False, False),
}


@both_forms
@pytest.mark.parametrize("case", LAZY)
def test_lazy_conjugation_and_negation(tmp_path: Path, case: str, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    values, conjugated, negated = LAZY[case]
    save(path, {"w": values}, zipped=zipped)
    tensor = check(path, loaded(path)).tensors["w"]
    assert (tensor.conjugated, tensor.negated) == (conjugated, negated)


# Parameters, sharing, wrapping.


class Noted(torch.Tensor):
    """A subclass, which torch pickles by `_rebuild_from_type_v2`."""


@both_forms
def test_parameters_and_subclasses(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    noted = nn.Parameter(some(2, 2))
    noted.note = {"sparse": False}  # type: ignore[attr-defined]
    attributed = some(4)
    attributed.note = "x"  # type: ignore[attr-defined]
    data = {
        "parameter": nn.Parameter(some(3)),
        "frozen": nn.Parameter(some(3), requires_grad=False),
        "with-attributes": noted,
        "tensor-with-attributes": attributed,
        "integer": nn.Parameter(torch.arange(3), requires_grad=False),
        "buffer": nn.Buffer(some(2)),
        "subclass": some(2, 3).as_subclass(Noted),
        "subclass-transposed": some(2, 3).t().as_subclass(Noted),
        "with-gradient": (nn.Parameter(some(2)) * 2).detach(),
    }
    save(path, data, zipped=zipped)
    check(path, loaded(path))


@both_forms
def test_shared_storages_are_ties(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    embedding, long = some(4, 3), some(10)
    data = {
        "head.weight": embedding.t(),
        "alone": some(4, 3),
        "embedding.weight": embedding,
        "long.first": long[:6],
        "long.second": long[5:],
        "half.first": (halves := some(8))[:4],
        "half.second": halves[4:],
        "empty": embedding[:0],
    }
    save(path, data, zipped=zipped)
    found = check(path, loaded(path))
    assert set(map(frozenset, found.ties)) == {
        frozenset({"head.weight", "embedding.weight"}),
        frozenset({"long.first", "long.second"}),
    }


def trained() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


WRAPPED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "bare": (lambda state: state, ""),
    "plain-dict": (dict, ""),
    "state_dict": (lambda state: {"epoch": 3, "state_dict": state, "lr": 0.1}, "state_dict"),
    "model": (lambda state: {"args": argparse.Namespace(lr=1), "model": state}, "model"),
    "nested": (lambda state: {"a": {"b": {"params": state}}, "c": [1]}, "a.b.params"),
    "defaultdict": (lambda state: defaultdict(int, {"net": state, "best": 1.5}), "net"),
    "beside-lone-tensors": (lambda s: {"model": s, "rng": torch.get_rng_state()}, "model"),
}


@both_forms
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_wrapped_state_dicts(tmp_path: Path, wrapped: str, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    wrap, at = WRAPPED[wrapped]
    state = trained().state_dict()
    save(path, wrap(state), zipped=zipped)
    assert check(path, state).path == at
    assert check(path, state, at).path == at


@both_forms
def test_optimizer_state_is_never_weights(tmp_path: Path, *, zipped: bool) -> None:
    path, net = tmp_path / "m.pt", trained()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    data = {
        "optimizer": optimizer.state_dict(),
        "trainer": {"state": {"0.weight": {"exp_avg": some(2, 2)}}, "param_groups": []},
        "optim_g": {"w": some(2, 2)},
        "net": net.state_dict(),
    }
    save(path, data, zipped=zipped)
    check(path, net.state_dict())
    index = opened(path).index
    assert [s.path for s in index.state_dicts] == ["net"]
    assert [(e.name, e.reason) for e in index.left_out] == [
        ("optimizer", "optimizer state of 2 entries"),
        ("trainer", "optimizer state of 2 entries"),
        ("optim_g", "a dictionary of 1 entries"),
    ]


@both_forms
def test_several_state_dicts_need_a_choice(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    model, ema = {"w": some(2, 2)}, {"w": some(2, 2) + 1, "v": some(1)}
    save(path, {"model": model, "ema": {"shadow": ema}}, zipped=zipped)
    with pytest.raises(
        CheckpointError,
        match=r"m\.pt: holds model \(1 tensors\), ema\.shadow \(2 tensors\); choose one with",
    ):
        opened(path).state_dict(None)
    check(path, model, "model")
    check(path, ema, "ema.shadow")
    check(path, ema, "ema")
    with pytest.raises(CheckpointError, match=r"holds no state dict at 'em'; holds model \(1"):
        opened(path).state_dict("em")


def test_the_same_tensors_twice_are_one_choice(tmp_path: Path) -> None:
    path, net = tmp_path / "m.pt", trained()
    save(path, {"net": net, "state_dict": net.state_dict()}, zipped=True)
    check(path, net.state_dict())


def test_constants_beside_the_model_are_no_choice(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    save(
        path, {"normalise": {"mean": some(3), "std": some(3)}, "m": {"w": some(2, 2)}}, zipped=True
    )
    check(path, {"w": some(2, 2)})


def test_a_state_dict_that_lies_does_not_hide_another(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    endless = torch.ones(1).expand(2**31, 2**31)
    weight = {"fc.weight": some(2, 2)}
    save(path, {"model": weight, "other": {"fc.weight": endless}}, zipped=True)
    check(path, weight, "model")
    with pytest.raises(
        CheckpointError, match=r"holds model \(1 tensors\), other \(unreadable\); ch"
    ):
        opened(path).state_dict(None)
    with pytest.raises(CheckpointError, match=r"tensor 'fc.weight' cannot be read: its size, .* o"):
        opened(path).state_dict("other")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_method_saved_without_its_brackets_is_the_module(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 4))
    save(path, net.state_dict, zipped=zipped)
    found = opened(path).state_dict(None).tensors
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tuple(tensor.shape) for name, tensor in net.state_dict().items()
    }


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantized_model_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    quantized = torch.quantize_per_tensor(some(2, 2), 0.1, 0, torch.qint8)
    save(path, {"m": {"w": quantized, "b": some(2)}, "mean": {"x": some(1, 3)}}, zipped=True)
    with pytest.raises(CheckpointError, match=r"holds m \(2 tensors\), mean \(1 tensors\); choose"):
        opened(path).state_dict(None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("whole", [False, True], ids=["state dict", "module"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_quantized_dense_layers_are_not_left_out(
    tmp_path: Path, *, zipped: bool, whole: bool
) -> None:
    """Their weights lie packed, with the biases, beside convolutions that can be read."""
    path = tmp_path / "m.pt"
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 4), nn.Linear(4, 2, False))
    quantized = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, torch.qint8)
    save(path, quantized if whole else quantized.state_dict(), zipped=zipped)
    reason = "is packed for quantized kernels" if whole else "is quantized"
    sentence = (
        rf"2\._packed_params\._packed_params {reason}, 3\._packed_params\._packed_params {reason}"
        ": safetensors holds dense tensors"
    )
    with pytest.raises(CheckpointError, match=sentence):
        opened(path).state_dict(None)


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        pytest.param({}, "a dictionary of 0 entries;", id="empty"),
        pytest.param(
            {"net": [1, 2]},
            "a dictionary of 1 entries, of which net is a list of 2 entries, which have no names;",
            id="a-list",
        ),
        pytest.param(
            {"w": Path("x"), "b": 1},
            r"a dictionary of 2 entries, of which w is not a tensor: pathlib\.PosixPath;",
            id="an-object",
        ),
        pytest.param(
            {"\x1b[2J": 1},
            r"a dictionary of 1 entries, of which \\x1b\[2J is not a tensor: 1;",
            id="an-escape",
        ),
    ],
)
def test_what_a_file_without_tensors_holds_is_said(
    tmp_path: Path, saved: object, sentence: str
) -> None:
    path = tmp_path / "m.pt"
    save(path, saved, zipped=True)
    with pytest.raises(CheckpointError, match=rf"only \(the whole file\), {sentence}"):
        opened(path).state_dict(None)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(some(2, 2), id="a-tensor"),
        pytest.param([some(2, 2), some(2)], id="a-list"),
        pytest.param({}, id="nothing"),
        pytest.param({"epoch": 1, "note": "x"}, id="no-tensors"),
        pytest.param(3, id="a-number"),
        pytest.param(None, id="none"),
        pytest.param({"optimizer": {"state": {0: {"m": some(2)}}, "param_groups": []}}, id="optim"),
    ],
)
@both_forms
def test_files_without_a_state_dict(tmp_path: Path, data: object, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    save(path, data, zipped=zipped)
    with pytest.raises(CheckpointError, match=r"m\.pt: holds no state dict"):
        opened(path).state_dict(None)


@both_forms
def test_what_is_no_tensor_is_left_out_with_its_reason(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    data = {
        "w": some(2, 2),
        "number": 3,
        "text": "a\x1b[31m" + "x" * 100,
        "huge": 10**5000,
        "list": [some(2)],
        "texts": np.array(["a"]),
        "size": torch.Size([1]),
        "dtype": torch.float32,
        "storage": some(2).untyped_storage(),
        "none": None,
        7: some(1),
        (1, 2): some(1),
    }
    save(path, data, zipped=zipped)
    found = check(path, {"w": some(2, 2)})
    left_out = [(entry.name, entry.reason) for entry in found.left_out]
    assert left_out == [
        ("number", "not a tensor: 3"),
        ("text", "not a tensor: 'a\\x1b[31m" + "x" * 50),
        ("huge", "not a tensor: a long integer"),
        ("list", "a list of 1 entries, which have no names"),
        ("texts", "not a tensor: numpy._core.multiarray._reconstruct"),
        ("size", "not a tensor: torch.Size"),
        ("dtype", "not a tensor: the name torch.float32"),
        ("storage", "not a tensor: a storage"),
        ("none", "not a tensor: None"),
        ("[7]", "its name is not text"),
        ("[…]", "its name is not text"),
    ]


# Modules.


class Block(nn.Module):
    """Has one of everything that state_dict() treats in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 2, bias=False)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("not_kept", torch.ones(2), persistent=False)
        self.register_buffer("absent", None)
        self.weight = nn.Parameter(torch.ones(3).t())
        self.register_parameter("bias", None)
        self.first = nn.ModuleList([nn.BatchNorm1d(2), nn.Identity()])
        self.nothing = None
        self.add_module("none", None)
        self.plain = torch.ones(9)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inner = Block()
        self.a, self.b = inner, inner
        self.options = argparse.Namespace(depth=3)


def tied() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    return net


MODULES: dict[str, Callable[[], nn.Module]] = {
    "sequential": trained,
    "one-of-everything": Block,
    "shared-submodule": Shared,
    "tied-weights": tied,
    "deep": lambda: nn.Sequential(nn.Sequential(nn.Sequential(Shared()))),
    "prefixed": lambda: nn.ModuleDict({"module": trained()}),
    "lstm": lambda: nn.LSTM(2, 3, bidirectional=True),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
}


@both_forms
@pytest.mark.parametrize("protocol", [1, 2, 4])
@pytest.mark.parametrize("case", MODULES)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_whole_modules(tmp_path: Path, case: str, protocol: int, *, zipped: bool) -> None:
    path, net = tmp_path / "m.pt", MODULES[case]()
    save(path, net, zipped=zipped, protocol=protocol)
    found = check(path, net.state_dict())
    assert found.path == ""
    assert "hooks were not run" in opened(path).index.notes[0]


@both_forms
def test_module_in_a_wrapper(tmp_path: Path, *, zipped: bool) -> None:
    path, net = tmp_path / "m.pt", trained()
    save(path, {"epoch": 1, "ema": net, "optimizer": None}, zipped=zipped)
    assert check(path, net.state_dict()).path == "ema"


def test_a_state_dict_has_no_note_on_modules(tmp_path: Path) -> None:
    save(path := tmp_path / "m.pt", trained().state_dict(), zipped=True)
    assert opened(path).index.notes == ()


class Odd(nn.Module):
    """Pickles as something that only its own class can read."""

    def __reduce__(self) -> Any:
        return Odd, ()


def test_a_submodule_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    save(path, nn.ModuleDict({"a": nn.Linear(2, 2), "odd": Odd()}), zipped=True)
    found = opened(path).state_dict(None)
    assert list(found.tensors) == ["a.weight", "a.bias"]
    assert [e.name for e in found.left_out] == ["odd"]
    assert found.left_out[0].reason.endswith("test_formats_torch.Odd")


@both_forms
def test_classes_that_are_not_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, zipped: bool
) -> None:
    path = tmp_path / "m.pt"
    made = type("Vanishing", (Block,), {"__module__": __name__})
    monkeypatch.setitem(globals(), "Vanishing", made)
    net = made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Legacy files store the source, which it has not.
        save(path, {"net": net, "args": argparse.Namespace(lr=0.1)}, zipped=zipped)
    monkeypatch.delitem(globals(), "Vanishing")
    with pytest.raises(AttributeError):
        loaded(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    check(path, net.state_dict())
    assert opened(path).index.left_out[0].reason == "not a tensor: argparse.Namespace"


# What has no plain values.


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(some(2, 2), 0.1, 0, torch.quint8)


def compressed_rows() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return some(2, 2).to_sparse_csr()


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def half_complex() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.zeros(2, dtype=torch.complex32)


UNREADABLE: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "quantized": (quantized, "quantized"),
    "sparse": (lambda: some(2, 2).to_sparse(), "sparse"),
    "sparse-csr": (compressed_rows, "sparse"),
    "nested": (nested, "nested"),
    "meta": (lambda: torch.empty(2, device="meta"), "on the meta device, without values"),
    "complex128": (lambda: torch.zeros(2, dtype=torch.complex128), "of ComplexDouble values"),
    "complex32": (half_complex, "of dtype torch.complex32"),
    "lazy": (nn.parameter.UninitializedParameter, "a lazy parameter without values"),
    "in-a-parameter": (lambda: nn.Parameter(some(2, 2).to_sparse()), "sparse"),
}


@both_forms
@pytest.mark.parametrize("case", UNREADABLE)
def test_tensors_without_plain_values(tmp_path: Path, case: str, *, zipped: bool) -> None:
    make, reason = UNREADABLE[case]
    path = tmp_path / "m.pt"
    save(path, {"epoch": 1, "model": {"a": some(2, 2), "layer.w": make()}}, zipped=zipped)
    with pytest.raises(CheckpointError, match=f"layer.w is {reason}: safetensors holds") as caught:
        opened(path).state_dict(None)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_float4_is_placed_as_safetensors_places_it(tmp_path: Path) -> None:
    packed = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4).view(torch.float4_e2m1fn_x2)
    torch.save({"w": packed}, tmp_path / "m.pt")
    save_file({"w": packed}, tmp_path / "m.safetensors")
    [ours], [theirs] = (
        opened(tmp_path / name).state_dict(None).tensors.values()
        for name in ("m.pt", "m.safetensors")
    )
    assert (ours.dtype.name, ours.shape) == (theirs.dtype.name, theirs.shape) == ("F4", (2, 3, 8))
    raw = (tmp_path / "m.pt").read_bytes()
    assert raw[ours.offset : ours.offset + ours.nbytes] == bytes(range(24))


def test_float4_out_of_order_is_refused(tmp_path: Path) -> None:
    packed = torch.arange(6, dtype=torch.uint8).reshape(2, 3).view(torch.float4_e2m1fn_x2).t()
    torch.save({"w": packed}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="packed values do not lie in row-major order"):
        opened(tmp_path / "m.pt")


@both_forms
def test_protocol_0_cannot_hold_tensors(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    save(path, {"w": some(2, 2)}, zipped=zipped, protocol=0)
    with pytest.raises(CheckpointError, match="pickle protocol 0, which cannot hold tensors"):
        opened(path)


# Legacy files by hand: what torch no longer writes, but still reads.


def test_old_ids_with_and_without_views(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    data = {
        "column-major": v1(stored(*STORAGE, None), 0, (2, 3), (1, 2)),
        "view": v1(stored(*STORAGE, ("v", 2, 4)), 1, (3,), (1,)),
        "v2": Made(
            torch._utils._rebuild_tensor_v2,
            stored(*STORAGE, None),
            0,
            (6,),
            (1,),
            False,
            OrderedDict(),
        ),
    }
    path.write_bytes(legacy(data, ("k", FLOATS, 6)))
    expected = loaded(path)
    assert expected["view"].tolist() == [3, 4, 5]
    check(path, expected)


def test_old_ids_without_a_place_for_views(tmp_path: Path) -> None:
    # Older than anything torch still reads.
    path = tmp_path / "m.pt"
    path.write_bytes(legacy({"w": v1(stored(*STORAGE), 1, (2, 2), (1, 2))}, ("k", FLOATS, 6)))
    check(path, {"w": torch.tensor([[1.0, 3.0], [2.0, 4.0]])})


def python2_text(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def test_python_2_ordered_dict(tmp_path: Path) -> None:
    # What Python 2 wrote: the class called with a list of pairs; texts as byte strings; longs.
    storage = python2_text("storage") + b"ctorch\nFloatStorage\n"
    storage += python2_text("k") + python2_text("cpu") + b"\x8a\x01\x06N"
    shape, strides = b"(\x8a\x01\x02\x8a\x01\x03t", b"(\x8a\x01\x03\x8a\x01\x01t"
    tensor = b"ctorch._utils\n_rebuild_tensor\n((" + storage + b"tQK\x00" + shape + strides + b"tR"
    pairs = b"](](" + python2_text("fc.weight") + tensor + b"e](" + python2_text("n") + b"K\x07ee"
    path = tmp_path / "m.pt"
    path.write_bytes(
        legacy(b"\x80\x02ccollections\nOrderedDict\n" + pairs + b"\x85R.", ("k", FLOATS, 6))
    )
    expected = loaded(path)
    assert list(expected) == ["fc.weight", "n"]
    found = check(path, {"fc.weight": expected["fc.weight"]})
    assert [entry.name for entry in found.left_out] == ["n"]


def test_a_reconstructed_module_of_python_2(tmp_path: Path) -> None:
    state = {
        "training": True,
        "_parameters": OrderedDict(weight=v1(stored(*STORAGE), 0, (2, 3), (3, 1)), bias=None),
        "_buffers": OrderedDict(),
        "_modules": OrderedDict(),
    }
    raw = dumped(state)
    assert raw[:2] == b"\x80\x02"
    module = b"ccopy_reg\n_reconstructor\n(cgone.models\nNet\nc__builtin__\nobject\nNtR"
    path = tmp_path / "m.pt"
    path.write_bytes(legacy(b"\x80\x02" + module + raw[2:-1] + b"b.", ("k", FLOATS, 6)))
    with open_checkpoint(path) as checkpoint:
        tensor = checkpoint.state_dict(None).tensors["weight"]
    assert gathered(path, tensor) == FLOATS


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    raw, message = MALFORMED[case]
    path = tmp_path / "m.pt"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_truncated_at_every_byte(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "m.pt"
    save(path, {"w": some(2, 2)}, zipped=False, protocol=protocol)
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match=r"m\.pt: "):
            open_checkpoint(path)


def test_wrong_magic_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(legacy(GOOD, K, magic=MAGIC + 1))
    with pytest.raises(CheckpointError, match="is not a checkpoint known here"):
        open_checkpoint(path)


def test_the_old_tar_form(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with tarfile.open(path, "w") as out:
        out.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())
    with pytest.raises(
        CheckpointError, match=r"is a tar file: unpack it first.* torch\.save before"
    ):
        open_checkpoint(path)
