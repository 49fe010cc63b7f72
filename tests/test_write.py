from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fcn_convert import convert
from fcn_convert.errors import CheckpointError, SpecError
from fcn_convert.formats import open_checkpoint, strided
from fcn_convert.layers import resolve
from fcn_convert.plan import Keep, Permute, Reshape, make_plan
from fcn_convert.spec import make_spec
from fcn_convert.write import COPY_BYTES, PAGE_BYTES, write

AXES = {2: "CL", 3: "CHW", 4: "CDHW"}
WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MAP = {"feature_map": [3, 2, 4], "dense": ["fc"]}


def generated(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generated())


def written(
    source: Path,
    spec: Mapping[str, Any],
    output: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> Path:
    """Plan and write, without the checks that follow."""
    with open_checkpoint(source) as checkpoint:
        state_dict = checkpoint.state_dict(None)
        plan = make_plan(
            resolve(make_spec(spec), state_dict), state_dict, checkpoint.index.metadata
        )
        descriptor = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            write(plan.files[0], checkpoint, descriptor, advance)
        finally:
            os.close(descriptor)
    return output


def row_major(tensor: Tensor) -> bytes:
    """A tensor's values in row-major order, NaN payloads included."""
    resolved = tensor.resolve_conj().resolve_neg()
    # A copy, because a tensor of one element is contiguous whatever its strides.
    plain = torch.empty(resolved.numel(), dtype=resolved.dtype).copy_(resolved.flatten())
    return bytes(plain.view(torch.uint8).numpy())


def same(found: Tensor, expected: Tensor) -> bool:
    return (found.dtype, found.shape, row_major(found)) == (
        expected.dtype,
        expected.shape,
        row_major(expected),
    )


def by_name(weight: Tensor, sizes: dict[str, int], flatten: str) -> Tensor:
    """The oracle: axes by their names through einsum, on whole numbers of the dtype's size."""
    split = weight.contiguous().reshape(weight.shape[0], *(sizes[axis] for axis in flatten))
    moved = torch.einsum(
        f"o{flatten}->o{''.join(sizes)}".lower(), split.view(WHOLE[weight.itemsize])
    )
    return moved.contiguous().view(weight.dtype)


def header_of(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the values start, and the header."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return 8 + length, json.loads(raw[8 : 8 + length])


# Values, against einsum.


@st.composite
def maps(draw: st.DrawFn) -> tuple[dict[str, int], str]:
    axes = AXES[draw(st.integers(2, 4))]
    sizes = {axis: draw(st.integers(1, 5)) for axis in axes}
    return sizes, "".join(draw(st.permutations(axes)))


def as_stored(weight: Tensor, how: str) -> Tensor:
    """The same values, lying otherwise in memory and so in the file."""
    features_out, features_in = weight.shape
    if how == "column-major":
        return weight.T.contiguous().T
    if how == "sliced":
        wide = torch.full((features_out * 2 + 1, features_in * 3 + 2), 9.0, dtype=weight.dtype)
        wide[1::2, 2::3] = weight
        return wide[1::2, 2::3]
    if how == "expanded":
        return weight[:1].expand(features_out, features_in)
    return weight


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=maps(),
    features_out=st.integers(1, 4),
    how=st.sampled_from(["row-major", "column-major", "sliced", "expanded"]),
    zipped=st.booleans(),
    block=st.sampled_from([8, 40, 200, 4 << 20]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.uint8]),
)
def test_every_order_and_storage_against_einsum(
    tmp_path: Path,
    shape: tuple[dict[str, int], str],
    features_out: int,
    how: str,
    *,
    zipped: bool,
    block: int,
    dtype: torch.dtype,
) -> None:
    sizes, flatten = shape
    weight = as_stored((numbers(features_out, prod(sizes.values())) * 40).to(dtype), how)
    source, output = tmp_path / "source.pt", tmp_path / "output.safetensors"
    torch.save({"fc.weight": weight}, source, _use_new_zipfile_serialization=zipped)
    spec = {"feature_map": sizes, "flatten": flatten, "dense": [{"name": "fc", "reads": "map"}]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "BLOCK_BYTES", block)
        written(source, spec, output)
    assert same(load_file(output)["fc.weight"], by_name(weight, sizes, flatten))


