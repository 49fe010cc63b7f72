from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from corpus.foreign import FOREIGN
from corpus.zips import rezipped
from torch import nn

from fcn_convert.digests import Digests
from fcn_convert.errors import CheckpointError
from fcn_convert.formats import open_checkpoint
from fcn_convert.formats.state_dicts import MODULE_NOTE
from fcn_convert.formats.strided import read_values
from fcn_convert.tensors import Index, StateDict


def values_of(path: Path, chosen: str | None = None) -> tuple[Index, StateDict, dict[str, bytes]]:
    """Open a checkpoint and read all its values in row-major order."""
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.index.state_dict(chosen)
        values = {
            name: bytes(read_values(checkpoint.files[tensor.file], tensor))
            for name, tensor in found.tensors.items()
        }
    return checkpoint.index, found, values


def check(path: Path, expected: Mapping[str, Any], chosen: str | None = None) -> Index:
    """Hold names, shapes, dtypes and bytes against tensors or arrays that were saved."""
    index, found, values = values_of(path, chosen)
    assert set(values) == set(expected)
    for name, tensor in expected.items():
        array = tensor.detach().numpy() if isinstance(tensor, torch.Tensor) else tensor
        assert found.tensors[name].shape == array.shape
        assert found.tensors[name].dtype.torch == array.dtype.name
        assert values[name] == np.ascontiguousarray(array).tobytes()
    return index


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("mean", torch.zeros(3))
        self.plain = torch.ones(2)
        self.classifier = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x - self.mean.view(1, 3, 1, 1)) + self.plain.sum()
        return self.classifier(torch.flatten(x, 1)) * self.scale


def net() -> Net:
    torch.manual_seed(3)
    return Net().eval()


IMAGE = torch.ones(1, 3, 4, 4)


# NumPy's own containers.


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_npz(tmp_path: Path, savez: Callable[..., None]) -> None:
    arrays = {
        "fc6/weights": some(7, 5),
        "column_major": np.asfortranarray(some(3, 4, 2)),
        "half": some(2, 3).astype("f2"),
        "double": some(2).astype("f8"),
        "count": np.array(3),
        "flags": np.array([True, False]),
        "none": np.zeros((0, 4), "f4"),
        "large": np.zeros((300, 1000), "f4"),
    }
    savez(tmp_path / "m.npz", **arrays)
    assert check(tmp_path / "m.npz", arrays).format == "npz"


def test_npz_with_texts_and_objects(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, w=some(2, 2), classes=np.array(["a", "b"]), more=np.array([{}], dtype=object))
    _, found, _ = values_of(path)
    assert set(found.tensors) == {"w"}
    assert {entry.name for entry in found.left_out} == {"classes", "more"}


def test_npz_of_nothing_but_objects_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, net=np.array([{"w": some(2, 2)}], dtype=object), names=np.array(["a"]))
    sentence = (
        r"nothing in it maps names to tensors, only net, an array of Python objects, names, an "
        r"array of NumPy's dtype '<U1'; save a dictionary"
    )
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match=sentence):
        checkpoint.state_dict(None)


def test_npz_whose_member_lies(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    buffer = io.BytesIO()
    np.save(buffer, some(3))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", buffer.getvalue()[:-4])
    with pytest.raises(
        CheckpointError, match=r"array 'w' cannot be read: F32 .* needs 12 bytes, but"
    ):
        open_checkpoint(path)


def test_npz_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez_compressed(path, w=some(100))
    raw = bytearray(path.read_bytes())
    raw[150] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"is damaged: member 'w\.npy'"):
        open_checkpoint(path)


def test_big_endian_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", w=some(3).astype(">f4"))
    with pytest.raises(CheckpointError, match="'w' cannot be read: its values are big-endian"):
        open_checkpoint(tmp_path / "m.npz")


