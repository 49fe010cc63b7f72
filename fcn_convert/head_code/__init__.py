"""The converted head as an nn.Module to paste, written from a report alone.

A report knows the layers and the names; it does not know the activations and the dropouts between
them, so the code says in comments where these go.
"""

from __future__ import annotations

from pathlib import Path

from fcn_convert.errors import printable
from fcn_convert.head_code.forward import forward_lines
from fcn_convert.head_code.modules import Modules, constructor_lines
from fcn_convert.head_code.reading import ReportedHead, read_head
from fcn_convert.tensors import times

INDENT = "    "


def code_of(report: str | Path) -> str:
    """Return the source of a module `Head`, with the state dict of the converted file's head.

    report: a JSON report of a conversion or a verification. Raises ReportError for another file.
    """
    head = read_head(Path(report))
    modules = Modules(head)
    lines = [
        *_introduction(head),
        "class Head(nn.Module):",
        f'{INDENT}"""The Dense layers as convolutions."""',
        "",
        f"{INDENT}def __init__(self) -> None:",
        *_indented(2, ["super().__init__()", *constructor_lines(modules)]),
        "",
        *_indented(1, forward_lines(modules)),
        *_loading(modules),
    ]
    return "\n".join(lines) + "\n"


def _introduction(head: ReportedHead) -> list[str]:
    maps = "; ".join(times(one.feature_map.values()) for one in head.heads)
    return [
        f"# The head of {head.output!r}, fully convolutional, written by fcn-convert.",
        f"# It reads the feature map ({maps}, or larger), never flattened.",
        "# Activations and dropouts have no tensors, so the report does not know them: put yours",
        "# where comments say so.",
        *(f"# Note: {printable(note)}." for note in head.notes),
        "import torch",
        "from torch import nn",
        "",
        "",
    ]


def _loading(modules: Modules) -> list[str]:
    dtypes = {layer.torch_dtype for layer in modules.head.layers}
    other = dtypes - {"float32"} if len(dtypes) == 1 else set()
    made = f"Head().to(torch.{other.pop()})" if other else "Head()"
    return [
        "",
        "",
        "# from safetensors.torch import load_file",
        *_tensors(modules.head),
        f"# head = {made}",
        "# ours = {name: tensors[name] for name in head.state_dict() if name in tensors}",
        "# head.load_state_dict(ours, strict=True)",
    ]


def _tensors(head: ReportedHead) -> list[str]:
    """Return the lines that load the output, a file or a folder of shards."""
    if not head.in_shards:
        return [f"# tensors = load_file({head.output!r})"]
    return [
        "# from pathlib import Path",
        "# tensors = {}",
        f"# for shard in Path({head.output!r}).glob('*.safetensors'):",
        "#     tensors.update(load_file(shard))",
    ]


def _indented(depth: int, lines: list[str]) -> list[str]:
    return [f"{INDENT * depth}{line}" if line else "" for line in lines]
