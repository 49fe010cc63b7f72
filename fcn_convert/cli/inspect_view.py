"""The tables and pictures of `fcn-convert inspect`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from fcn_convert.errors import quoted
from fcn_convert.infer.inspection import Inspection
from fcn_convert.infer.scores import CLEAR_Z
from fcn_convert.report.rows import Rows, print_line, wrap_on_terminals_only
from fcn_convert.report.words import shape, size
from fcn_convert.tensors import times

SHADES = " ░▒▓█"
"""From none to all; characters and no colours, so that they show wherever text does."""
MANY = 4
"""Entries beside a state dict that are listed one by one, from one place with the same reason."""


def text_of(found: Inspection, every_tensor: bool) -> str:
    """Return everything as text for a terminal, or for a log."""
    console = Console()
    wrap_on_terminals_only(console)
    with console.capture() as capture:
        for part in _parts(found, every_tensor):
            if isinstance(part, Rows):
                part.print_on(console)
            else:
                print_line(console, part)
    return capture.get()


def _parts(found: Inspection, every_tensor: bool) -> Iterator[str | Rows]:
    yield from about(found)
    if found.problem:
        yield f"no network is chosen: {found.problem}"
        return
    if every_tensor:
        rows = [(t["name"], shape(t["shape"]), t["dtype"], size(t["bytes"])) for t in found.tensors]
        yield Rows(("tensor", "shape", "dtype", "size"), rows, folds={"tensor"})
    else:
        modules = [
            (m["name"] or "(at the top)", str(m["tensors"]), str(m["elements"]), size(m["bytes"]))
            for m in found.modules
        ]
        yield Rows(("module", "tensors", "elements", "size"), modules, folds={"module"})
    for head in found.heads:
        yield from _head(head)
    yield from not_heads(found)


def about(found: Inspection) -> Iterator[str]:
    """Say what the file is, and what is in it."""
    file = found.file
    yield f"{file['path']} ({file['format']}, {size(file['bytes'])})"
    yield from (f"warning: {warning}" for warning in file["warnings"])
    yield from (f"note: {note}" for note in file["notes"])
    yield from (_state_dict(entry) for entry in found.state_dicts)
    for entry in found.state_dicts:
        yield from (f"tied: {', '.join(tie)}" for tie in entry["ties"])
        yield from (f"unreadable: {e['name']}, {e['reason']}" for e in entry["unreadable"])
    yield from (f"beside it: {entry}" for entry in _summed_up(found.left_out))
    layout = found.layout  # of the network: empty where none is chosen
    if layout and (layout["name"] != "torch" or layout["remark"]):
        yield f"layout: {layout['name']}{f' ({remark})' if (remark := layout['remark']) else ''}"


def _summed_up(entries: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield each entry with its reason; many in one place with the same reason together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        place = re.split(r"[./]", entry["name"], maxsplit=1)[0]
        groups.setdefault((place, entry["reason"]), []).append(entry["name"])
    for (place, reason), names in groups.items():
        if len(names) > MANY:
            yield f"{place} ({len(names)} entries), {reason}"
        else:
            yield from (f"{name}, {reason}" for name in names)


def _state_dict(entry: Mapping[str, Any]) -> str:
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in entry["dtypes"].items())
    prefix = f", all under {entry['prefix']}" if entry["prefix"] else ""
    name = entry["path"] or "(the whole file)"
    elements = f"{entry['elements']} elements, {size(entry['bytes'])}"
    return f"state dict {name}: {entry['tensors']} tensors ({dtypes}), {elements}{prefix}"


def _head(head: Mapping[str, Any]) -> Iterator[str | Rows]:
    yield ""
    yield f"head {', '.join(head['layers'])}: {reading_of(head)}"
    yield from (f"  {line}" for line in remarks(head))
    if head["evidence"]:
        yield Rows(EVIDENCE, [*map(evidence, head["evidence"])])
        yield f"  {ABOUT_Z}"
    for pattern in head["patterns"]:
        yield f"  the mean kernel under {shown(pattern)}, each signed by its middle:"
        yield from (f"    {row}" for row in picture(pattern["sizes"], pattern["values"]))


def reading_of(head: Mapping[str, Any]) -> str:
    """Say which map a head reads, and in which order."""
    reading = head["reading"]
    return shown(reading) if reading else "what it reads cannot be told from the file alone"


def remarks(head: Mapping[str, Any]) -> Iterator[str]:
    """Say what that rests on."""
    yield f"the map is read by {quoted(head['reads_the_map'])}"
    yield from head["remarks"]
    if head["alternatives"]:
        yield f"it may read {'; '.join(map(shown, head['alternatives']))}"


EVIDENCE = ("map and order", "z", "weights alike", "strengths alike")
ABOUT_Z = f"z: how far neighbours are alike beyond chance, in deviations; {CLEAR_Z:.0f} would count"


def evidence(score: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row of the table of readings."""
    numbers = (f"{score['z']:.1f}", f"{score['weights']:.3f}", f"{score['strengths']:.3f}")
    return shown(score), *numbers


def shown(reading: Mapping[str, Any]) -> str:
    """Show a map with its flatten order."""
    return f"{times(reading['feature_map'])} {reading['flatten']}"


def picture(sizes: Sequence[int], values: Sequence[float]) -> list[str]:
    """Return a pattern as rows of shades, row by row of the map; 3-D ones slice after slice."""
    width = sizes[-1] if sizes else 1
    shades = [SHADES[round(max(0.0, min(1.0, v)) * (len(SHADES) - 1))] * 2 for v in values]
    return [f"|{''.join(shades[at : at + width])}|" for at in range(0, len(shades), width)]


def not_heads(found: Inspection) -> Iterator[str]:
    """Say which Dense layers are not a head's, and why."""
    if not found.heads:
        yield "no Dense layer is known to read a feature map"
    for name, reason in found.unclear.items():
        yield f"not known: {name}, {reason}"
    reasons = Counter(found.other_dense.values())
    for reason, count in reasons.items():
        names = [name for name, said in found.other_dense.items() if said == reason]
        yield f"not a head: {quoted(names, 3)} ({count}): {reason}"