ORDERS = [
    (axes, flatten)
    for axes, flattens in (
        ("CL", ["CL", "LC"]),
        ("CHW", ["CHW", "HWC", "WHC", "CWH", "HCW", "WCH"]),
        ("CDHW", ["CDHW", "DHWC", "WHDC", "HCWD"]),
    )
    for flatten in flattens
]


@pytest.mark.parametrize(("axes", "flatten"), ORDERS, ids=[flatten for _, flatten in ORDERS])
@pytest.mark.parametrize("block", [24, 4 << 20], ids=["split-blocks", "one-block"])
@pytest.mark.parametrize("tile", [1, 2, 128], ids=["numbers", "split-tiles", "one-tile"])
def test_each_order_by_indices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axes: str, flatten: str, block: int, tile: int
) -> None:
    """Without einsum: every single value, by counting through the axes."""
    monkeypatch.setattr(strided, "BLOCK_BYTES", block)
    monkeypatch.setattr(strided, "TILE", tile)
    sizes = dict(zip(axes, (2, 3, 4, 5), strict=False))
    count = prod(sizes.values())
    weight = torch.arange(3.0 * count).view(3, count)
    source = tmp_path / "source.safetensors"
    save_file({"fc.weight": weight}, source)
    output = written(
        source, {"feature_map": sizes, "flatten": flatten}, tmp_path / "output.safetensors"
    )
    found = load_file(output)["fc.weight"]
    assert tuple(found.shape) == (3, *sizes.values())
    for place in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        feature_out, at = place[0], dict(zip(axes, place[1:], strict=True))
        flat = 0
        for axis in flatten:
            flat = flat * sizes[axis] + at[axis]
        assert found[tuple(place)] == weight[feature_out, flat]


@pytest.mark.parametrize("block", [8, 4 << 20], ids=["split-blocks", "one-block"])
@pytest.mark.parametrize(
    "lazy",
    [
        pytest.param(lambda z: z.conj(), id="conj"),
        pytest.param(lambda z: z.conj().imag, id="neg"),
        pytest.param(lambda z: z.mT.conj(), id="conj-column-major"),
        pytest.param(torch._neg_view, id="neg-complex"),
        pytest.param(lambda z: torch._neg_view(z.conj()), id="conj-and-neg"),
    ],
)
def test_lazy_bits_are_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lazy: Callable[[Tensor], Tensor], block: int
) -> None:
    monkeypatch.setattr(strided, "BLOCK_BYTES", block)
    weight = lazy(torch.randn(24, 24, generator=generated(), dtype=torch.complex64))
    tensors = {"fc.weight": weight, "kept.alpha": weight[:3], "kept.beta": weight[1, 2]}
    torch.save(tensors, tmp_path / "source.pt")
    output = written(
        tmp_path / "source.pt", {**MAP, "flatten": "WHC"}, tmp_path / "out.safetensors"
    )
    found = load_file(output)
    resolved = weight.resolve_conj().resolve_neg()
    assert same(found["fc.weight"], by_name(resolved, {"C": 3, "H": 2, "W": 4}, "WHC"))
    assert same(found["kept.alpha"], weight[:3])
    assert same(found["kept.beta"], weight[1, 2])
    spec = {**MAP, "flatten": "WHC"}  # and the proof, which reads by itself, finds the same
    assert convert(
        tmp_path / "source.pt", spec, tmp_path / "proved.safetensors", level="bytes"
    ).verdict.passed


