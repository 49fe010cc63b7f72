"""What every view for people says in the same words: shapes, sizes, names and verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor, log10

from fcn_convert.errors import printable, quoted
from fcn_convert.infer.findings import Finding
from fcn_convert.proof import AnswersCheck, Check
from fcn_convert.report import MATCHES, FileEntry, LayerEntry, Report, TensorEntry
from fcn_convert.report.model_entry import ModelEntry, PictureEntry
from fcn_convert.tensors import times

WRAPPERS = {"module", "_orig_mod", "model"}
"""What DataParallel, torch.compile and trainers put before the names of all tensors."""


def names(old: str, new: str | None) -> str:
    """Show a name, and what it is renamed to if it is; None for an entry that is left out."""
    return printable(old if new in {None, old} else f"{old} → {new}")


def shape(sizes: Sequence[int] | None) -> str:
    """Show a shape as Python does; nothing for an entry without one."""
    if sizes is None:
        return ""
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def size(nbytes: int) -> str:
    """Show a size in bytes with three digits and a decimal unit."""
    value, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:  # what three digits can show
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def number(value: float | str | None) -> str:
    """Show a measured value."""
    if isinstance(value, float):
        return f"{value:.3g}" if value == 0 or 0.01 <= value < 1000 else f"{value:.1e}"
    return "unknown" if value is None else str(value)


def verdict_of(checks: Sequence[Check]) -> str:
    """Sum up the checks of one tensor; nothing where there are none."""
    if not checks:
        return ""
    if any(check.passed is False for check in checks):
        return "differs"
    not_computed = [check.name for check in checks if check.passed is None]
    return f"agrees ({', '.join(not_computed)} not computed)" if not_computed else "agrees"


DIFFERENCES = ("weight diff", "outputs diff", "bound")
"""Headings of what `differences` returns."""


def differences(checks: Sequence[Check]) -> tuple[str, str, str]:
    """Show the max-abs-diff of the weight, that of the outputs, and what bounds the latter."""
    weight = outputs = bound = ""
    for check in checks:
        if check.name == "bytes":
            weight = number(check.values.get("max_abs_diff"))
        elif check.name == "activations" and check.passed is not None:
            outputs, bound = number(largest_of_outputs(check)), number(check.values["bound"])
    return weight, outputs, bound


def largest_of_outputs(check: Check) -> float:
    """Return the largest difference on maps of either size."""
    both = (check.values[key] for key in ("max_abs_diff", "larger_map_max_abs_diff"))
    return max(value for value in both if isinstance(value, float))


def agreement(report: Report) -> str | None:
    """Say to how many decimals all outputs agree; None where one differs or was not computed."""
    checks = [check for layer in report.layers for check in layer.checks]
    answers = [check for check in checks if check.name == "activations"]
    if report.verdict.problems or not answers or not all(check.passed for check in answers):
        return None
    furthest = max(map(largest_of_outputs, answers))
    if not furthest:
        return "every output of these layers agrees exactly"
    # To as many decimals as half a unit of the last one is not less than any difference.
    decimals = floor(-log10(2 * furthest))
    how = f"to {decimals} decimals" if decimals > 1 else "within rounding"
    return f"every output of these layers agrees {how}"


def evidence(finding: Finding) -> str:
    """Say what the weights of a layer say of the spec's flatten order."""
    if finding.reason:
        return finding.reason
    declared = next((reading for reading in finding.readings if reading.declared), None)
    known = f", z = {declared.z:.1f}" if declared else ""
    return f"the weights go with the spec's flatten order{known} (of {finding.rows} rows)"


def spread(check: AnswersCheck) -> str:
    """Say how far apart the outputs are; the greatest bound is one of many."""
    found = check.spread
    beyond = sum(n for power, n in enumerate(found.counts, found.lowest) if power > 0)
    apart = f"the others by {number(largest_of_outputs(check))} at most"
    return (
        f"{check.values['outputs']} outputs in float64: {found.equal} are equal"
        f"{', ' + apart if found.counts else ''}; "
        f"{f'{beyond} are beyond the bound' if beyond else 'all within the bound'} that rounding "
        f"allows each of them, which is {number(check.values['bound'])} at most."
    )


def larger_map(check: AnswersCheck) -> str:
    """Say what is drawn of the larger map."""
    features = check.larger_map.features
    cells = " × ".join(map(str, check.larger_map.sizes))
    return (
        f"{len(features)} outputs at {cells} cells of the convolution, those that are furthest "
        f"apart: {', '.join(map(str, features))}. Over all outputs a cell differs by "
        f"{number(check.values['larger_map_max_abs_diff'])} at most."
    )


def others(report: Report) -> str:
    """Count the tensors other than the Dense weights, by what was done with them."""
    listed = (f"{n} {action}" for action, n in report.totals.items() if action != "rewritten")
    return f"other tensors: {', '.join(listed) or 'none'}"


def totals(report: Report) -> str:
    """Count the tensors by what was done with them, and name those that are left out."""
    left_out = quoted((e.name for e in report.tensors if e.action == "left out"), 6)
    counted = [
        f"{count} {action}" + (f" ({left_out})" if action == "left out" else "")
        for action, count in report.totals.items()
        if count
    ]
    return f"tensors: {', '.join(counted)}"


