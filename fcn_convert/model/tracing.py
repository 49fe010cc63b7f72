"""Records a model's forward pass as a graph, with the value that every node had.

torch.fx alone gives up where a model looks at a size to decide something. Here every node is
computed as it is recorded, so such a decision is taken as the example input decides it, and noted.
A submodule that cannot be recorded at all becomes one node, to be called as a whole.
"""

from __future__ import annotations

import importlib
import inspect
import operator
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_convert.errors import ModelError, printable
from fcn_convert.model.imagined import Mode
from fcn_convert.torch_library import Tensor, fx, nn, torch

MAX_LEAVES = 64
"""Submodules that may be called as a whole before it is given up."""
VALUE = "value"
_FRAME = re.compile(r'File "([^"\n]+)", line (\d+), in .*\n(?:\s+(.*)\n?)?')
_NOT_THE_USERS = (
    *(str(Path(place).parent) for place in (torch.__file__, importlib.__file__, __file__)),
    "<frozen ",
)
"""Beginnings of the names of files whose lines say nothing to the author of a model."""


@dataclass(frozen=True)
class Traced:
    """A model as a graph; `node.meta["value"]` is what the example input made of each node.

    model: what the graph's module names are looked up in. inputs: the example.
    decisions: lines of the model that look at a size, taken as the example decides them.
    mode: what the values were computed with; what does not depend on the input is always real.
    """

    model: nn.Module
    graph: fx.Graph
    inputs: tuple[Tensor, ...]
    decisions: tuple[str, ...]
    mode: Mode


def trace(model: nn.Module, inputs: tuple[Tensor, ...], mode: Mode) -> Traced:
    """Record the forward pass of a model in evaluation mode.

    Raises ModelError, with the source line, where it cannot be recorded.
    """
    leaves: set[str] = set()
    while True:
        tracer = _Tracer(inputs, leaves, mode)
        try:
            graph = tracer.trace(model)
        except Exception as error:
            if not tracer.failed or tracer.failed in leaves or len(leaves) >= MAX_LEAVES:
                raise ModelError(
                    f"the forward pass of {type(model).__name__} cannot be recorded"
                    f"{raised_at(error)}: {one_line(error)}; expected what torch.fx can record: "
                    "decisions by sizes alone"
                ) from error
            leaves.add(tracer.failed)
        else:
            _drop_views_of_the_same_shape(graph)
            return Traced(model, graph, inputs, tuple(dict.fromkeys(tracer.decisions)), mode)


def where(node: fx.Node) -> str:
    """Return the node in words for a message: what it calls, and the line that calls it."""
    named = node.target if isinstance(node.target, str) else _name_of(node.target)
    lines = _user_lines(node.stack_trace or "")
    return f"{printable(named)}{f' ({lines[-1]})' if lines else ''}"


def one_line(error: BaseException) -> str:
    """Return an exception as the end of a sentence."""
    text = str(error).strip().split("\n")[0][:300]
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def raised_at(error: BaseException) -> str:
    """Return where in the user's code an exception arose, in brackets, or nothing."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    mine = [f for f in frames if not f.filename.startswith(_NOT_THE_USERS)]
    if not mine:
        return ""
    code = (mine[-1].code_context or [""])[0].strip()
    return f" ({_line(mine[-1].filename, str(mine[-1].lineno), code)})"


def run(node: fx.Node, model: nn.Module, args: Any, kwargs: Any) -> Any:
    """Do what a node does, with other arguments."""
    if node.op == "call_function":
        return node.target(*args, **kwargs)  # type: ignore[operator]
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.op == "call_module":
        return model.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "get_attr":
        return attribute(model, str(node.target))
    raise AssertionError(node.op)


def attribute(model: nn.Module, path: str) -> Any:
    """Return a parameter, a buffer or another attribute by its dotted path."""
    found: Any = model
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _name_of(target: Callable[..., Any]) -> str:
    return getattr(target, "__name__", str(target))


def _user_lines(stack: str) -> list[str]:
    return [
        _line(*match.groups(default=""))
        for match in _FRAME.finditer(stack)
        if not match[1].startswith(_NOT_THE_USERS)
    ]


def _line(file: str, number: str, code: str) -> str:
    return printable(f"{Path(file).name}:{number}" + (f": {code[:100]}" if code else ""))


class _Value(fx.Proxy):
    """A proxy that answers with the example's sizes where a Python number is needed."""

    def _number(self) -> Any:
        return self.tracer.decide(self)  # type: ignore[attr-defined]

    def __index__(self) -> int:
        return int(self._number().__index__())

    def __int__(self) -> int:
        return int(self._number())

    def __float__(self) -> float:
        return float(self._number())

    def __len__(self) -> int:
        value = self.node.meta[VALUE]
        return len(value if isinstance(value, Tensor) else self._number())

    def __iter__(self) -> Iterator[Any]:
        value = self.node.meta[VALUE]
        if isinstance(value, Tensor):
            self._note()
        return (operator.getitem(self, at) for at in range(len(value)))

    def _note(self) -> None:
        self.tracer.note()  # type: ignore[attr-defined]


