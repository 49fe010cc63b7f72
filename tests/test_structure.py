from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.main import get_command

import fcn_convert
from fcn_convert.cli import app

PACKAGE = Path(fcn_convert.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

RANKS: tuple[frozenset[str], ...] = tuple(
    frozenset(layer.split())
    for layer in (
        "errors hdf5_child numpy_import torch_import torch_library torch_settings workers",
        "tensors turns atomic beside proof layout_proof",
        "formats",
        "spec spec_yaml spec_schema spec_text",
        "layers renames shape_doubts",
        "infer",
        "plan activations digests rereading",
        "write verify shard_folder",
        "report",
        "head_code model",
        "conversion",
        "__init__",
        "batch",
        "cli",
        "__main__",
    )
)
"""Imports point to the left, or stay inside of a layer."""

ONLY = {
    "errors": set(),
    "torch_import": set(),
    "numpy_import": set(),
    "torch_library": {"errors", "numpy_import"},
    "torch_settings": {"torch_library"},
    "workers": set(),
    "digests": {"errors", "formats", "tensors", "workers"},
    "tensors": {"errors"},
    "turns": set(),
    "atomic": {"errors", "turns"},
    "beside": {"errors"},
    "shard_folder": {"atomic", "errors", "formats", "plan", "turns"},
    "proof": set(),
    "formats": {"beside", "errors", "tensors", "formats", "numpy_import", "torch_library"},
    "spec": {"errors", "formats", "spec_schema", "spec_yaml", "tensors"},
    "renames": {"spec", "tensors"},
    "shape_doubts": {"errors", "layers", "spec", "tensors"},
    "plan": {"errors", "layers", "tensors"},
    "layout_proof": {"tensors"},
    "verify": {
        "layout_proof",
        "activations",
        "digests",
        "formats",
        "layers",
        "proof",
        "rereading",
        "spec",
        "tensors",
        "torch_import",
        "torch_library",
        "workers",
    },
    "rereading": {"formats", "numpy_import", "tensors"},
    "activations": {
        "activations",
        "formats",
        "layers",
        "proof",
        "rereading",
        "tensors",
        "torch_library",
        "torch_settings",
        "workers",
    },
}
"""What a module may import of the package, where its rank says too little."""

QUICK_ONLY_STDLIB = ("errors", "tensors")


def name_of(path: Path) -> str:
    """Return the module or folder directly inside the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rank(name: str) -> int:
    return next(at for at, names in enumerate(RANKS) if name in names)


def imports(path: Path) -> Iterator[str]:
    """Yield every absolute module a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            module = node.module or ""
            yield module
            # `from fcn_convert import errors` and `from fcn_convert.formats import strided`
            for alias in node.names:
                if (PACKAGE.parent / module.replace(".", "/") / f"{alias.name}.py").exists():
                    yield f"{module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def inside(path: Path) -> set[str]:
    """Return which modules of the package a file imports."""
    found: set[str] = set()
    for module in imports(path):
        first, *rest = module.split(".")
        if first == "fcn_convert":
            found.add(rest[0] if rest else "__init__")
    return found


def outside(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)} - {"fcn_convert"}


every_module = pytest.mark.parametrize(
    "path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES]
)


@every_module
def test_imports_point_downwards(path: Path) -> None:
    name = name_of(path)
    upwards = {other for other in inside(path) if rank(other) > rank(name)}
    # The command takes `convert` and the version from the package itself.
    assert not upwards, f"{name} imports {upwards}"
    if name in ONLY:
        assert inside(path) <= ONLY[name]


def test_hdf5_is_parsed_in_a_process_of_its_own() -> None:
    """Only there is h5py imported; it needs nothing of the package, and nothing imports it."""
    for path in MODULES:
        if name_of(path) == "hdf5_child":
            assert inside(path) <= {"hdf5_child"}
            assert outside(path) <= sys.stdlib_module_names | {"h5py"}
        else:
            assert "h5py" not in outside(path)
            assert "hdf5_child" not in inside(path)


@pytest.mark.parametrize("name", QUICK_ONLY_STDLIB)
def test_the_lowest_layer_needs_the_standard_library_only(name: str) -> None:
    assert outside(PACKAGE / f"{name}.py") <= sys.stdlib_module_names


