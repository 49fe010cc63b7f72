"""The user's own model, made by the function that the user names: the one place that runs it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from math import prod
from pathlib import Path
from typing import Any

from fcn_convert.errors import ModelError, printable
from fcn_convert.model.tracing import one_line, raised_at
from fcn_convert.torch_library import Tensor, nn, torch

FORM = "`package.module:factory` or `path/to/file.py:factory`"
PREFIX = "fcn_convert_model_"
MAX_NUMBERS = 1 << 27
"""Numbers of an input that are computed with."""


@contextmanager
def user_code() -> Iterator[None]:
    """While a user's code runs, stdout and the exit status are not its own.

    What it prints goes to stderr. Raises ModelError where it would end the program.
    """
    with redirect_stdout(sys.stderr):
        try:
            yield
        except SystemExit as error:
            raise ModelError(
                f"the model ends the program{raised_at(error)}; expected code that only computes"
            ) from error


def make_model(name: str) -> nn.Module:
    """Import a module and call the factory in it; the current folder is searched first.

    name: `package.module:factory`, or `path/to/file.py:factory`; the factory, a function or a
    class, is called without arguments; a module object is taken as it is. Raises ModelError where
    any of it fails.
    """
    place, separator, attribute = name.rpartition(":")
    if not separator or not place or not attribute:
        raise ModelError(f"--model {printable(name)}: expected {FORM}")
    try:
        factory: Any = _imported(place)
        for part in attribute.split("."):
            if not hasattr(factory, part):
                raise ModelError(f"--model {printable(name)}: there is no {printable(part)}")
            factory = getattr(factory, part)
        model = factory if isinstance(factory, nn.Module) else factory()
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError)
        advice = (
            "install it, or run where its folder is"
            if missing
            else "expected what makes the model when it is called without arguments"
        )
        raise ModelError(
            f"--model {printable(name)}: fails{raised_at(error)}: {one_line(error)}; {advice}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"--model {printable(name)}: gives {type(model).__name__}, expected an nn.Module"
        )
    return model.eval()


def _imported(place: str) -> Any:
    sys.path.insert(0, os.getcwd())
    path = Path(place)
    if not place.endswith(".py"):
        if path.is_file() or os.sep in place:
            raise ModelError(f"--model {printable(place)}: is not a Python file; expected {FORM}")
        return importlib.import_module(place)
    if not path.is_file():
        raise ModelError(f"--model {printable(place)}: is not a file; expected {FORM}")
    sys.path.insert(0, str(path.resolve().parent))  # for what lies beside it
    name = f"{PREFIX}{path.stem}"  # or a json.py would take the place of Python's own
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # as for a dataclass, which looks itself up
    found.loader.exec_module(module)
    return module


def example_of(sizes: str) -> Tensor:
    """Return a random input of one sample by its sizes, say `3,224,224`; raises ModelError."""
    try:
        shape = [int(size) for size in sizes.replace("x", ",").split(",")]
    except ValueError:
        shape = []
    if len(shape) not in {2, 3, 4} or min(shape) < 1 or prod(shape) > MAX_NUMBERS:
        raise ModelError(
            f"--input {printable(sizes)}: expected the sizes of one sample, C,L or C,H,W or "
            f"C,D,H,W, of {MAX_NUMBERS} numbers at most"
        )
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
