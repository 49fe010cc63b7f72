"""What runs in other people's pipelines: the GitHub action, and the pre-commit hook."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file
from scripts import load_script

ROOT = Path(__file__).parent.parent
ACTION = ROOT / ".github" / "actions" / "convert"
SAMPLES = ROOT / "sample_checkpoints"


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script(ACTION / "run.py")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for name in ("lenet.pth", "lenet.yaml"):
        shutil.copy(SAMPLES / name, tmp_path / name)
    return tmp_path


def step(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the action's main step as its YAML says, with a runner's files in `folder`."""
    (main,) = (step for step in read(ACTION / "action.yml")["runs"]["steps"] if "id" in step)
    declared = read(ACTION / "action.yml")["inputs"]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("FCN_", "GITHUB_"))},
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GITHUB_ACTION_PATH": str(ACTION),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        "GITHUB_OUTPUT": str(folder / "outputs"),
    }
    for variable, text in main["env"].items():
        for name, about in declared.items():
            text = text.replace(
                f"${{{{ inputs.{name} }}}}", inputs.get(name, about.get("default", ""))
            )
        environment[variable] = text.replace("${{ runner.temp }}", str(folder / "temp"))
        assert "${{" not in environment[variable]
    return subprocess.run(
        ["bash", "-e", "-c", main["run"]],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def commands(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what a runner obeys: lines that begin with `::`, but not while they are stopped."""
    found, stopped = [], ""
    for line in done.stdout.splitlines():
        if stopped:
            stopped = "" if line.strip() == f"::{stopped}::" else stopped
        elif line.startswith("::stop-commands::"):
            stopped = line.removeprefix("::stop-commands::")
        elif line.lstrip().startswith("::"):
            found.append(line)
    assert not stopped
    return found


def test_a_conversion_is_reported(work: Path) -> None:
    done = step(work, checkpoint="lenet.pth", verify="bytes")
    assert done.returncode == 0, done.stderr
    assert (work / "lenet.fcn.safetensors").exists()
    assert (work / "summary").read_text().startswith("### ✅ ")
    outputs = dict(line.split("=", 1) for line in (work / "outputs").read_text().splitlines())
    assert outputs["status"] == "0"
    assert json.loads(Path(outputs["report"]).read_text())["verdict"]["passed"] is True
    assert {p.name for p in (work / "temp/fcn-convert").iterdir()} == {
        "report.json", "report.html", "report.md", "report.xml",
    }  # fmt: skip
    assert commands(done) == []
    assert "verdict: matches the spec" in done.stdout


def test_a_conversion_that_exists_is_verified(work: Path) -> None:
    step(work, checkpoint="lenet.pth", output="o.safetensors", verify="shapes")
    data = bytearray((work / "o.safetensors").read_bytes())
    data[-1] ^= 1
    (work / "o.safetensors").write_bytes(data)
    done = step(work, checkpoint="lenet.pth", converted="o.safetensors", verify="bytes")
    assert done.returncode == 1
    (error,) = commands(done)
    assert error.startswith("::error::")
    assert "differs from the original" in error
    assert "### ❌ " in (work / "summary").read_text()
    assert (work / "outputs").read_text().splitlines()[-2] == "status=1"


def test_the_specs_lines_are_annotated_ten_at_most(work: Path) -> None:
    keys = "".join(f"key{number}: 1\n" for number in range(12))
    (work / "lenet.yaml").write_text(f"feature_map: [16, 3, 3]\n{keys}")
    done = step(work, checkpoint="lenet.pth")
    assert done.returncode == 2
    shown = commands(done)
    assert shown[0].startswith("::error file=lenet.yaml,line=2::unknown key 'key0', known are ")
    assert len(shown) == 10


def test_an_input_is_never_part_of_a_shell_line(work: Path) -> None:
    done = step(work, checkpoint="$(touch planted); --help\n::error::x")
    assert done.returncode == 2
    assert not (work / "planted").exists()
    (error,) = commands(done)
    assert "$(touch planted)" in error


def test_a_checkpoint_is_never_taken_for_an_option(work: Path) -> None:
    done = step(work, checkpoint="--help")
    assert done.returncode == 2
    assert "--help" in commands(done)[0]


def test_the_reports_of_an_earlier_step_are_not_taken_for_this_ones(work: Path) -> None:
    assert step(work, checkpoint="lenet.pth", verify="shapes").returncode == 0
    (work / "summary").unlink()
    assert step(work, checkpoint="missing.pth").returncode == 2
    assert list((work / "temp/fcn-convert").iterdir()) == []
    title, _, error = (work / "summary").read_text().splitlines()
    assert title == "### ❌ the input or the spec is unusable"
    assert error.startswith("    error: missing.pth: ")
    assert (work / "outputs").read_text().splitlines()[-2:] == ["status=2", "report="]


@pytest.mark.parametrize(
    ("strict", "status"),
    [("true", 1), ("True", 1), ("false", 0), ("FALSE", 0), ("", 0), ("yes", 2), ("1", 2)],
)
def test_a_warning_is_shown_and_fails_the_step_where_that_is_asked(
    work: Path, strict: str, status: int
) -> None:
    (work / "lenet.yaml").write_text("feature_map: [16, 3, 3]\nflatten: HWC\n")
    done = step(work, checkpoint="lenet.pth", strict=strict)
    assert done.returncode == status
    if status == 2:
        assert commands(done) == [f"::error::strict is {strict!r}; expected true or false"]
    else:
        *errors, warning = commands(done)
        assert errors == ["::error::--strict: a warning was given"] * status
        assert warning.startswith("::warning::classifier.1.weight: its weights speak against fl")


def test_a_runner_obeys_nothing_that_a_file_or_a_tensor_is_called(work: Path) -> None:
    name = "::add-mask::planted"
    tensors = {f"{name}.weight": torch.ones(4, 8), "conv.weight": torch.ones(2, 1, 3, 3)}
    save_file(tensors, work / f"{name}.safetensors")
    (work / f"{name}.yaml").write_text("feature_map: [2, 2, 2]\n")
    files = {"checkpoint": f"{name}.safetensors", "verify": "bytes"}
    step(work, **files, output="o.safetensors")
    save_file({f"{name}.weight": torch.zeros(4, 2, 2, 2), "conv.weight": tensors["conv.weight"]},
              work / "o.safetensors")  # fmt: skip
    done = step(work, **files, converted="o.safetensors")
    assert any(line.startswith(name) for line in done.stdout.splitlines())
    assert [line.partition("::add-mask")[0] for line in commands(done)] == ["::error::"]


def test_annotations_are_escaped(script: Any) -> None:
    error = script.annotation("error", "100% of\nit (a,b.yaml:3)", "x:y/a,b.yaml")
    assert error == "::error file=x%3Ay/a%2Cb.yaml,line=3::100%25 of%0Ait (a,b.yaml:3)"


@pytest.mark.parametrize("character", ["x", "é"], ids=["ascii", "two-bytes"])
@pytest.mark.parametrize("size", [(1 << 20), (1 << 20) + 1, 3 << 20])
def test_a_summary_is_cut_below_a_mebibyte(script: Any, character: str, size: int) -> None:
    line = f"| {character * 9} |\n".encode()
    head = "### ✅ fine\n<details><summary>all</summary>\n\n".encode()
    cut = script.summary((head + line * size)[:size])
    assert (1 << 20) - 2 * len(line) < len(cut) < 1 << 20
    *lines, folded, _, said, _ = cut.decode().split("\n")
    assert (folded, said) == ("</details>", "…cut here; the whole report is among the artifacts.")
    assert {text for text in lines[3:] if text} == {line.decode().strip()}
    assert script.summary(b"short") == b"short"


def test_the_action_has_what_github_demands() -> None:
    action = read(ACTION / "action.yml")
    assert action["runs"]["using"] == "composite"
    for item in action["runs"]["steps"]:
        assert ("run" in item) != ("uses" in item)
        assert item.get("shell") == ("bash" if "run" in item else None)
        assert "${{" not in item.get("run", "")
    assert all("value" in output for output in action["outputs"].values())


def test_the_workflow_runs_what_must_pass() -> None:
    workflow = read(ROOT / ".github" / "workflows" / "ci.yml")
    assert set(workflow["on"]) == {"push", "pull_request"}
    (job,) = workflow["jobs"].values()
    (line,) = (step["run"] for step in job["steps"] if "run" in step)
    assert os.access(ROOT / line, os.X_OK)
    python = next(step["with"]["python-version"] for step in job["steps"] if "with" in step)
    required = re.search(r'requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text())
    assert required
    assert python == required[1]


def test_the_hook_checks_specs_without_torch(tmp_path: Path) -> None:
    (hook,) = read(ROOT / ".pre-commit-hooks.yaml")
    program, *arguments = shlex.split(hook["entry"])
    assert (program, hook["language"], hook["types"]) == ("fcn-convert", "python", ["yaml"])
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("feature_map: [16, 3, 3]\n")
    bad.write_text("feature_map: [16, 3, 3]\nflaten: HWC\n")
    code = (
        "import sys\nfrom fcn_convert.__main__ import main\n"
        "try:\n    main()\n"
        "finally:\n    assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )

    def check(*files: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments, *map(str, files)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert check(good).returncode == 0
    done = check(good, bad)
    assert done.returncode == 2
    assert (
        done.stderr == f"error: {bad}: unknown key 'flaten', did you mean 'flatten'? (bad.yaml:2)\n"
    )