def test_npy_with_the_header_of_mlx(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4, )}"
    text = header.ljust(117) + b"\n"
    start = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    (tmp_path / "m.npy").write_bytes(start + some(3, 4).tobytes())
    assert np.array_equal(np.load(tmp_path / "m.npy"), some(3, 4))
    check(tmp_path / "m.npy", {"m": some(3, 4)})


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", some(3, 4))
    check(tmp_path / "m.npy", {"m": some(3, 4)})


LAYERS = {
    "conv1": {"weights": some(3, 3, 3, 8, seed=1), "biases": some(8, seed=2)},
    "PReLU1": {"alpha": some(8, seed=3)},
    "fc": {"weights": some(72, 5000, seed=4), "biases": some(5000, seed=5)},
}
NAMED = {f"{layer}.{name}": v for layer, arrays in LAYERS.items() for name, v in arrays.items()}


def test_npy_of_a_dictionary_of_layers(tmp_path: Path) -> None:
    np.save(tmp_path / "det.npy", LAYERS)
    assert check(tmp_path / "det.npy", NAMED).format == "npy (pickle)"


def test_npy_of_a_dictionary_of_lists(tmp_path: Path) -> None:
    lists = {name: list(arrays.values()) for name, arrays in LAYERS.items()}
    np.save(tmp_path / "alexnet.npy", lists)
    expected = {f"{k}.{i}": v for k, values in lists.items() for i, v in enumerate(values)}
    check(tmp_path / "alexnet.npy", expected)


# Arrays in pickles.


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_of_arrays(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "m.pkl"
    arrays = {
        "conv1_w": some(4, 3, 3, 3),
        "fc_w": some(300, 20),
        "fc_b": some(300, seed=1),
        "fortran": np.asfortranarray(some(4, 5)),
        "transposed": some(4, 3, 2).transpose(1, 2, 0),
        "ints": np.arange(5),
        "empty": np.zeros((0,), "f4"),
        "scalar": np.array(2.0),
    }
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "nobody"}, protocol=protocol))
    assert check(path, arrays).format == "pickle"


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("what", ["state dict", "module", "wrapped", "tensors", "npy"])
def test_tensors_that_pickle_dump_saved(tmp_path: Path, protocol: int, what: str) -> None:
    state = {
        **net().state_dict(),
        "large": torch.randn(200, 150),
        "columns": torch.randn(30, 20).T,
        "part": torch.randn(9, 4)[2:5],
        "half": torch.randn(4).half(),
        "none": torch.zeros(0, 3),
    }
    state["tied"] = state["large"]
    if not protocol:  # see below
        del state["large"], state["tied"]
    saved: Any = {"wrapped": {"state_dict": state, "epoch": 3}, "module": net()}.get(what, state)
    if what == "tensors":
        saved = {name: nn.Parameter(t) for name, t in state.items() if t.is_floating_point()}
    path = tmp_path / ("m.npy" if what == "npy" else "m.pkl")
    if what == "npy":
        np.save(path, np.array(state, dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(saved, protocol=protocol))
    expected = {"module": net().state_dict(), "tensors": saved}.get(what, state)
    check(path, expected)


KINDS = ["Double", "Float", "Half", "Long", "Int", "Short", "Char", "Byte"]


class Listed:
    """A storage as torch before 0.4 pickled it: its class and its values, which may be shared."""

    def __init__(self, kind: str, values: Any) -> None:
        self.made = getattr(torch, f"{kind}Storage"), (values,)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


class View:
    def __init__(self, storage: Listed, offset: int, *layout: tuple[int, ...]) -> None:
        self.made = torch._utils._rebuild_tensor, (storage, offset, *layout)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_pickle_dump_listed(tmp_path: Path, kind: str, protocol: int) -> None:
    values = [at % 100 - (0 if kind == "Byte" else 50) for at in range(40_000)]
    storage = Listed(kind, values)
    saved = {
        "w": View(storage, 0, (200, 200), (200, 1)),
        "columns": View(storage, 7, (5, 3), (1, 5)),
        "tied": View(storage, 0, (200, 200), (200, 1)),
        "none": View(Listed(kind, []), 0, (0, 3), (3, 1)),
    }
    path = tmp_path / "m.pkl"
    raw = pickle.dumps(saved, protocol=protocol)
    path.write_bytes(raw.replace(b"ctorch\n", b"ctorch.cuda\n"))  # in protocols before 4
    check(path, pickle.loads(raw))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        pytest.param([1.0, "x"], "a FloatStorage, lists something other than numbers", id="text"),
        pytest.param([1.0, 1e300], "lists something other than numbers of its kind", id="large"),
        pytest.param([1.0], "it reaches byte 8 of storage '0', which has 4", id="few"),
        pytest.param("12", "its rebuilder is not given a storage", id="no list"),
    ],
)
def test_lists_that_are_no_storage(tmp_path: Path, values: object, sentence: str) -> None:
    path = tmp_path / "m.pkl"
    view = View(Listed("Float", values), 0, (2,), (1,))
    path.write_bytes(pickle.dumps({"w": view}))
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(path)