def test_a_lazy_sign_is_changed_whatever_the_bits(tmp_path: Path) -> None:
    """Arithmetic would quiet a signalling NaN, in some of torch's kernels and not in others."""
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(-1, 32)
    torch.save({"fc.weight": torch._neg_view(bits.view(torch.float16))}, tmp_path / "source.pt")
    spec = {"feature_map": [8, 2, 2], "flatten": "HWC"}
    convert(tmp_path / "source.pt", spec, tmp_path / "out.safetensors", level="bytes")
    found = load_file(tmp_path / "out.safetensors")
    expected = by_name(bits ^ -(1 << 15), {"C": 8, "H": 2, "W": 2}, "HWC")
    assert torch.equal(found["fc.weight"].view(torch.int16), expected)


def test_a_stride_of_one_element_may_be_of_any_length(tmp_path: Path) -> None:
    """torch saves strides that mean nothing, and NumPy refuses those that no memory has."""
    kept = torch.arange(12.0).as_strided((3, 1), (2, 2**61))
    torch.save({"fc.weight": numbers(40, 24), "kept": kept}, tmp_path / "source.pt")
    convert(tmp_path / "source.pt", MAP, tmp_path / "out.safetensors", level="bytes")
    assert load_file(tmp_path / "out.safetensors")["kept"].flatten().tolist() == [0, 2, 4]


def test_no_block_is_larger_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strided, "BLOCK_BYTES", 1024)
    sizes: list[int] = []
    read = strided.BlockReader.read

    def spy(*arguments: Any) -> bytearray:
        values = read(*arguments)
        sizes.append(len(values))
        return values

    monkeypatch.setattr(strided.BlockReader, "read", spy)
    weight = numbers(40, 24)
    tensors = {"fc.weight": weight, "other.weight": weight.T, "more.weight": weight.T[:, ::2]}
    torch.save(tensors, tmp_path / "source.pt")
    output = written(tmp_path / "source.pt", {**MAP, "flatten": "HWC"}, tmp_path / "o.safetensors")
    assert max(sizes) <= 1024
    assert len(sizes) > 3
    assert same(load_file(output)["other.weight"], weight.T)
    assert same(load_file(output)["more.weight"], weight.T[:, ::2])


@pytest.mark.parametrize("how", ["row-major", "column-major", "sliced"])
@pytest.mark.parametrize("flatten", ["CHW", "HWC", "WCH"])
def test_long_stretches_are_read_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: list[int], how: str, flatten: str
) -> None:
    """A transposed weight is not written number by number, nor read so."""
    reads: list[int] = []
    real = os.preadv

    def spy(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(len(buffers[0]))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", spy)
    monkeypatch.setattr(strided, "BLOCK_BYTES", 64 << 10)
    monkeypatch.setattr(strided, "CALL_BYTES", 64)
    sizes = {"C": 64, "H": 4, "W": 3}
    weight = as_stored(numbers(640, 768), how)
    torch.save({"fc.weight": weight}, tmp_path / "source.pt")
    spec = {"feature_map": sizes, "flatten": flatten}
    output = written(tmp_path / "source.pt", spec, tmp_path / "o.safetensors")
    assert same(load_file(output)["fc.weight"], by_name(weight, sizes, flatten))
    # A square of 64 kB has sides of 128 numbers, each of which takes a call, or nearly.
    assert len(reads) + len(writes) < 3 * weight.numel() / 128


# Dtypes and shapes.

CODES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F6_E2M3": 0.75, "F6_E3M2": 0.75, "F4": 0.5,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    "C64": 8,
}  # fmt: skip


def raw_file(path: Path, tensors: Mapping[str, tuple[str, list[int], bytes]]) -> Path:
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, values) in tensors.items():
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += values
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def raw_tensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    start, header = header_of(path)
    data = path.read_bytes()[start:]
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def noise(count: float, seed: int = 0) -> bytes:
    made = torch.randint(0, 256, (int(count),), generator=generated(seed))
    return bytes(made.to(torch.uint8).numpy())