@every_module
def test_torch_is_imported_where_values_are_computed(path: Path) -> None:
    """And nowhere while a module is loaded; `torch_library` is the one place that does it."""
    tree = ast.parse(path.read_text("utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    heavy = {name for name in names if name.split(".")[0] in {"torch", "numpy", "safetensors"}}
    if name_of(path) in {"activations", "model"}:  # compute all along, and are imported late
        heavy = {name for name in heavy if name.split(".")[0] != "torch"}
    assert not heavy or name_of(path) == "torch_library"
    assert "numpy" not in outside(path)  # `numpy_import` does it, by name, where it is needed
    assert "safetensors" not in outside(path)  # a library to be held against, not to rely on


@every_module
def test_sizes(path: Path) -> None:
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= 400
    long = {
        node.name: lines
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := lines_of_body(node)) > 40
    }
    assert not long


def lines_of_body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count what there is to follow, without the signature and the docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_every_module_has_a_rank() -> None:
    known = {name for names in RANKS for name in names}
    assert {name_of(path) for path in MODULES} <= known


def test_no_utils() -> None:
    assert not [path for path in MODULES if path.stem in {"utils", "helpers", "common", "misc"}]


# What a command really loads.

LOADED = """
import os, sys
os._exit = sys.exit  # the command ends without returning
from fcn_convert.__main__ import main
sys.argv = ["fcn-convert", *sys.argv[1:]]
try:
    main()
except SystemExit as ending:
    code = ending.code
loaded = sorted({"torch", "numpy", "pydantic", "safetensors", "h5py"} & set(sys.modules))
print("loaded:", *loaded, "status:", code)
"""


def loaded_by(*arguments: str, folder: Path, said: str = "") -> str:
    """Run a command in a process of its own; return the heavy modules it loaded, and its status."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said in done.stderr if said else done.stderr == ""
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--version"], id="version"),
        pytest.param(["--help"], id="help"),
    ],
)
def test_help_and_version_are_quick(tmp_path: Path, arguments: list[str]) -> None:
    assert loaded_by(*arguments, folder=tmp_path) == "loaded: status: 0"


COMMANDS = [
    *(["convert"], ["verify"], ["inspect"], ["init"], ["code"], ["batch"], ["report", "merge"]),
    *(["check-spec"], ["schema"]),
]


def test_every_command_is_among_those_whose_help_is_quick() -> None:
    found: list[list[str]] = []
    groups: list[tuple[list[str], Any]] = [([], get_command(app))]
    for path, group in groups:  # grows while it is walked
        for name, command in group.commands.items():
            inner = ([*path, name], command)
            groups.append(inner) if hasattr(command, "commands") else found.append(inner[0])
    assert sorted(found) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_is_quick(tmp_path: Path, command: list[str]) -> None:
    # Typer itself needs pydantic to show a command's parameters.
    found = loaded_by(*command, "--help", folder=tmp_path)
    assert found.replace(" pydantic", "") == "loaded: status: 0"


@pytest.mark.parametrize("command", ["convert", "inspect", "init"])
def test_torch_is_not_loaded_for_a_file_that_is_refused(tmp_path: Path, command: str) -> None:
    # It takes most of the memory that a hostile file may cost.
    (tmp_path / "m.safetensors").write_bytes(bytes(8) + b"{")
    (tmp_path / "m.yaml").write_text("feature_map: [3, 2, 4]\n")
    found = loaded_by(command, "m.safetensors", folder=tmp_path, said="does not start with")
    assert found.replace(" pydantic", "") == "loaded: status: 2"


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_a_channels_first_conversion_needs_neither_torch_nor_numpy(
    tmp_path: Path, form: str
) -> None:
    tensors = {"fc.weight": torch.randn(5, 24), "fc.bias": torch.randn(5)}
    if form == "safetensors":
        save_file(tensors, tmp_path / "model.ckpt")
    else:
        torch.save(tensors, tmp_path / "model.ckpt", _use_new_zipfile_serialization=form == "zip")
    (tmp_path / "model.yaml").write_text("feature_map: [3, 2, 4]\n")
    for level in ("shapes", "bytes"):
        arguments = ("convert", "model.ckpt", "--verify", level, "--force")
        assert loaded_by(*arguments, folder=tmp_path) == "loaded: pydantic status: 0"
    assert (tmp_path / "model.fcn.safetensors").exists()


@pytest.mark.parametrize("level", ["shapes", "bytes"])
def test_a_permutation_needs_numpy_only(tmp_path: Path, level: str) -> None:
    save_file({"fc.weight": torch.randn(5, 24)}, tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_text("feature_map: [3, 2, 4]\nflatten: HWC\n")
    arguments = ("convert", "model.safetensors", "--verify", level)
    assert loaded_by(*arguments, folder=tmp_path) == "loaded: numpy pydantic status: 0"


@pytest.mark.heavy
def test_reading_hdf5_loads_neither_its_library_nor_numpy(tmp_path: Path) -> None:
    h5py = import_module("h5py")
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file["fc.weight"] = torch.randn(5, 24).numpy()
    (tmp_path / "model.yaml").write_text("feature_map: [3, 2, 4]\n")
    arguments = ("convert", "model.h5", "--verify", "bytes")
    assert loaded_by(*arguments, folder=tmp_path) == "loaded: pydantic status: 0"
