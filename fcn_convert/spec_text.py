"""A Spec as the YAML that a user would write: without defaults, with remarks as comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from fcn_convert.errors import printable
from fcn_convert.spec import Dense, Head, Spec, usual_order

WIDTH = 100

_PLAIN = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
# What YAML, of either version, takes for something other than text.
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def spec_text(
    spec: Spec, remarks: Iterable[str] = (), head_remarks: Sequence[Iterable[str]] = ()
) -> str:
    """Return YAML that `parse_spec` reads as this spec.

    remarks: comments at the top. head_remarks: comments over each head.
    """
    over_heads = [list(comments(remarks)) for remarks in head_remarks]
    over_heads += [[]] * (len(spec.heads) - len(over_heads))
    lines = [*comments(remarks), *_top(spec)]
    if len(spec.heads) == 1:
        lines += [*over_heads[0], *_head(spec, spec.heads[0])]
    else:
        lines.append("heads:")
        for head, over in zip(spec.heads, over_heads, strict=True):
            first, *rest = _head(spec, head)
            lines += [f"  {line}" for line in over]
            lines += [f"  - {first}", *(f"    {line}" for line in rest)]
    lines += _rename(spec)
    return "\n".join(lines) + "\n"


def comments(remarks: Iterable[str]) -> Iterator[str]:
    """Yield each remark as comment lines, wrapped."""
    for remark in remarks:
        yield from wrap(
            printable(remark),
            WIDTH - 2,  # a head's comments are indented
            initial_indent="# ",
            subsequent_indent="#   ",
            break_long_words=False,
            break_on_hyphens=False,
        ) or ["#"]


def _top(spec: Spec) -> Iterator[str]:
    if spec.state_dict is not None:
        yield f"state_dict: {_scalar(spec.state_dict)}"
    if spec.layout is not None:
        yield f"layout: {spec.layout}"


def _head(spec: Spec, head: Head) -> Iterator[str]:
    yield f"feature_map: [{', '.join(map(str, head.feature_map.sizes))}]"
    usual = usual_order(head.feature_map.axes, spec.layout or "torch")
    if head.flatten and head.flatten != usual:
        yield f"flatten: {head.flatten}"
    if head.dense is None:
        return
    entries = [_dense(entry) for entry in head.dense]
    line = f"dense: [{', '.join(entries)}]"
    if len(line) <= WIDTH:
        yield line
    else:
        yield "dense:"
        yield from (f"  - {entry}" for entry in entries)


def _dense(entry: Dense) -> str:
    name = _scalar(entry.name)
    return name if entry.reads is None else f"{{name: {name}, reads: {entry.reads}}}"


def _rename(spec: Spec) -> Iterator[str]:
    if spec.rename:
        yield "rename:"
    for old, new in spec.rename.items():
        yield f"  {_scalar(old)}: {_scalar(new)}"


def _scalar(text: str) -> str:
    """Return text as YAML: plain where nothing can be taken for something else, else quoted."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
