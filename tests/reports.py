"""Reports made by hand, with hostile names where a name can stand, and their golden files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcn_convert.infer.findings import Finding, Pattern, ReadingFound
from fcn_convert.proof import AnswersCheck, Check, LargerMap, Spread
from fcn_convert.report import (
    FileEntry,
    LayerEntry,
    PartEntry,
    Report,
    SpecFile,
    StoredEntry,
    TensorEntry,
    Verdict,
)
from fcn_convert.report.model_entry import ModelEntry, PictureEntry

GOLDEN = Path(__file__).parent / "golden"

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a|b",
    "a\\|b\\",
    "`a``b",
    "**bold** _it_ ~~s~~",
    "[link](http://evil.example)",
    "![i](http://evil.example/x.png)",
    "</details><h1>x",
    "</testcase>]]>",
    "&lt;&#60;",
    "{{ 7 * 7 }}{% x %}",
    "a\x00\x1b[31m\r\n\u2028\ud800\ufffe\x85",
    "\u202egnp.x",
    "@octocat #1 www.evil.example :bug: $x$",
    " # heading",
    "1. one",
    "- item",
    "\tcode",
    '"><svg/onload=alert(1)>',
    "javascript:alert(1)",
)


PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ANSWERS = AnswersCheck(
    "activations",
    True,
    "",
    {
        "max_abs_diff": 1e-15,
        "larger_map_max_abs_diff": 2.5e-15,
        "bound": 3e-13,
        "outputs": 40,
        "stored_dtype_max_abs_diff": 0.0,
    },
    spread=Spread(12, -9, (1, 4, 0, 20, 3)),
    larger_map=LargerMap(
        (3, 2),
        (4, 0),
        ((0.5, -1.25, 0.0, 2.0, 0.125, -0.75), (1.0, 1.0, -1.0, 0.5, 0.25, float("inf"))),
        ((0.5, -1.25, 0.0, 2.0, 0.125, -0.75), (1.0, 1.0, -1.0, 0.5, 0.25, float("inf"))),
    ),
)


def layer(name: str, **changed: Any) -> LayerEntry:
    entry = LayerEntry(
        name=name,
        new_name=name,
        reads="map",
        flatten="HWC",
        feature_map={"C": 2, "H": 3, "W": 4},
        kernel=(3, 4),
        dtype="F32",
        old_shape=(5, 24),
        new_shape=(5, 2, 3, 4),
        bias=True,
        module="nn.Conv2d(2, 5, kernel_size=(3, 4))",
        checks=(
            Check("shapes", True),
            Check("bytes", True, "", {"max_abs_diff": 0.0, "differing": 0}),
            ANSWERS,
        ),
    )
    return replace(entry, **changed)


def head(layers: list[LayerEntry], **feature_map: int) -> dict[str, Any]:
    dense = [{"name": entry.name, "reads": entry.reads} for entry in layers]
    return {"feature_map": feature_map, "flatten": layers[0].flatten, "dense": dense}


def finding(name: str) -> Finding:
    pattern = Pattern((3, 4), (0.0, 0.1, 0.2, 0.1, 0.1, 0.3, 1.0, -0.4, 0.0, 0.1, 0.2, 0.0))
    best = ReadingFound("HWC", declared=True, z=21.5, weights=0.4, strengths=0.6, pattern=pattern)
    flat = Pattern((3, 4), tuple(value / 4 for value in pattern.values))
    other = replace(best, flatten="CHW", declared=False, z=1.25, pattern=flat)
    return Finding(name, "supports", "", 5, (best, other))


def model(name: str) -> ModelEntry:
    return ModelEntry(
        factory=f"{name}:Net",
        input="1,8,8",
        passed=True,
        outputs=10,
        max_abs_diff=1e-15,
        bound=1e-9,
        stored_dtype_max_abs_diff=None,
        larger_input=(1, 12, 12),
        larger_output=(10, 3, 3),
        stride=(2, 2),
        receptive_field=(8, 8),
        windows_max_abs_diff=0.0,
        crops=9,
        crops_max_abs_diff=0.5,
        culprits=(f"{name} pads",),
        decisions=(f"{name}: if n > 1:",),
        parameters=1234,
        macs_one_pass=2_000_000,
        macs_crops=9_000_000,
        seconds_one_pass=0.25,
        seconds_crops=1.5,
        pictures=(PictureEntry(f"{name}.png", 1, 0.75, ((3, 1), (2, 3)), (name,) * 4, PIXEL),),
    )


def report_of(*names: str) -> Report:
    """Make a report with two heads, where each name stands everywhere a name can stand."""
    first = [layer(name, new_name=name + name) for name in names]
    second = [
        layer(
            "score",
            flatten="CL",
            feature_map={"C": 5, "L": 1},
            reads="dense",
            kernel=(1,),
            old_shape=(3, 5),
            new_shape=(3, 5, 1),
            module="nn.Conv1d(5, 3, kernel_size=1, bias=False)",
            bias=False,
            dtype="F8_E8M0",
            checks=(
                *layer("").checks[:1],
                Check("bytes", True, "", {"max_abs_diff": None, "differing": 0}),
                Check("activations", None, "torch cannot compute: no"),
            ),
        )
    ]
    kept = layer("").checks[:2]
    return Report(
        verdict=Verdict("matches the spec", True, "activations", "written", ()),
        source=FileEntry(f"in/{names[0]}.pth", "torch (zip)", 999_600, "ab" * 32),
        output=FileEntry(
            *(f"out/{names[0]}.safetensors", "safetensors", 2_345_678, None),
            (PartEntry(f"{names[0]}.1", 1_234_567, "cd" * 32), PartEntry("b", 1_111_111, None)),
        ),
        spec={
            "version": 1,
            "layout": "torch",
            "heads": [head(first, C=2, H=3, W=4), head(second, C=5, L=1)],
            "rename": dict.fromkeys(names, "x"),
        },
        spec_file=SpecFile(f"in/{names[0]}.yaml", "ef" * 32),
        layers=(*first, *second),
        tensors=(
            *(TensorEntry(n, n, "F32", (2,), 8, "kept", f"for {n}", kept) for n in names),
            TensorEntry("n.w", "m.w", "I64", (), 8, "renamed", "the spec renames it", kept),
            TensorEntry(
                *("conv.weight", "conv.weight", "F32", (4, 2, 3, 3), 288, "transposed"),
                *("its axes are stored as HWIO", kept),
                StoredEntry(f"{names[0]}/kernel", (3, 3, 2, 4), "HWIO -> OIHW"),
            ),
            TensorEntry("epoch", None, None, None, None, "left out", "not a tensor", ()),
        ),
        ties=(("n.w", names[0]),),
        warnings=tuple(f"{name} is unlikely" for name in names),
        notes=(f"a note on {names[0]}",),
        versions={"python": "3.11", "fcn-convert": "0.1.0", "torch": "2.13", "safetensors": "0.8"},
        model=model(names[0]),
        evidence=tuple(map(finding, names)),
    )


def failed() -> Report:
    report = report_of("fc|<1>")
    first, *rest = report.layers
    problem = "fc|<1>.weight differs from the original in 1 of 120 elements"
    spread = Spread(12, -9, (1, 4, 0, 20, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1))
    checks = (
        first.checks[0],
        Check("bytes", False, problem, {"max_abs_diff": 0.5}),
        replace(ANSWERS, passed=False, spread=spread),
    )
    problems = (problem, "the output has tensors of no origin: x")
    return replace(
        report,
        verdict=Verdict("does not match the spec", False, "activations", "not written", problems),
        layers=(replace(first, checks=checks), *rest),
    )


CASES = {"passed": report_of("features.0", "fc|<1>"), "failed": failed()}


def same_as_golden(name: str, text: str) -> None:
    """Hold a view against the file that was last looked at; WRITE_GOLDEN=1 writes it anew."""
    path = GOLDEN / name
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def shown(name: str) -> str:
    """Escape what is not printable, as Python's own `ascii` does."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