def test_a_list_in_very_many_storages_is_refused(tmp_path: Path) -> None:
    path, values = tmp_path / "m.pkl", [0.0] * 20_000
    views = {f"w{at}": View(Listed("Float", values), 0, (2,), (1,)) for at in range(600)}
    path.write_bytes(pickle.dumps(views))
    with pytest.raises(CheckpointError, match="would have more than 10000000 values"):
        open_checkpoint(path)


def test_large_tensors_and_arrays_in_protocol_0_are_refused(tmp_path: Path) -> None:
    for at, large in enumerate((torch.ones(200, 150), np.ones((200, 150)))):
        path = tmp_path / f"{at}.pkl"
        path.write_bytes(pickle.dumps({"w": large}, protocol=0))
        with pytest.raises(CheckpointError, match=r"a line is longer than 65536 .*protocol=4"):
            open_checkpoint(path)


def test_tensors_of_pickle_dump_are_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps({"w": torch.randn(20, 30), "v": torch.ones(3)}, protocol=4))
    with open_checkpoint(path) as checkpoint:
        assert len(checkpoint.files) == 1


def loading(raw: object) -> bytes:
    """A pickle of one tensor whose storage is the byte string."""

    class Storage:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch.storage._load_from_bytes, (raw,)

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, (2,), (1,), False, {})

    return pickle.dumps({"w": Tensor()}, protocol=4)


def legacy(what: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(what, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        pytest.param(lambda: b"", "malformed pickle at byte 0", id="empty"),
        pytest.param(
            lambda: legacy(torch.ones(2).storage())[:-1], "is truncated: storage", id="cut"
        ),
        pytest.param(lambda: legacy(torch.ones(2)), "it does not hold a storage", id="tensor"),
        pytest.param(lambda: legacy([1]), "it does not hold a storage", id="list"),
        pytest.param(lambda: legacy(torch.ones(1).storage()), "it reaches byte 8 of", id="small"),
        pytest.param(lambda: 3, "its values are not bytes", id="number"),
        pytest.param(lambda: pickle.dumps([1] * 50000), "is not|truncated|magic", id="long"),
    ],
)
def test_byte_strings_that_are_no_storage(
    tmp_path: Path, raw: Callable[[], object], sentence: str
) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(loading(raw()))
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(path)


