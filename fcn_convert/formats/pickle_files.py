"""Plain pickles: a dictionary of arrays or tensors, as `pickle.dump` writes it, in any protocol."""

from __future__ import annotations

import re
from dataclasses import replace

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import torch_distributed
from fcn_convert.formats.layouts import in_paddle_layout
from fcn_convert.formats.numpy_records import locate_array
from fcn_convert.formats.pickled_calls import warnings_of
from fcn_convert.formats.pickles import Node, read_pickle
from fcn_convert.formats.reader import HEAD_BYTES
from fcn_convert.formats.records import RecordError
from fcn_convert.formats.source import Files
from fcn_convert.formats.state_dicts import Search
from fcn_convert.formats.torch_pickled import PickledStorages
from fcn_convert.formats.torch_records import mapping_of
from fcn_convert.tensors import Index

_GLOBAL = rb"[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n"
_TEXT_START = re.compile(
    # A dictionary or a list, an instance, or what is named to be called.
    rb"\((?:dp|d\.|lp)|[}\]]q|\(i" + _GLOBAL + rb"|c" + _GLOBAL + rb"(?:p\d|q|\(|\))"
)
"""How pickles of protocols 0 and 1 begin that hold dictionaries, lists or objects."""
_BINARY_STARTS = b"}](\x95ccN)\x8f\x8c"
"""Opcodes that can follow the two bytes of the protocol."""
_JOBLIB = (
    "joblib.numpy_pickle.NumpyArrayWrapper",
    "sklearn.externals.joblib.numpy_pickle.NumpyArrayWrapper",
)
_OF_JOBLIB = (
    "is written by joblib, which puts the values of arrays between the parts of a pickle: load it "
    "with joblib, and save its arrays by name with numpy.savez, or a state dict with torch.save"
)
_SEVERAL = (
    "holds several pickles, one after the other, as pickle.dump writes them when it is called more "
    "than once: load each with pickle.load, and save one dictionary of all that they hold"
)
_PADDLE_TABLE = "StructuredToParameterName@@"
"""Under which paddle.save keeps its own names of the parameters beside them."""


def recognises(head: bytes) -> bool:
    """Return whether a file starts like a pickle of a dictionary, a list or an object."""
    if _TEXT_START.match(head):
        return True
    return len(head) > 3 and head[0] == 0x80 and 2 <= head[1] <= 5 and head[2] in _BINARY_STARTS


def read_index(files: Files) -> Index:
    """Index a pickle; raises CheckpointError where it is malformed."""
    storages = PickledStorages(files)

    def refused(_: Node) -> Node:
        raise CheckpointError(f"{files.main.path}: {_OF_JOBLIB}")

    known = {**storages.calls, **dict.fromkeys(_JOBLIB, refused)}
    pickle = read_pickle(files.main, 0, files.main.size, known)
    rest = files.main.pread(pickle.end, min(HEAD_BYTES, files.main.size - pickle.end))
    if recognises(rest):
        raise CheckpointError(f"{files.main.path}: {_SEVERAL}")
    if torch_distributed.is_metadata(pickle.root):
        index = torch_distributed.index_of(files, pickle.root)
    else:
        index = index_of(files, pickle.root, "pickle", storages)
    return replace(index, warnings=warnings_of(files.main.path, pickle.running))


def index_of(files: Files, root: Node, kind: str, storages: PickledStorages) -> Index:
    """Index what a pickle holds; storages: those of torch's tensors in it."""
    search = Search(storages.locate, lambda name, array: locate_array(name, array, files))
    try:
        search.run(root)
    except RecordError as error:
        raise CheckpointError(f"{files.main.path}: {error}") from error
    parameters = _parameters_of_paddle(root)
    if parameters is not None:
        return _of_paddle(files, search, parameters)
    return replace(search.index(kind), foreign_names=True)


def _parameters_of_paddle(root: Node) -> dict[str, str] | None:
    """Return what Paddle calls its parameters, by their names in the state dict beside them."""
    table = mapping_of((mapping_of(root) or {}).get(_PADDLE_TABLE))
    if table is None:
        return None
    pairs = table.items()
    return {k: v for k, v in pairs if isinstance(k, str) and isinstance(v, str)}


def _of_paddle(files: Files, search: Search, parameters: dict[str, str]) -> Index:
    try:
        found = tuple(in_paddle_layout(state_dict, parameters) for state_dict in search.found)
    except CheckpointError as error:
        raise CheckpointError(f"{files.main.path}: {error}") from None
    return replace(search.index("Paddle (pickle)"), state_dicts=found, layout="paddle")