@pytest.mark.parametrize("code", CODES)
def test_every_dtype_is_kept_and_reshaped(tmp_path: Path, code: str) -> None:
    size = CODES[code]
    before = {
        "fc.weight": (code, [4, 24], noise(96 * size)),
        "kept.odd": ("U8", [3], b"abc"),
        "kept.table": (code, [2, 4, 1], noise(8 * size, 1)),
        "kept.empty": (code, [0, 7], b""),
    }
    source = raw_file(tmp_path / "source.safetensors", before)
    after = raw_tensors(written(source, MAP, tmp_path / "output.safetensors"))
    assert after == {**before, "fc.weight": (code, [4, 3, 2, 4], before["fc.weight"][2])}
    with safe_open(tmp_path / "output.safetensors", "pt") as file:  # accepts the header
        assert set(file.keys()) == set(before)


@pytest.mark.parametrize("code", [code for code in CODES if CODES[code] >= 1])
def test_every_dtype_of_whole_bytes_is_permuted(tmp_path: Path, code: str) -> None:
    size = int(CODES[code])
    values = noise(96 * size)
    source = raw_file(tmp_path / "source.safetensors", {"fc.weight": (code, [4, 24], values)})
    output = written(source, {**MAP, "flatten": "WHC"}, tmp_path / "output.safetensors")
    elements = torch.frombuffer(bytearray(values), dtype=WHOLE[size]).view(4, 24)
    expected = by_name(elements, {"C": 3, "H": 2, "W": 4}, "WHC")
    assert raw_tensors(output)["fc.weight"] == (code, [4, 3, 2, 4], row_major(expected))


@pytest.mark.parametrize("code", ["F4", "F6_E2M3", "F6_E3M2"])
def test_sub_byte_weights_are_not_permuted(tmp_path: Path, code: str) -> None:
    values = noise(96 * CODES[code])
    source = raw_file(tmp_path / "source.safetensors", {"fc.weight": (code, [4, 24], values)})
    expected = rf"^fc\.weight is {code}, of less than a byte: .* not permuted from WHC$"
    with pytest.raises(SpecError, match=expected):
        written(source, {**MAP, "flatten": "WHC"}, tmp_path / "output.safetensors")


