"""The head's forward pass, as far as shapes and names tell it."""

from __future__ import annotations

import keyword
from dataclasses import dataclass

from fcn_convert.errors import printable
from fcn_convert.head_code.modules import Modules, reference
from fcn_convert.head_code.reading import Layer
from fcn_convert.spec import AXES
from fcn_convert.tensors import parent

INDENT = "    "


@dataclass(frozen=True)
class Unit:
    """What is called in one go: a layer, or a Sequential of layers.

    variable: the name of its answer.
    """

    name: str
    first: Layer
    last: Layer
    variable: str


@dataclass(frozen=True)
class Call:
    """A unit and what it reads: the map, an earlier unit's answer, or what nothing here gives."""

    unit: Unit
    argument: str
    reads: Unit | None


def forward_lines(modules: Modules) -> list[str]:
    """Return the method `forward`: the feature maps in, the answer of every last layer out."""
    maps = [
        f"maps_{at}" if len(modules.head.heads) > 1 else "maps"
        for at in range(len(modules.head.heads))
    ]
    units = _units(modules, reserved={"self", "torch", "nn", *maps})
    calls = _calls(units, maps)
    given = [call.argument for call in calls if call.reads is None and call.argument not in maps]
    used = [name for name in maps if any(call.argument == name for call in calls)]
    read = {call.reads.variable for call in calls if call.reads}
    answers = [unit.variable for unit in units if unit.variable not in read]
    kind = (
        "torch.Tensor"
        if len(answers) == 1
        else f"tuple[{', '.join(['torch.Tensor'] * len(answers))}]"
    )
    parameters = ", ".join(f"{name}: torch.Tensor" for name in [*used, *given])
    return [
        f"def forward(self, {parameters}) -> {kind}:",
        f'{INDENT}"""{_docstring(modules, given)}"""',
        *(f"{INDENT}{line}" for line in _unmade(modules)),
        *(f"{INDENT}{line}" for call in calls for line in _lines(modules, call, given)),
        f"{INDENT}return {', '.join(answers)}",
    ]


def _docstring(modules: Modules, given: list[str]) -> str:
    axes = ", ".join(AXES[len(modules.head.heads[0].feature_map)])
    more = (
        f"; {', '.join(given)}: what was gated or concatenated before that layer" if given else ""
    )
    return f"Return the answers at every cell; maps: (N, {axes}){more}."


def _unmade(modules: Modules) -> list[str]:
    """Return the statement that stops where tensors of the head would be left out."""
    if not modules.unmade:
        return []
    text = (
        f"{', '.join(modules.unmade)}: a place in this head and tensors in the file, which do not "
        "tell what it is (a LayerNorm over the channels?): make it, apply it, and remove this line"
    )
    return [f"raise NotImplementedError({text!r})"]


def _lines(modules: Modules, call: Call, given: list[str]) -> list[str]:
    """Return the statements of a unit, and of what follows it."""
    variable, comment = call.unit.variable, ""
    if call.reads is not None:
        comment = f"  # before it: the activation after {call.reads.variable}"
    elif call.argument in given:
        comment = "  # the report does not say what this layer reads"
    last = call.unit.last.name
    return [
        f"{variable} = {reference(call.unit.name)}({call.argument}){comment}",
        *(
            f"{variable} = {reference(norm)}({variable})  # or after the activation"
            for norm in modules.after.get(last, [])
        ),
        *(
            f"# {printable(norm)} has as many channels: if it follows here, make it and apply it"
            for norm in modules.maybe.get(last, [])
        ),
    ]


def _units(modules: Modules, reserved: set[str]) -> list[Unit]:
    units: dict[str, Unit] = {}
    for layer in modules.head.layers:
        container = parent(layer.name)
        name = container if container in modules.chains else layer.name
        if name not in units:
            last = modules.chains[name][-1] if name in modules.chains else layer
            units[name] = Unit(name, layer, last, _variable(name, reserved))
    return list(units.values())


def _calls(units: list[Unit], maps: list[str]) -> list[Call]:
    """Decide what each unit reads: the last one before it that gives as much, best of its kin."""
    calls: list[Call] = []
    for at, unit in enumerate(units):
        needed = unit.first
        fitting = [
            other
            for other in units[:at]
            if other.last.features_out == needed.features_in and other.last.head == needed.head
        ]
        kin = [other for other in fitting if parent(other.name) == parent(unit.name)]
        if needed.reads == "map":
            calls.append(Call(unit, maps[needed.head], None))
        elif fitting:
            reads = (kin or fitting)[-1]
            calls.append(Call(unit, reads.variable, reads))
        else:
            calls.append(Call(unit, f"before_{unit.variable}", None))
    return calls


def _variable(name: str, reserved: set[str]) -> str:
    """Return a variable's name like the module's, not used before."""
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_").lower()
    base = candidate = kept if kept and not kept[0].isdigit() else f"layer_{kept}".strip("_")
    count = 1
    while candidate in reserved or keyword.iskeyword(candidate):
        count += 1
        candidate = f"{base}_{count}"
    reserved.add(candidate)
    return candidate