def test_a_loader_in_a_file_of_torch_is_not_called(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(loading(pickle.dumps(Planted(tmp_path / "marker"))))
    with pytest.raises(CheckpointError):
        open_checkpoint(path)
    assert not (tmp_path / "marker").exists()


class Planted:
    """Leaves a file behind where it is unpickled as pickle does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_several_pickles_in_one_file_are_refused(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "m.pkl"
    first, second = ({f"fc{at}.weight": np.ones((2, 8), "f4")} for at in (1, 2))
    path.write_bytes(pickle.dumps(first, protocol) + pickle.dumps(second, protocol))
    with pytest.raises(CheckpointError, match="holds several pickles, one after the other"):
        open_checkpoint(path)


def python2_pickle(arrays: dict[str, np.ndarray]) -> bytes:
    """A dictionary of arrays as Python 2 pickles it in protocol 2: texts are its byte strings."""

    def text(raw: bytes) -> bytes:
        if len(raw) < 256:
            return b"U" + bytes([len(raw)]) + raw
        return b"T" + len(raw).to_bytes(4, "little") + raw

    body = b"\x80\x02}("
    for name, array in arrays.items():
        sizes = b"(" + b"".join(b"M" + n.to_bytes(2, "little") for n in array.shape) + b"t"
        body += text(name.encode()) + b"cnumpy.core.multiarray\n_reconstruct\n"
        body += b"cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01" + sizes
        body += b"cnumpy\ndtype\n" + text(b"f4") + b"K\x00K\x01\x87R(K\x03" + text(b"<") + b"NNN"
        body += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(array.tobytes()) + b"tb"
    return body + b"u."


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    arrays = {
        "fc6_w": some(200, 30),
        "fc6_b": some(200),
        "reads_as_text": np.zeros(3, "f4"),
        "one": some(1),
    }
    raw = python2_pickle(arrays)
    loaded = pickle.loads(raw, encoding="latin1")
    assert all((loaded[name] == arrays[name]).all() for name in arrays)
    path = tmp_path / "m.pkl"
    path.write_bytes(raw)
    check(path, arrays)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_in_a_file_of_torch(tmp_path: Path, protocol: int, *, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    arrays = {"fc.weight": some(900, 400), "fc.bias": some(900), "t": torch.ones(2)}
    torch.save(
        {"state_dict": arrays},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    check(path, arrays)


def test_large_arrays_stay_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps({"w": some(200, 200)}, protocol=4))
    _, found, _ = values_of(path)
    tensor = found.tensors["w"]
    assert tensor.file == 0
    raw = path.read_bytes()
    assert raw[tensor.offset : tensor.offset + tensor.nbytes] == some(200, 200).tobytes()


def test_an_array_whose_bytes_are_too_few(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    raw = pickle.dumps({"w": some(3)}, protocol=4)
    path.write_bytes(raw.replace(b"K\x03\x85", b"K\x04\x85"))
    with pytest.raises(
        CheckpointError, match=r"'w' cannot be read: it has 12 bytes, but F32 \[4\]"
    ):
        open_checkpoint(path)


# TorchScript and exported programs.


def scripted() -> torch.jit.ScriptModule:
    return torch.jit.script(net())


def traced() -> torch.jit.ScriptModule:
    return torch.jit.trace(net(), IMAGE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [scripted, traced])
def test_torchscript(tmp_path: Path, make: Callable[[], Any]) -> None:
    path = tmp_path / "m.pt"
    torch.jit.save(make(), path)
    index = check(path, torch.jit.load(path).state_dict())
    assert index.format == "TorchScript"
    check(path, net().state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_whose_code_is_missing_loses_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.save(scripted(), path)
    with zipfile.ZipFile(path) as archive:
        [conv] = [n for n in archive.namelist() if "modules/conv" in n and n.endswith(".py")]
    path.write_bytes(rezipped(path.read_bytes(), lambda members: members.pop(conv)))
    with pytest.raises(CheckpointError, match=r"whose code, 'code/.*\.py', is missing"):
        open_checkpoint(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_of_an_unknown_class_loses_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(2, 2))), path)

    def change(members: dict[str, bytes]) -> None:
        [pickle] = [name for name in members if name.endswith("/data.pkl")]
        members[pickle], count = re.subn(rb"\nLinear\n", b"\nLiner\n", members[pickle])
        assert count == 1

    path.write_bytes(rezipped(path.read_bytes(), change))
    with pytest.raises(CheckpointError, match="a class that its code does not have"):
        open_checkpoint(path)


class OfItsOwnState(nn.Module):
    """Keeps a weight as a quantized module of PyTorch 1.5 does."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = torch.ones(2, 3)

    @torch.jit.export
    def __getstate__(self) -> tuple[int, torch.Tensor, bool]:  # type: ignore[override]
        return 2, self.packed, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, torch.Tensor, bool]) -> None:
        self.packed = state[1]
        self.training = state[2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.packed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_of_a_module_with_a_state_of_its_own_loses_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(4, 2), OfItsOwnState())), path)
    with (
        open_checkpoint(path) as checkpoint,
        pytest.raises(CheckpointError, match="1 is packed for quantized kernels: safetensors"),
    ):
        checkpoint.state_dict(None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_of_torchscript_may_hold_brackets(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    flat = nn.Linear(3, 2)
    flat.register_buffer("x]", torch.ones(2))
    flat.register_buffer("scale", torch.ones(3))
    torch.jit.save(torch.jit.trace(flat, torch.ones(3)), path)
    check(path, flat.state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_of_tch_have_dots_again(tmp_path: Path) -> None:
    path = tmp_path / "m.ot"
    flat = nn.Module()
    for name, tensor in net().state_dict().items():
        flat.register_buffer(name.replace(".", "|"), tensor)
    torch.jit.save(torch.jit.script(flat), path)
    check(path, net().state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frozen_torchscript_has_no_names(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.save(torch.jit.freeze(scripted()), path)
    with pytest.raises(CheckpointError, match=r"without named weights.*before torch\.jit\.freeze"):
        open_checkpoint(path)


@pytest.fixture(scope="module")
def exported() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net(), (IMAGE,)), buffer)
    return buffer.getvalue()


def test_exported_program(tmp_path: Path, exported: bytes) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(exported)
    loaded = torch.export.load(path).state_dict
    assert set(loaded) == set(net().state_dict())
    assert check(path, loaded).format == "torch.export"


def saved(thing: object) -> bytes:
    """What torch.save writes of it."""
    torch.save(thing, stream := io.BytesIO())
    return stream.getvalue()


def exported_before_2_7(path: Path, thing: object, change: Callable[[bytes], bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", change(saved(thing)))
    return path


def test_exported_program_before_2_7(tmp_path: Path) -> None:
    check(exported_before_2_7(tmp_path / "m.pt2", net().state_dict(), bytes), net().state_dict())
    index = check(exported_before_2_7(tmp_path / "m.pt2", net(), bytes), net().state_dict())
    assert index.notes == (MODULE_NOTE,)


def test_damage_inside_of_an_exported_program_before_2_7(tmp_path: Path) -> None:
    [*_, last] = net().state_dict().values()
    weight = last.numpy().tobytes()
    flipped = bytes([weight[0] ^ 1]) + weight[1:]
    path = exported_before_2_7(
        tmp_path / "m.pt2", net().state_dict(), lambda raw: raw.replace(weight, flipped)
    )
    with open_checkpoint(path) as checkpoint, Digests(1) as digests:
        digests.start(checkpoint)
        with pytest.raises(CheckpointError, match="is damaged: the checksum of 'archive/data/"):
            digests.of(checkpoint)


def of_stable_baselines(policy: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file with the members of Stable-Baselines3's `save_to_zip_file`, in its order."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(3))])
    with zipfile.ZipFile(stream := io.BytesIO(), "w", method) as archive:
        archive.writestr("data", "{}")
        archive.writestr("pytorch_variables.pth", saved({}))
        archive.writestr("policy.pth", policy)
        archive.writestr("policy.optimizer.pth", saved(optimizer.state_dict()))
        archive.writestr("_stable_baselines3_version", "2.3.2")
        archive.writestr("system_info.txt", "OS: Linux")
    return stream.getvalue()


def test_stable_baselines(tmp_path: Path) -> None:
    policy = {
        "features_extractor.cnn.0.weight": torch.randn(4, 3, 3, 3),
        "features_extractor.linear.0.weight": torch.randn(5, 16).T.contiguous().T,
        "log_std": torch.from_numpy(some(2)),
    }
    path = tmp_path / "ppo.zip"
    path.write_bytes(of_stable_baselines(saved(policy)))
    index = check(path, policy)
    assert index.format == "Stable-Baselines3"
    assert {entry.name for entry in index.left_out} >= {"policy.optimizer.pth", "data"}
    with open_checkpoint(path) as checkpoint, Digests(1) as digests:
        digests.of(checkpoint)  # the checksums of its members hold, at their places


def test_damage_inside_of_stable_baselines(tmp_path: Path) -> None:
    weight = torch.from_numpy(some(64))
    path = tmp_path / "ppo.zip"
    raw = bytearray(of_stable_baselines(saved({"fc.weight": weight})))
    raw[raw.index(weight.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(raw)
    with (
        open_checkpoint(path) as checkpoint,
        Digests(1) as digests,
        pytest.raises(CheckpointError, match=r"is damaged: the checksum of '.*data/0'"),
    ):
        digests.of(checkpoint)


def test_stable_baselines_compressed(tmp_path: Path) -> None:
    path = tmp_path / "ppo.zip"
    path.write_bytes(of_stable_baselines(saved({}), zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match=r"'policy\.pth' is compressed, which Stable-Base"):
        open_checkpoint(path)


# Folders.


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder without a checkpoint; expected model"):
        open_checkpoint(tmp_path)


def test_a_folder_with_several_checkpoints(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        torch.save(net().state_dict(), tmp_path / name)
    with pytest.raises(CheckpointError, match=r"holds 2 files that could be meant: a\.pth, b\.pth"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["best.pth", "best.PTH", "best.pdparams"])
def test_a_folder_with_one_checkpoint(tmp_path: Path, name: str) -> None:
    torch.save(net().state_dict(), tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    check(tmp_path, net().state_dict())


# What cannot be read.


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_joblibs_arrays_are_told(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pkl"
    joblib.dump({"fc.weight": some(4, 9)}, path, protocol=protocol)
    with pytest.raises(CheckpointError, match=r"is written by joblib, .* with numpy\.savez, or"):
        open_checkpoint(path)


@pytest.mark.parametrize("kind", sorted(FOREIGN))
def test_what_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    raw, sentence = FOREIGN[kind]
    path = tmp_path / "model.pth"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(path).state_dict(None)


@pytest.mark.parametrize("raw", [np.ones(9, "f4").tobytes(), bytes(64), b"\x02" + bytes(40)])
def test_the_values_of_a_tensorflow_checkpoint(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "model.ckpt-7.data-00000-of-00001"
    path.write_bytes(raw)
    sentence = "is the part of a TensorFlow checkpoint that holds the values.*numpy.savez"
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(path)


# EMA beside the model.


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        (("state_dict", "state_dict_ema"), "state_dict_ema"),
        (("model", "model_ema"), "model_ema"),
        (("model", "ema"), "ema"),
    ],
)
def test_ema_beside_the_model(tmp_path: Path, keys: tuple[str, str], chosen: str) -> None:
    path = tmp_path / "m.pth"
    model = net().state_dict()
    ema = {name: tensor + 1 for name, tensor in model.items()}
    torch.save({keys[0]: model, keys[1]: ema, "epoch": 3, "args": {"lr": 0.1}}, path)
    with pytest.raises(CheckpointError, match=f"holds {keys[0]} .*, {keys[1]} .*choose one with"):
        open_checkpoint(path).state_dict(None)
    check(path, ema, chosen)
    check(path, model, keys[0])