def prefix_hint(report: Report) -> str | None:
    """Suggest the rename that removes what wrappers put before every name; None without one."""
    every = [f"{layer.new_name}.weight" for layer in report.layers]
    every += [entry.new_name for entry in report.tensors if entry.new_name]
    shared: list[str] = []
    while True:
        # The last part is the tensor's own name.
        firsts = {"".join(name.split(".")[len(shared) : -1][:1]) for name in every}
        if len(firsts) != 1 or not firsts <= WRAPPERS:
            break
        shared += firsts
    if not shared:
        return None
    prefix = ".".join(shared)
    line = f'rename: {{{prefix}: ""}}'
    return f"every name begins with {prefix}.; this line, added to the spec, removes it: {line}"


def verdict(report: Report) -> str:
    """Say what the whole comes to, with how many warnings, and where no output appeared."""
    found = report.verdict
    text, count = found.text, len(report.warnings)
    if count and text == MATCHES:
        text = f"{text}, with {count} warning{'s' * (count > 1)}"
    level = f" (checked: {found.level})" if found.level else ""
    unwritten = found.problems and found.output == "not written"
    return f"{text}{level}" + ("; no output was written" if unwritten else "")


def heads(report: Report) -> Iterator[tuple[dict[str, int], str, list[LayerEntry]]]:
    """Yield each head's feature map, flatten order and layers, in the spec's order."""
    layers = {layer.name: layer for layer in report.layers}
    for head in report.spec["heads"]:
        dense = [layers[entry["name"]] for entry in head["dense"]]
        yield head["feature_map"], head["flatten"], dense


def heads_lines(report: Report) -> Iterator[str]:
    """Say which map each head reads, in which order, and by which layers where there are more."""
    several = len(report.spec["heads"]) > 1
    for head in report.spec["heads"]:
        of = f" ({quoted((entry['name'] for entry in head['dense']), 6)})" if several else ""
        order = ", ".join(head["flatten"])
        yield f"head on a feature map {axes(head['feature_map'])}, flattened {order}{of}"


def no_digest(entry: FileEntry) -> str:
    """Say why a checkpoint as a whole has no sha256."""
    return f"of its {len(entry.files)} files" if entry.files else "not computed"


def axes(feature_map: dict[str, int]) -> str:
    """Show a feature map with its axes: C 512 × H 7 × W 7."""
    return " × ".join(f"{axis} {length}" for axis, length in feature_map.items())


def only_of_the_whole(report: Report) -> list[str]:
    """Return the problems that no tensor's check says: tensors of no origin, strict warnings."""
    every: tuple[LayerEntry | TensorEntry, ...] = (*report.layers, *report.tensors)
    said = {check.problem for entry in every for check in entry.checks}
    return [problem for problem in report.verdict.problems if problem not in said]


MOST_CULPRITS = 6


def model_lines(model: ModelEntry) -> Iterator[str]:
    """Say what running both networks showed, a line each of what a terminal is wide."""
    stored, exact = model.stored_dtype_max_abs_diff, model.windows_max_abs_diff
    yield f"model {model.factory}, input {model.input}, {model.parameters:,} parameters"
    yield (
        f"  {model.outputs} outputs differ by {number(model.max_abs_diff)} at most; at most "
        f"{number(model.bound)} is allowed"
    )
    yield f"  in the stored dtype: {'not computed' if stored is None else number(stored)}"
    yield (
        f"  input {times(model.larger_input)} gives {times(model.larger_output)}, stride "
        f"{times(model.stride) if model.stride else 'irregular'}"
    )
    seen = model.receptive_field
    yield f"  a cell sees {f'{times(seen)} of the input' if seen else 'the whole input'}"
    claim = "not computed" if exact is None else f"differs by {number(exact)}"
    yield f"  always: a cell is the Dense head on its window of the map; {claim}"
    yield from _against_crops(model)
    yield from (f"  as at the model's own size: {line}" for line in model.decisions)


def picture_line(drawn: PictureEntry) -> str:
    """Say what the network sees of an image."""
    name = f" ({drawn.labels[drawn.chosen]})" if drawn.labels else ""
    return f"{drawn.image}: class {drawn.chosen}{name}, {drawn.probability:.3g} at most"


def _against_crops(model: ModelEntry) -> Iterator[str]:
    """Say how cells differ from the model's answers to crops, why, and what either costs."""
    if not model.crops:
        return
    apart = model.crops_max_abs_diff
    differs = "cannot be compared" if apart is None else f"differs by {number(apart)}"
    because = ", because" if model.culprits else ""
    yield f"  against the model on its crop, {model.crops} crops: a cell {differs}{because}"
    yield from (f"    {culprit}" for culprit in model.culprits[:MOST_CULPRITS])
    if len(model.culprits) > MOST_CULPRITS:
        yield f"    … and {len(model.culprits) - MOST_CULPRITS} more, in the JSON report"
    yield (
        f"  one pass {model.macs_one_pass:.3g} MACs, {model.seconds_one_pass:.3g} s; crop by crop "
        f"{model.macs_crops:.3g} MACs, {model.seconds_crops:.3g} s"
    )
