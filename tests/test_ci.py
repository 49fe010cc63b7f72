"""What runs in other people's pipelines: the GitHub action, and the pre-commit hook."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
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
    assert "::error" not in done.stdout


def test_a_conversion_that_exists_is_verified(work: Path) -> None:
    step(work, checkpoint="lenet.pth", output="o.safetensors", verify="shapes")
    data = bytearray((work / "o.safetensors").read_bytes())
    data[-1] ^= 1
    (work / "o.safetensors").write_bytes(data)
    done = step(work, checkpoint="lenet.pth", converted="o.safetensors", verify="bytes")
    assert done.returncode == 1
    (error,) = (line for line in done.stdout.splitlines() if line.startswith("::error"))
    assert "differs from the original" in error
    assert "### ❌ " in (work / "summary").read_text()
    assert (work / "outputs").read_text().splitlines()[-2] == "status=1"


def test_the_specs_lines_are_annotated_ten_at_most(work: Path) -> None:
    keys = "".join(f"key{number}: 1\n" for number in range(12))
    (work / "lenet.yaml").write_text(f"feature_map: [16, 3, 3]\n{keys}")
    done = step(work, checkpoint="lenet.pth")
    assert done.returncode == 2
    shown = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert shown[0] == "::error file=lenet.yaml,line=2::unknown key 'key0' (lenet.yaml:2)"
    assert len(shown) == 10


def test_an_input_is_never_part_of_a_shell_line(work: Path) -> None:
    done = step(work, checkpoint="$(touch planted); --help\n::error::x")
    assert done.returncode == 2
    assert not (work / "planted").exists()
    (error,) = (line for line in done.stdout.splitlines() if line.startswith("::"))
    assert "$(touch planted)" in error


def test_annotations_are_escaped(script: Any) -> None:
    error = script.annotation("100% of\nit (a,b.yaml:3)", "x:y/a,b.yaml")
    assert error == "::error file=x%3Ay/a%2Cb.yaml,line=3::100%25 of%0Ait (a,b.yaml:3)"


@pytest.mark.parametrize("character", ["x", "é"], ids=["ascii", "two-bytes"])
def test_a_summary_is_cut_below_a_mebibyte(script: Any, character: str) -> None:
    cut = script.summary((character * (1 << 20)).encode())
    assert (1 << 20) - 8 < len(cut) < 1 << 20
    assert cut.decode().endswith("among the artifacts.\n")
    assert script.summary(b"short") == b"short"


def test_the_action_has_what_github_demands() -> None:
    action = read(ACTION / "action.yml")
    assert action["runs"]["using"] == "composite"
    for item in action["runs"]["steps"]:
        assert ("run" in item) != ("uses" in item)
        assert item.get("shell") == ("bash" if "run" in item else None)
        assert "${{" not in item.get("run", "")
    assert all("value" in output for output in action["outputs"].values())


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
    assert done.stderr == f"error: {bad}: unknown key 'flaten' (bad.yaml:2)\n"
