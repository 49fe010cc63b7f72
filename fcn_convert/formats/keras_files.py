"""Keras's files: `.h5` of whole models and of weights, and `.keras`, a zip file of both parts.

Read through h5py, of the extra `keras`; Keras itself is neither needed nor imported. The layout is
Keras's: kernels (in, out) and HWIO, channels flattened last. Any other HDF5 file is arrays by
name.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcn_convert.beside import INDEX_SUFFIX, REPORT_SUFFIX
from fcn_convert.errors import CheckpointError, quoted
from fcn_convert.formats.hdf5 import SIGNATURE, Arrays, read_arrays
from fcn_convert.formats.json_text import MAX_JSON, parse_json
from fcn_convert.formats.keras_config import LayerConfig, epsilons, read_config
from fcn_convert.formats.keras_maps import flattened_maps
from fcn_convert.formats.keras_weights import (
    Layers,
    by_names,
    by_numbers,
    groups_with_weights,
    model_of_groups,
    with_slashes,
)
from fcn_convert.formats.layouts import by_name, keras_layer, viewed
from fcn_convert.formats.records import RecordError
from fcn_convert.formats.source import Files, Part, SourceFile
from fcn_convert.formats.zip_directory import (
    LOCAL_SIGNATURE,
    Member,
    check_stored,
    checksums,
    read_directory,
    text_of,
)
from fcn_convert.tensors import Checksum, Index, LeftOut, StateDict, shown

CONFIG, WEIGHTS, SHARDS = "config.json", "model.weights.h5", "model.weights.json"
_WHOLE = "model_weights"
_SUFFIX = ".weights.h5"
GROUPS_NOTE = (
    "no configuration lies beside it: layers are named after the file's groups, and these names "
    "tell what their variables are"
)
KERAS_1_NOTE = (
    "written by Keras 1; its kernels are taken as TensorFlow's: those trained with Theano, "
    "`th_kernels`, are flipped, which the file does not say"
)
_NOT_WEIGHTS = {
    "optimizer": "optimizer state",
    "optimizer_weights": "optimizer state",
    "seed_generator": "state of a random generator",
    "metrics": "state of a metric",
}


def recognises(head: bytes) -> bool:
    """Return whether a file starts like one of HDF5."""
    return head.startswith(SIGNATURE)


def read_index(files: Files) -> Index:
    """Index an HDF5 file of Keras, or the arrays of any other."""
    file = files.main
    arrays = read_arrays(files, Part(file, 0, file.size))
    if _has_names(arrays, "") or _has_names(arrays, _WHOLE):
        return _named(files, arrays)
    if any("/vars/" in path for path in arrays.tensors):
        arrays = with_slashes(arrays)
        config = _config_beside(files)
        model = config or model_of_groups(arrays)
        index = _numbered("Keras weights (h5)", file.path, arrays, model)
        return index if config else replace(index, notes=(*index.notes, GROUPS_NOTE))
    tensors = StateDict("", arrays.tensors, arrays.left_out)
    return Index("HDF5", (tensors,), foreign_names=True)


def recognises_members(names: Collection[str]) -> bool:
    """Return whether a zip file with these members is a model of Keras 3."""
    return CONFIG in names and (WEIGHTS in names or SHARDS in names)


def read_members(files: Files, members: Mapping[str, Member]) -> Index:
    """Index a `.keras` file: its weights, by its configuration."""
    path = files.main.path
    if WEIGHTS not in members:
        raise CheckpointError(
            f"{path}: holds its weights in shards, which are not read here; load it with Keras and "
            "save it with model.save, without max_shard_size"
        )
    weights = members[WEIGHTS]
    check_stored(files.main, [weights], "Keras")
    arrays = with_slashes(read_arrays(files, Part(files.main, weights.offset, weights.nbytes)))
    config = _config(path, text_of(files.main, members[CONFIG], MAX_JSON))
    return _numbered("Keras (zip)", path, arrays, config, checksums([weights]))


def _has_names(arrays: Arrays, group: str) -> bool:
    attributes = arrays.attributes.get(group, {})
    return "layer_names" in attributes or "layer_names0" in attributes


def _config(path: Path, raw: bytes) -> LayerConfig:
    return read_config(path, parse_json(path, CONFIG, raw))


def _config_beside(files: Files) -> LayerConfig | None:
    """Return the configuration beside a file that cannot be read without one, if there is one."""
    name = next(_names_beside(files.main.path, CONFIG), None)
    return _config_in(files.opened[files.sibling(name)]) if name else None


def _names_beside(path: Path, *others: str) -> Iterator[str]:
    """Yield the names of existing files that may be the configuration of a file.

    others: names that it may have besides those made from the file's own.
    """
    stem = path.name.removesuffix(_SUFFIX) if path.name.endswith(_SUFFIX) else path.stem
    for name in (f"{stem}.keras", f"{stem}.json", *others):
        if name != path.name and os.path.exists(path.parent / name):
            yield name


def _config_in(file: SourceFile) -> LayerConfig:
    return _config(file.path, _text_of_config(file))


def _text_of_config(file: SourceFile) -> bytes:
    if file.pread(0, min(4, file.size)) == LOCAL_SIGNATURE:
        members = read_directory(file)
        if CONFIG not in members:
            raise CheckpointError(f"{file.path}: is a zip file without {CONFIG}")
        return text_of(file, members[CONFIG], MAX_JSON)
    if file.size > MAX_JSON:
        raise CheckpointError(f"{file.path}: has {file.size} bytes, more than any configuration")
    return file.pread(0, file.size)


def _named(files: Files, arrays: Arrays) -> Index:
    """Index a file whose attributes name layers and weights."""
    path = files.main.path
    prefix = _WHOLE if _has_names(arrays, _WHOLE) else ""
    raw = arrays.attributes[""].get("model_config")
    model: LayerConfig | None = None
    notes: tuple[str, ...] = ()
    if isinstance(raw, str):
        model = _config(path, raw.encode("utf-8", "replace"))
    _check_backend(path, {**arrays.attributes[""], **arrays.attributes[prefix]})
    try:
        if model is None:
            model, notes = _config_if_any(files, groups_with_weights(arrays, prefix))
        layers = by_names(arrays, prefix, model)
    except RecordError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if layers.of_keras_1:
        _check_order(path, layers, model)
        notes = (*notes, KERAS_1_NOTE)
    kind = "Keras 1 (h5)" if layers.of_keras_1 else "Keras (h5)"
    index = _index(kind, path, arrays, layers, model)
    return replace(index, notes=(*index.notes, *notes))


def _config_if_any(
    files: Files, layers: Collection[str]
) -> tuple[LayerConfig | None, tuple[str, ...]]:
    """Return the configuration beside a file that needs none, and why what is there is not used.

    A file called `config.json` is not looked at: many other tools write one. One of another model
    would say what layers of the same name never were, so it has to have all of these layers.
    """
    notes: list[str] = []
    for name in _names_beside(files.main.path):
        try:
            with ExitStack() as unused:
                beside = unused.enter_context(SourceFile(files.main.path.parent / name))
                model = _config_in(beside)
                _check_layers(beside.path, model, layers)
                unused.pop_all()
        except CheckpointError as error:
            notes.append(f"{error}; it is not used")
        else:
            files.opened.append(beside)
            return model, tuple(notes)
    return None, (*notes, *_perhaps_called_otherwise(files.main.path))


def _perhaps_called_otherwise(path: Path) -> Iterator[str]:
    """Yield a note where other JSON files lie beside a file: one may be its configuration.

    None of them is tried: layers of any two models may have the same names.
    """
    others = [
        entry.name
        for entry in path.parent.glob("*.json")
        if not entry.name.endswith((REPORT_SUFFIX, INDEX_SUFFIX)) and entry.stem != path.stem
    ]
    if others:
        yield (
            f"if {quoted(sorted(others), 3)} beside it is what to_json() wrote of this model, a "
            f"copy called {path.stem}.json tells the maps that its layers read"
        )


def _check_layers(path: Path, model: LayerConfig, layers: Collection[str]) -> None:
    known = {layer.name for layer in model.layers}
    missing = next((name for name in layers if name not in known), None)
    if missing is not None:
        raise CheckpointError(f"{path}: describes a model without the layer {shown(missing)}")


def _check_order(path: Path, layers: Layers, model: LayerConfig | None) -> None:
    """Raise CheckpointError where a kernel of Keras 1 is in Theano's order: out, in, H, W.

    The configuration says so, also of a kernel of as many columns as outputs.
    """
    every = model.every() if model else ()
    said = {each.name for each in every if each.settings.get("dim_ordering") == "th"}
    for layer in layers:
        kernel, bias = layer.arrays.get("kernel"), layer.arrays.get("bias")
        is_swapped = kernel and bias and kernel.shape[-1:] != bias.shape
        first = kernel or layer.arrays.get("depthwise_kernel")
        if first and (is_swapped or layer.name in said):
            raise CheckpointError(
                f"{path}: the kernel of {shown(layer.name)} is {list(first.shape)}, in the order "
                "of Theano (Keras 1, `th`); load and save it with Keras 2 on TensorFlow"
            )


def _check_backend(path: Path, attributes: dict[str, Any]) -> None:
    if attributes.get("backend") == "theano":
        raise CheckpointError(
            f"{path}: was written with Theano, which flips kernels; load and save it with Keras on "
            "another backend"
        )


def _numbered(
    kind: str,
    path: Path,
    arrays: Arrays,
    model: LayerConfig,
    stored_checksums: tuple[Checksum, ...] = (),
) -> Index:
    """Index a file that numbers variables."""
    if not model.layers:
        raise CheckpointError(
            f"{path}: its configuration does not list the layers of {model.kind}, a model of a "
            "class of its own; load it with Keras and save its weights with "
            "model.save('model.h5'), or its arrays by name with numpy.savez"
        )
    try:
        layers = by_numbers(arrays, model)
    except RecordError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return _index(kind, path, arrays, layers, model, stored_checksums)


def _index(  # noqa: PLR0913 - what both ways of writing come to
    kind: str,
    path: Path,
    arrays: Arrays,
    layers: Layers,
    model: LayerConfig | None,
    stored_checksums: tuple[Checksum, ...] = (),
) -> Index:
    others = [name for name in arrays.tensors if name not in layers.taken]
    left_out = [LeftOut(name, reason) for name in others if (reason := _reason(name))]
    kept = {entry.name for entry in left_out}
    try:
        tensors = by_name(
            [
                *(tensor for layer in layers for tensor in keras_layer(layer)),
                *_as_stored(arrays, [name for name in others if name not in kept]),
            ]
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    unreadable = tuple(LeftOut(name, "quantized by Keras") for name in layers.quantized)
    maps = flattened_maps(model) if model else {}
    found = StateDict("", tensors, (*left_out, *arrays.left_out), unreadable, "keras", maps)
    notes = epsilons(model) if model else ()
    return Index(kind, (found,), notes=notes, checksums=stored_checksums, layout="keras")


def _as_stored(arrays: Arrays, names: list[str]) -> Iterator[Any]:
    for name in names:
        yield viewed(arrays.tensors[name], name.replace("/", "."))


def _reason(name: str) -> str | None:
    """Return why an array is not a weight of the model; None for a weight of an unknown layer."""
    parts = name.split("/")
    return next((reason for part in parts if (reason := _NOT_WEIGHTS.get(part))), None)