@pytest.mark.parametrize(
    "shape",
    [(), (0,), (3, 0, 2), (1,), (1, 1, 1), (2, 3, 4, 5)],
    ids=["0-d", "empty", "empty-inside", "one", "ones", "4-d"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_shapes_are_kept(tmp_path: Path, shape: tuple[int, ...], *, zipped: bool) -> None:
    tensors = {"fc.weight": numbers(4, 24), "kept.value": numbers(*shape)}
    source = tmp_path / "source.pt"
    torch.save(tensors, source, _use_new_zipfile_serialization=zipped)
    found = load_file(written(source, MAP, tmp_path / "output.safetensors"))
    assert same(found["kept.value"], tensors["kept.value"])


def test_a_dense_layer_without_outputs_is_permuted(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(0, 24)}, tmp_path / "s.safetensors")
    output = written(
        tmp_path / "s.safetensors", {**MAP, "flatten": "WHC"}, tmp_path / "o.safetensors"
    )
    assert tuple(load_file(output)["fc.weight"].shape) == (0, 3, 2, 4)


def test_tied_tensors_are_written_in_full(tmp_path: Path) -> None:
    weight = numbers(4, 24)
    torch.save(
        {"fc.weight": weight, "tied.weight": weight, "part": weight[1, :5]}, tmp_path / "s.pt"
    )
    found = load_file(written(tmp_path / "s.pt", MAP, tmp_path / "o.safetensors"))
    assert same(found["fc.weight"], weight.view(4, 3, 2, 4))
    assert same(found["tied.weight"], weight)
    assert same(found["part"], weight[1, :5])


@pytest.mark.parametrize(
    ("flatten", "sizes", "action"),
    [
        pytest.param("CHW", {"C": 3, "H": 2, "W": 4}, Reshape((4, 3, 2, 4)), id="channels-first"),
        pytest.param("HWC", {"C": 24, "H": 1, "W": 1}, Reshape((4, 24, 1, 1)), id="pooled"),
        pytest.param("WCH", {"C": 6, "H": 4, "W": 1}, Reshape((4, 6, 4, 1)), id="one-axis-of-1"),
        pytest.param("HWC", {"C": 1, "H": 6, "W": 4}, Reshape((4, 1, 6, 4)), id="one-channel"),
        pytest.param("WHC", {"C": 1, "H": 6, "W": 4}, Permute((4, 4, 6, 1), (0, 3, 2, 1)), id="wh"),
        pytest.param("HWC", {"C": 3, "H": 2, "W": 4}, Permute((4, 2, 4, 3), (0, 3, 1, 2)), id="hw"),
    ],
)
def test_actions(tmp_path: Path, flatten: str, sizes: dict[str, int], action: object) -> None:
    save_file({"fc.weight": numbers(4, 24), "fc.bias": numbers(4)}, tmp_path / "s.safetensors")
    spec = make_spec({"feature_map": sizes, "flatten": flatten})
    with open_checkpoint(tmp_path / "s.safetensors") as checkpoint:
        state_dict = checkpoint.state_dict(None)
        plan = make_plan(resolve(spec, state_dict), state_dict, {})
    actions = {step.name: step.action for step in plan.steps}
    assert actions == {"fc.weight": action, "fc.bias": Keep((4,))}


# The file: header, metadata, alignment, reproducibility.


def test_metadata_is_kept_sorted_and_says_pt(tmp_path: Path) -> None:
    metadata = {"zeta": "1", "epoch": "9", "alpha": 'Ä\n"', "format": "tf"}
    source = tmp_path / "s.safetensors"
    save_file({"fc.weight": numbers(4, 24)}, source, metadata)
    output = written(source, MAP, tmp_path / "o.safetensors")
    with safe_open(output, "pt") as file:
        assert file.metadata() == {**metadata, "format": "pt"}
    assert list(header_of(output)[1]["__metadata__"]) == ["alpha", "epoch", "format", "zeta"]


@pytest.mark.parametrize(
    "name", ["fc.weight\u00e4", "日本.語", 'a"b\\c', "emoji.🙂", " blank "], ids=ascii
)
def test_names_survive(tmp_path: Path, name: str) -> None:
    save_file({"fc.weight": numbers(4, 24), name: numbers(2)}, tmp_path / "s.safetensors")
    found = load_file(written(tmp_path / "s.safetensors", MAP, tmp_path / "o.safetensors"))
    assert same(found[name], numbers(2))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = {f"features.{at}.weight": numbers(at + 1, 3) for at in range(20)}
    tensors |= {"fc.weight": numbers(4, 24).T.contiguous().T, "count": torch.tensor(3)}
    torch.save(tensors, tmp_path / "s.pt")
    spec = {**MAP, "flatten": "HWC"}
    first = written(tmp_path / "s.pt", spec, tmp_path / "a.safetensors").read_bytes()
    second = written(tmp_path / "s.pt", spec, tmp_path / "b.safetensors").read_bytes()
    assert first == second


def test_values_are_aligned_to_their_size(tmp_path: Path) -> None:
    before = {f"kept.{code}": (code, [8], noise(8 * CODES[code])) for code in reversed(CODES)}
    before |= {"a.odd": ("U8", [3], b"abc"), "fc.weight": ("F32", [4, 24], noise(384))}
    source = raw_file(tmp_path / "s.safetensors", before)
    output = written(source, {**MAP, "flatten": "WHC"}, tmp_path / "o.safetensors")
    _, header = header_of(output)
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % max(int(CODES[entry["dtype"]]), 1) == 0, name


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("flatten", ["CHW", "WHC"])
def test_the_largest_plain_tensor_keeps_its_place_in_a_page(
    tmp_path: Path, kind: str, flatten: str
) -> None:
    tensors = {"a.weight": numbers(7, 3), "big": numbers(101, 31), "fc.weight": numbers(900, 24)}
    source = tmp_path / "source"
    if kind == "safetensors":
        save_file(tensors, source, {"some": "text"})
    else:
        torch.save(tensors, source, _use_new_zipfile_serialization=kind == "zip")
    output = written(source, {**MAP, "flatten": flatten}, tmp_path / "o.safetensors")
    largest = "fc.weight" if flatten == "CHW" else "big"  # a permuted one is not copied
    start, header = header_of(output)
    with open_checkpoint(source) as checkpoint:
        before = checkpoint.state_dict(None).tensors[largest].offset
    assert (start + header[largest]["data_offsets"][0] - before) % PAGE_BYTES == 0


def test_umask_is_respected(tmp_path: Path) -> None:
    from fcn_convert import convert  # noqa: PLC0415 - the draft's mode is the command's

    save_file({"fc.weight": numbers(4, 24)}, tmp_path / "s.safetensors")
    before = os.umask(0o027)
    try:
        convert(tmp_path / "s.safetensors", MAP, tmp_path / "o.safetensors", level="shapes")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "o.safetensors").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "o.report.json").stat().st_mode) == 0o640