class _Tracer(fx.Tracer):
    """Records and computes at once.

    failed: the innermost submodule whose forward pass raised.
    """

    def __init__(self, inputs: tuple[Tensor, ...], leaves: set[str], mode: Mode) -> None:
        super().__init__(autowrap_functions=_functions_to_record())
        self.record_stack_traces = True
        self.inputs = inputs
        self.leaves = leaves
        self.mode = mode
        self.depend_on_input: set[fx.Node] = set()
        self.failed = ""
        self.decisions: list[str] = []
        self._computing = False

    def create_args_for_root(self, root_fn: Any, *_more: Any) -> tuple[Any, list[Any]]:
        names = [*inspect.signature(root_fn).parameters][1:]
        names += [f"input_{at}" for at in range(len(names), len(self.inputs))]
        pairs = zip(names, self.inputs, strict=False)
        return root_fn, [self.root, *(self._placeholder(*pair) for pair in pairs)]

    def _placeholder(self, name: str, value: Tensor) -> fx.Proxy:
        node = self.create_node("placeholder", name, (), {})
        node.meta[VALUE] = value
        return self.proxy(node)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.leaves or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        made_on_the_way = not any(found is m for found in self.root.modules())  # nn.Flatten()(x)
        if self._computing or made_on_the_way:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._computing:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any
    ) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *more, **named)
        if kind == "output":
            return node
        if kind == "placeholder" or self.depend_on_input.intersection(node.all_input_nodes):
            self.depend_on_input.add(node)
        if kind == "placeholder":
            return node
        computing, self._computing = self._computing, True
        try:
            with self.mode if node in self.depend_on_input else nullcontext():
                node.meta[VALUE] = run(
                    node,
                    self.root,
                    fx.map_arg(node.args, lambda other: other.meta[VALUE]),
                    fx.map_arg(node.kwargs, lambda other: other.meta[VALUE]),
                )
        finally:
            self._computing = computing
        return node

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.decide(obj))

    def decide(self, obj: fx.Proxy) -> Any:
        """Return a proxy's value, where it is a size and not a value of a tensor."""
        value = obj.node.meta[VALUE]
        if isinstance(value, Tensor):
            raise TypeError(f"it decides by the values of a tensor, {obj.node.name}")
        self.note()
        return value

    def note(self) -> None:
        """Note the line that decides."""
        frames = inspect.stack(context=1)
        mine = [f for f in frames if not f.filename.startswith(_NOT_THE_USERS)]
        if mine:
            code = (mine[0].code_context or [""])[0].strip()
            self.decisions.append(_line(mine[0].filename, str(mine[0].lineno), code))


def _drop_views_of_the_same_shape(graph: fx.Graph) -> None:
    """Take out what pins a map to the example's size and does nothing: `x.view(-1, 1, 28, 28)`."""
    for node in graph.nodes:
        made = node.meta.get(VALUE)
        if node.target not in {"view", "reshape", torch.reshape} or not isinstance(made, Tensor):
            continue
        source = node.all_input_nodes[0]
        read = source.meta[VALUE]
        if isinstance(read, Tensor) and (made.shape, made.dtype) == (read.shape, read.dtype):
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _functions_to_record() -> tuple[Callable[..., Any], ...]:
    """Return functions that would look into a proxy: those of einops, where it is in use."""
    einops = sys.modules.get("einops")
    names = ("rearrange", "reduce", "repeat")
    return tuple(getattr(einops, name) for name in names) if einops else ()