# Copies inside the kernel, and without.

Copy = tuple[int, int, int]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[Copy]:
    """What os.copy_file_range was asked: start, target and length."""
    asked: list[Copy] = []
    real = os.copy_file_range

    def spy(source: int, target: int, count: int, at: int, to: int) -> int:
        asked.append((at, to, count))
        return real(source, target, count, at, to)

    monkeypatch.setattr(os, "copy_file_range", spy)
    return asked


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what os.pwrite was given."""
    sizes: list[int] = []
    real = os.pwrite

    def spy(descriptor: int, data: bytes, offset: int) -> int:
        sizes.append(len(data))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", spy)
    return sizes


def test_unchanged_bytes_are_copied_inside_the_kernel(
    tmp_path: Path, copies: list[Copy], writes: list[int]
) -> None:
    tensors = {"fc.weight": numbers(400, 24), "a.weight": numbers(300, 7), "b": numbers(5)}
    save_file(tensors, tmp_path / "s.safetensors")
    advanced: list[int] = []
    output = written(tmp_path / "s.safetensors", MAP, tmp_path / "o.safetensors", advanced.append)
    values = sum(tensor.nbytes for tensor in tensors.values())
    start, _ = header_of(output)
    assert sum(count for _, _, count in copies) == values == sum(advanced)
    assert writes == [start]  # the header is all that passes through memory
    # One range, in two calls: up to the first page boundary, so that whole pages can be shared.
    assert len(copies) == 2
    assert copies[1][0] % PAGE_BYTES == copies[1][1] % PAGE_BYTES == 0


def test_only_the_permuted_tensor_passes_through_memory(
    tmp_path: Path, copies: list[Copy], writes: list[int]
) -> None:
    tensors = {"fc.weight": numbers(4, 24), "a.weight": numbers(300, 7)}
    save_file(tensors, tmp_path / "s.safetensors")
    spec = {**MAP, "flatten": "WHC"}
    output = written(tmp_path / "s.safetensors", spec, tmp_path / "o.safetensors")
    assert sum(count for _, _, count in copies) == tensors["a.weight"].nbytes
    assert sum(writes) == header_of(output)[0] + tensors["fc.weight"].nbytes


def test_large_ranges_are_copied_in_steps(
    tmp_path: Path, copies: list[Copy], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COPY_BYTES % PAGE_BYTES == 0
    monkeypatch.setattr("fcn_convert.write.COPY_BYTES", PAGE_BYTES)
    save_file({"fc.weight": numbers(400, 24)}, tmp_path / "s.safetensors")
    output = written(tmp_path / "s.safetensors", MAP, tmp_path / "o.safetensors")
    assert len(copies) > 5
    assert same(load_file(output)["fc.weight"], numbers(400, 24).view(400, 3, 2, 4))


@pytest.mark.parametrize(
    "number",
    [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, None],
    ids=["EXDEV", "ENOSYS", "EOPNOTSUPP", "EINVAL", "EPERM", "no-such-function"],
)
def test_without_copies_inside_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    tensors = {"fc.weight": numbers(20_000, 24), "a.weight": numbers(300, 7), "b": numbers(5)}
    save_file(tensors, tmp_path / "s.safetensors")
    expected = written(tmp_path / "s.safetensors", MAP, tmp_path / "a.safetensors").read_bytes()

    def fails(*_: object) -> int:
        raise OSError(number, "no")

    if number is None:
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(os, "copy_file_range", fails)
    advanced: list[int] = []
    output = written(tmp_path / "s.safetensors", MAP, tmp_path / "b.safetensors", advanced.append)
    assert output.read_bytes() == expected
    assert sum(advanced) == sum(tensor.nbytes for tensor in tensors.values())


def test_short_copies_and_writes_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"fc.weight": numbers(40, 24), "a.weight": numbers(300, 7)}
    save_file(tensors, tmp_path / "s.safetensors")
    spec = {**MAP, "flatten": "WHC"}
    expected = written(tmp_path / "s.safetensors", spec, tmp_path / "a.safetensors").read_bytes()
    copy, pwrite = os.copy_file_range, os.pwrite
    monkeypatch.setattr(
        os, "copy_file_range", lambda s, d, n, at, to: copy(s, d, min(n, 1000), at, to)
    )
    monkeypatch.setattr(os, "pwrite", lambda d, data, at: pwrite(d, bytes(data)[:1000], at))
    output = written(tmp_path / "s.safetensors", spec, tmp_path / "b.safetensors")
    assert output.read_bytes() == expected


@pytest.mark.parametrize("call", ["copy_file_range", "pwrite"])
def test_a_full_disk_is_said_to_the_one_who_knows_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    save_file({"fc.weight": numbers(40, 24)}, tmp_path / "s.safetensors")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "s.safetensors", MAP, tmp_path / "o.safetensors")


@pytest.mark.parametrize("flatten", ["CHW", "WHC"], ids=["copied", "permuted"])
@pytest.mark.parametrize("kernel", [True, False], ids=["inside-the-kernel", "through-memory"])
def test_a_source_that_shrinks_midway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flatten: str, *, kernel: bool
) -> None:
    if not kernel:
        monkeypatch.delattr(os, "copy_file_range")
    source = tmp_path / "s.safetensors"
    save_file({"fc.weight": numbers(400, 24), "a.first": numbers(3, 3, 3).double()}, source)
    monkeypatch.setattr("fcn_convert.write.COPY_BYTES", PAGE_BYTES)
    monkeypatch.setattr(strided, "BLOCK_BYTES", PAGE_BYTES)
    cut = False

    def advance(_: int) -> None:
        nonlocal cut
        if not cut:
            os.truncate(source, source.stat().st_size - 100)
            cut = True

    with pytest.raises(CheckpointError, match=r"s\.safetensors: (became shorter|ends at byte)"):
        written(source, {**MAP, "flatten": flatten}, tmp_path / "o.safetensors", advance)
    assert cut


def test_the_source_is_not_touched(tmp_path: Path) -> None:
    source = tmp_path / "s.safetensors"
    save_file({"fc.weight": numbers(400, 24)}, source)
    before = source.read_bytes(), source.stat().st_mtime_ns
    source.chmod(0o444)
    written(source, {**MAP, "flatten": "WHC"}, tmp_path / "o.safetensors")
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before
