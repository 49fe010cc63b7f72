from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.main import get_command
from typer.testing import CliRunner, Result

from fcn_convert import FcnConvertError, __version__
from fcn_convert.cli import app

FOLDER = Path(__file__).parent.parent / "sample_checkpoints"
COMMAND = (sys.executable, "-m", "fcn_convert")
QUICK = ("--verify", "bytes")  # imports no torch
# Nothing of the machine's settings decides what is printed.
CLEAN = {
    **{n: v for n, v in os.environ.items() if n not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}},
    "TERM": "xterm",
    "PYTHONPATH": str(FOLDER.parent),
    "PYTHONIOENCODING": "utf-8",
}


@pytest.fixture
def lenet(tmp_path: Path) -> Path:
    """A copy of a sample, with its spec beside it."""
    shutil.copy(FOLDER / "lenet.yaml", tmp_path)
    return Path(shutil.copy(FOLDER / "lenet.pth", tmp_path))


def run(
    *arguments: str | Path,
    code: str | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run the real command; code: what to run instead of it, with the same arguments."""
    return subprocess.run(
        [*((sys.executable, "-c", code) if code else COMMAND), *arguments],
        stdout=stdout,
        stderr=stderr,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**CLEAN, **environment},
        check=False,
    )


def invoke(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, list(map(str, arguments)), env={"NO_COLOR": None})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def breaking(line: str) -> str:
    """Return code that runs the command with `write` followed by a line of its own."""
    return (
        "import importlib, os, signal, sys\n"
        "from fcn_convert.__main__ import main\n"
        "path = importlib.import_module('fcn_convert.conversion')\n"
        "real = path.write\n"
        "def write(plan, checkpoint, descriptor, advance):\n"
        "    real(plan, checkpoint, descriptor, advance)\n"
        f"    {line}\n"
        "path.write = write\n"
        "main()\n"
    )


FLIP = "os.pwrite(descriptor, b'\\xff', os.fstat(descriptor).st_size - 1)"
INPUTS = {"lenet.pth", "lenet.yaml"}
OUTPUTS = {"lenet.fcn.safetensors", "lenet.fcn.report.json"}

# Exit statuses, and which stream says what


def test_a_conversion_exits_0_with_its_table_on_stdout(lenet: Path) -> None:
    done = run("convert", lenet)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("verdict: matches the spec (checked: activations)\n")
    assert "nn.Conv2d(16, 84, kernel_size=(3, 3))" in done.stdout
    assert names(lenet.parent) == INPUTS | OUTPUTS


def test_a_failed_check_exits_1_without_output_and_keeps_an_older_one(lenet: Path) -> None:
    older = lenet.with_suffix(".fcn.safetensors")
    older.write_bytes(b"older")
    done = run("convert", lenet, "--force", code=breaking(FLIP))
    assert done.returncode == 1
    assert re.fullmatch(r"(error: classifier\.3\..*\n)+", done.stderr)
    assert "verdict: does not match the spec (checked: activations); no output was written" in (
        done.stdout
    )
    assert re.search(r"^error: \S+ differs from the original in 1 of ", done.stderr, re.MULTILINE)
    assert older.read_bytes() == b"older"
    assert names(lenet.parent) == INPUTS | OUTPUTS
    report = json.loads(lenet.with_suffix(".fcn.report.json").read_text())
    assert report["verdict"]["passed"] is False
    assert report["verdict"]["output"] == "not written"


@pytest.mark.parametrize("option", ["--json", "-q"])
def test_a_failed_check_without_a_table_is_an_error_on_stderr(lenet: Path, option: str) -> None:
    done = run("convert", lenet, option, *QUICK, code=breaking(FLIP))
    assert done.returncode == 1
    assert re.fullmatch(r"error: \S+ differs from the original in 1 of .*\n", done.stderr)
    assert bool(done.stdout) == (option == "--json")
    assert names(lenet.parent) == INPUTS | {"lenet.fcn.report.json"}


def test_verify_exits_0_for_a_conversion_and_1_for_a_changed_one(lenet: Path) -> None:
    output = lenet.with_suffix(".fcn.safetensors")
    assert invoke("convert", lenet).exit_code == 0
    assert invoke("verify", lenet, output).exit_code == 0
    tensors = load_file(output)
    tensors["classifier.3.bias"][4] += 1
    save_file(tensors, output)
    result = invoke("verify", lenet, output)
    assert result.exit_code == 1
    assert "classifier.3.bias differs from the original in 1 of 10" in result.stderr
    assert "no output was written" not in result.stdout


def test_a_bug_exits_70_with_its_traceback_and_leaves_nothing(lenet: Path) -> None:
    done = run("convert", lenet, code=breaking("raise RuntimeError('planted')"))
    assert (done.returncode, done.stdout) == (70, "")
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("\nRuntimeError: planted\n")
    assert names(lenet.parent) == INPUTS


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
        pytest.param(signal.SIGHUP, 129, id="SIGHUP"),
    ],
)
def test_a_signal_while_writing_leaves_nothing_behind(
    lenet: Path, number: signal.Signals, status: int
) -> None:
    line = f"assert len(os.listdir('.')) == 3; os.kill(os.getpid(), {number})"
    code = f"import os\nos.chdir({str(lenet.parent)!r})\n" + breaking(line)
    done = run("convert", lenet, code=code)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    assert names(lenet.parent) == INPUTS


def test_a_second_signal_does_not_stop_the_removal_of_the_draft(lenet: Path) -> None:
    code = (
        "import os, signal\n"
        "from fcn_convert import atomic\n"
        "unlink = os.unlink\n"
        "def again(path):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    unlink(path)\n"
        "atomic.os.unlink = again\n"
    )
    done = run("convert", lenet, code=code + breaking("os.kill(os.getpid(), signal.SIGTERM)"))
    assert (done.returncode, done.stderr) == (143, "")
    assert names(lenet.parent) == INPUTS


def test_a_signal_that_becomes_an_error_of_a_librarys_is_still_a_signal(lenet: Path) -> None:
    line = (
        "try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except BaseException:\n"
        "        raise ValueError('planted') from None"
    )
    done = run("convert", lenet, code=breaking(line))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert names(lenet.parent) == INPUTS


def test_an_ignored_hangup_stays_ignored(lenet: Path) -> None:
    start = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code = start + breaking("os.kill(os.getpid(), signal.SIGHUP)")
    done = run("convert", lenet, *QUICK, code=code)
    assert (done.returncode, done.stderr) == (0, "")
    assert names(lenet.parent) == INPUTS | OUTPUTS


# What a user can cause: one sentence, status 2, no traceback


def not_a_checkpoint(lenet: Path) -> list[str | Path]:
    lenet.write_bytes(b"hello")
    return [lenet]


def truncated(lenet: Path) -> list[str | Path]:
    lenet.write_bytes(lenet.read_bytes()[:1000])
    return [lenet]


def without_spec(lenet: Path) -> list[str | Path]:
    lenet.with_suffix(".yaml").unlink()
    return [lenet]


def other_map(lenet: Path) -> list[str | Path]:
    lenet.with_suffix(".yaml").write_text("feature_map: [16, 2, 2]\ndense: [classifier.1]\n")
    return [lenet]


def existing_output(lenet: Path) -> list[str | Path]:
    lenet.with_suffix(".fcn.safetensors").write_bytes(b"")
    return [lenet]


def an_empty_folder(lenet: Path) -> list[str | Path]:
    (lenet.parent / "empty").mkdir()
    return [lenet.parent / "empty"]


def looped_output(lenet: Path) -> list[str | Path]:
    loop = lenet.parent / "loop"
    loop.symlink_to(loop)
    return [lenet, "-o", loop]


Arrange = Callable[[Path], list[str | Path]]
UNUSABLE: dict[str, tuple[Arrange, str]] = {
    "no-file": (lambda p: [p.with_name("none.pth")], r"\S+none\.pth: No such file or directory"),
    "a-folder": (an_empty_folder, r"\S+: is a folder without a checkpoint; expected .*"),
    "the-folder-itself": (lambda _: ["."], r"\.: is a folder without a checkpoint; expected .*"),
    "a-name-too-long": (lambda _: ["a" * 300], r"a+: File name too long"),
    "not-a-checkpoint": (not_a_checkpoint, r"\S+lenet\.pth: is not a checkpoint known here .*"),
    "truncated": (truncated, r"\S+lenet\.pth: .*"),
    "no-spec": (without_spec, r"\S+lenet\.pth has no spec: expected lenet\.yaml beside it, or .*"),
    "no-such-spec": (lambda p: [p, "--spec", "none.yaml"], r"none\.yaml: No such file .*"),
    "another-map": (
        other_map,
        r"classifier\.1\.weight has 144 input features, but feature_map 16×2×2 has 64 .*:\d\)",
    ),
    "existing-output": (
        existing_output,
        r"\S+: already exists; --force, or force=True, .*",
    ),
    "output-is-a-loop": (looped_output, r"\S+loop: exists and is not a regular file; .*"),
    "output-is-the-source": (lambda p: [p, "-o", p, "--force"], r"\S+: is the same file as .*"),
    "report-suffix": (
        lambda p: [p, "--report", "r.docx"],
        r"r\.docx: no report has the suffix '\.docx'; known are \.json.*",
    ),
    "report-nowhere": (
        lambda p: [p, "--report", "/nowhere/r.json"],
        r"/nowhere/r\.json: its folder does not exist",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_a_user_can_cause_is_one_sentence(lenet: Path, case: str) -> None:
    arrange, sentence = UNUSABLE[case]
    arguments = arrange(lenet)
    before = names(lenet.parent)
    result = invoke("convert", *arguments)
    assert result.stdout == ""
    assert isinstance(result.exception, FcnConvertError)
    assert re.fullmatch(sentence, str(result.exception))
    assert names(lenet.parent) == before


@pytest.mark.parametrize("case", ["no-file", "the-folder-itself", "no-spec"])
def test_such_a_sentence_goes_to_stderr_with_status_2(lenet: Path, case: str) -> None:
    arrange, sentence = UNUSABLE[case]
    done = run("convert", *arrange(lenet))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(f"error: {sentence}\n", done.stderr)


def test_every_problem_of_a_spec_is_a_line_of_its_own(lenet: Path) -> None:
    lenet.with_suffix(".yaml").write_text("feature_map: [16, 3, 0]\nflaten: CHW\nversion: 2\n")
    done = run("convert", lenet)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    places = [re.search(r"\(lenet\.yaml:(\d)\)$", line) for line in lines]
    assert sorted(place[1] for place in places if place) == ["1", "2", "3"]


def test_a_warning_goes_to_stderr_and_counts_where_it_is_asked_to(tmp_path: Path) -> None:
    tensors = {"conv.weight": torch.ones(8, 3, 3, 3), "fc.weight": torch.ones(4, 8 * 2 * 2)}
    save_file(tensors, tmp_path / "net.safetensors")
    (tmp_path / "net.yaml").write_text("feature_map: [2, 2, 8]\n")
    warned = invoke("convert", tmp_path / "net.safetensors", "--force")
    assert warned.exit_code == 0
    assert re.fullmatch(r"warning: no convolution or norm .*\n", warned.stderr)
    assert "warning:" not in warned.stdout
    strict = invoke("convert", tmp_path / "net.safetensors", "--force", "--strict")
    assert strict.exit_code == 1
    assert strict.stderr == warned.stderr + "error: --strict: a warning was given\n"
    assert "verdict: matches the spec, with 1 warning " in strict.stdout
    (tmp_path / "net.fcn.safetensors").unlink(missing_ok=True)
    planned = invoke("convert", tmp_path / "net.safetensors", "--dry-run", "--strict")
    assert planned.exit_code == 1
    assert not (tmp_path / "net.fcn.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        pytest.param(["convert"], "Missing argument", id="no-checkpoint"),
        pytest.param(["nothing"], "No such command", id="no-such-command"),
        pytest.param(["convert", "x", "--fast"], "No such option", id="no-such-option"),
        pytest.param(["convert", "x", "--verify", "[/foo]"], "[/foo]", id="no-such-level"),
        pytest.param(["schema", "plan"], "'plan' is not one of", id="no-such-schema"),
    ],
)
def test_wrong_usage_exits_2_and_says_so_on_stderr(arguments: list[str], found: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert found in result.stderr
    assert "Traceback" not in result.stderr


# Options of what is printed


def test_json_prints_the_report_that_is_in_the_file(lenet: Path) -> None:
    result = invoke("convert", lenet, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == lenet.with_suffix(".fcn.report.json").read_text()
    assert json.loads(result.stdout)["schema_version"] == 1


def test_several_reports_are_written_where_they_are_asked_for(lenet: Path) -> None:
    paths = [lenet.parent / "a.json", lenet.parent / "b.json"]
    result = invoke("convert", lenet, "--json", "--report", paths[0], "--report", paths[1])
    assert [path.read_text() for path in paths] == [result.stdout] * 2
    assert names(lenet.parent) == INPUTS | {"lenet.fcn.safetensors", "a.json", "b.json"}


def test_quiet_prints_nothing_but_warnings(lenet: Path) -> None:
    lenet.with_suffix(".yaml").write_text("feature_map: [9, 4, 4]\n")  # as many features, no such C
    result = invoke("convert", lenet, "-q")
    report = json.loads(lenet.with_suffix(".fcn.report.json").read_text())
    [warning] = report["warnings"]
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"warning: {warning}\n"
    lenet.with_suffix(".yaml").write_text("feature_map: [16, 3, 3]\n")
    assert invoke("convert", lenet, "-q", "--force").output == ""


def test_verbose_lists_every_tensor(lenet: Path) -> None:
    every = set(torch.load(lenet, weights_only=True))
    brief = invoke("convert", lenet, "--dry-run").stdout
    verbose = invoke("convert", lenet, "--dry-run", "-v").stdout
    kept = every - {"classifier.1.weight", "classifier.3.weight"}
    assert len(kept) == 6
    assert not any(name in brief for name in kept)
    assert all(name in verbose for name in kept)


def test_a_dry_run_writes_nothing_and_exits_0(lenet: Path) -> None:
    result = invoke("convert", lenet, "--dry-run")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith("verdict: planned, nothing written\n")
    assert names(lenet.parent) == INPUTS


@pytest.mark.parametrize("level", ["activations", "bytes", "shapes"])
def test_the_level_is_in_the_verdict(lenet: Path, level: str) -> None:
    result = invoke("convert", lenet, "--verify", level)
    assert f"verdict: matches the spec (checked: {level})\n" in result.stdout


def test_whether_a_path_can_be_read_is_said_by_us_and_not_by_typer() -> None:
    commands: list[Any] = [get_command(app)]
    paths: dict[str, bool] = {}
    for command in commands:  # grows while it is walked
        commands += getattr(command, "commands", {}).values()
        for parameter in command.params:
            known = getattr(parameter, "get_runtime_param", lambda: None)()
            if known is not None and "Path" in str(known.annotation):
                paths[f"{command.name} {parameter.name}"] = known.parameter_info.readable
    assert len(paths) > 12
    assert [name for name, checked in paths.items() if checked] == []


# Names from untrusted files

HOSTILE = "[/foo][bold red]x\x1b[31m\x07\r\nerror: forged\u202e\u2028"
ESCAPED = r"[/foo][bold red]x\x1b[31m\x07\r\nerror: forged\u202e\u2028"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    tensors = {
        "conv.weight": torch.ones(8, 3, 3, 3),
        f"{HOSTILE}.weight": torch.ones(4, 32),
        f"{HOSTILE}.bias": torch.ones(4),
    }
    save_file(tensors, tmp_path / "net.safetensors")
    (tmp_path / "net.yaml").write_text("feature_map: [8, 2, 2]\n")
    return tmp_path / "net.safetensors"


def test_hostile_names_are_shown_escaped_and_never_as_markup(hostile: Path) -> None:
    result = invoke("convert", hostile, "-v")
    assert result.exit_code == 0
    assert result.stdout.count(ESCAPED) == 2
    assert not set(result.output) & set("\x1b\x07\r\u202e\u2028")


@pytest.mark.parametrize("view", [".json", ".md", ".xml", ".html", "--json"])
def test_no_view_lets_a_hostile_name_through(hostile: Path, view: str) -> None:
    state = load_file(hostile)
    save_file({**state, "<script>alert(1)</script><img src=x>": torch.ones(2)}, hostile)
    option = ["--json"] if view == "--json" else ["--report", str(hostile.with_suffix(view))]
    done = invoke("convert", hostile, *QUICK, *option)
    assert done.exit_code == 0
    text = done.stdout if view == "--json" else hostile.with_suffix(view).read_text("utf-8")
    assert "alert" in text
    assert not set(text) & set("\x1b\x07\r\u202e\u2028")
    if view not in {".json", "--json"}:
        assert "<script>alert" not in text
        assert "<img" not in text


def test_hostile_names_are_escaped_in_errors_and_forge_no_line(hostile: Path) -> None:
    hostile.with_suffix(".yaml").write_text("feature_map: [7, 7, 7]\n")
    done = run("convert", hostile)
    assert done.returncode == 2
    assert ESCAPED in done.stderr
    assert done.stderr.count("\n") == 1
    assert not set(done.stderr) & set("\x1b\x07\r\u202e\u2028")


def test_a_path_is_no_markup_and_its_escapes_are_not_obeyed(lenet: Path) -> None:
    name = "[bold]\x1b[31m\udce9"  # the last is a byte that is no UTF-8
    source = lenet.rename(lenet.with_name(f"{name}.pth"))
    lenet.with_suffix(".yaml").rename(source.with_suffix(".yaml"))
    done = run("convert", source, *QUICK)
    assert done.returncode == 0
    assert r"[bold]\x1b[31m\udce9.pth" in done.stdout
    assert "\x1b" not in done.stdout
    missing = run("convert", source.with_name(f"{name}.none"))
    assert missing.stderr.endswith("[bold]\\x1b[31m\\udce9.none: No such file or directory\n")


# Where output goes


def on_terminal(
    arguments: Sequence[str | Path], *, both: bool = True, **environment: str
) -> tuple[int, str, str]:
    """Run with stderr, and where asked stdout, on a terminal: status, what it shows, stdout."""
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=terminal if both else subprocess.PIPE,
        stderr=terminal,
        env={**CLEAN, **environment},
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(controller, 1 << 16)
            except OSError:  # Linux says so when the last writer has closed it
                break
            if not part:
                break
            shown += part
        stdout = process.stdout.read() if process.stdout else b""
    os.close(controller)
    return process.returncode, shown.decode(), stdout.decode()


def test_a_log_is_not_wrapped(lenet: Path) -> None:
    long = "a_module_with_a_long_name." * 8 + "head"
    lenet.with_suffix(".yaml").write_text(
        f"feature_map: [16, 3, 3]\nrename: {{classifier: {long}}}\n"
    )
    result = invoke("convert", lenet, "--dry-run", "-v")
    assert result.stdout.count(f"→ {long}.") == 4
    assert max(map(len, result.stdout.splitlines())) > 300  # where rich would say 80


def test_a_terminal_gets_colour_and_a_bar_that_goes_away(lenet: Path) -> None:
    status, shown, _ = on_terminal(["convert", lenet], COLUMNS="100")
    assert status == 0
    assert "\x1b[1;32mverdict: matches the spec" in shown
    assert re.search(r"\d/[\d.]+ kB|/[\d.]+ bytes|\d+(\.\d+)?/\d+(\.\d+)? kB", shown)
    assert shown.index("kB") < shown.index("Dense weight")


@pytest.mark.parametrize("option", ["--json", "-q"])
def test_the_bar_is_on_stderr_only_and_quiet_has_none(lenet: Path, option: str) -> None:
    status, shown, stdout = on_terminal(["convert", lenet, option, *QUICK], both=False)
    assert status == 0
    assert bool(shown) == (option == "--json")
    assert stdout == (
        lenet.with_suffix(".fcn.report.json").read_text() if option == "--json" else ""
    )


def test_no_color_is_obeyed_on_a_terminal(lenet: Path) -> None:
    status, shown, _ = on_terminal(["convert", lenet, *QUICK], NO_COLOR="1")
    assert status == 0
    assert "verdict: matches the spec" in shown
    # Cursor movements of the bar, and bold, are no colours.
    colours = [n for sgr in re.findall(r"\x1b\[([\d;]*)m", shown) for n in sgr.split(";") if n]
    assert not [n for n in colours if 30 <= int(n) <= 49 or int(n) >= 90]


def test_off_a_terminal_there_is_neither_bar_nor_escape(lenet: Path) -> None:
    done = run("convert", lenet, "-v", *QUICK)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("option", ["-v", "--json"])
def test_a_reader_who_has_gone_is_no_traceback(lenet: Path, option: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run("convert", lenet, option, *QUICK, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
    assert names(lenet.parent) == INPUTS | OUTPUTS


CLOSING = "import os, sys\n[os.close(fd) for fd in {}]\nos.execv(sys.executable, [sys.executable, '-m', 'fcn_convert', *sys.argv[1:]])\n"  # noqa: E501 - one program


@pytest.mark.parametrize(
    "closed",
    [
        pytest.param((1,), id="stdout"),
        pytest.param((2,), id="stderr"),
        pytest.param((0, 1, 2), id="all"),
    ],
)
def test_closed_streams_are_no_error_and_no_file_takes_their_place(
    lenet: Path, closed: tuple[int, ...]
) -> None:
    done = run("convert", lenet, *QUICK, code=CLOSING.format(closed))
    assert (done.returncode, done.stderr) == (0, "")
    assert names(lenet.parent) == INPUTS | OUTPUTS
    assert load_file(lenet.with_suffix(".fcn.safetensors"))["classifier.1.weight"].dim() == 4


def test_an_error_with_stderr_closed_is_still_status_2(tmp_path: Path) -> None:
    done = run("convert", tmp_path / "none.pth", code=CLOSING.format((1, 2)))
    assert done.returncode == 2


@pytest.mark.parametrize("arguments", [[], ["--json"]], ids=["table", "json"])
def test_a_full_disk_behind_stdout_is_one_sentence(lenet: Path, arguments: list[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = run("convert", lenet, *arguments, *QUICK, stdout=full)
    finally:
        os.close(full)
    assert done.returncode == 2
    place = lenet.with_suffix(".fcn.safetensors")
    said = f"standard output: No space left on device; the output {place} is in place"
    assert done.stderr == f"error: {said}\n"


def test_a_terminal_without_unicode_gets_escapes_instead_of_a_traceback(lenet: Path) -> None:
    done = run("convert", lenet, *QUICK, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u2192" in done.stdout


# The other commands


def test_the_schema_of_the_spec_takes_the_samples_specs_and_refuses_a_typo() -> None:
    result = invoke("schema")
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate({"feature_map": [512, 7, 7], "flatten": "HWC", "dense": ["fc*"]})
    validator.validate({"heads": [{"feature_map": {"C": 2, "L": 3}}], "rename": {"a": "b"}})
    assert not validator.is_valid({"feature_map": [512, 7, 7], "flaten": "HWC"})
    assert invoke("schema", "spec").stdout == result.stdout


def test_the_schema_of_the_report_takes_a_report(lenet: Path) -> None:
    schema = json.loads(invoke("schema", "report").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    report: dict[str, Any] = json.loads(invoke("convert", lenet, "--json").stdout)
    jsonschema.validate(report, schema)
    assert not jsonschema.Draft202012Validator(schema).is_valid({**report, "more": 1})


def test_version_is_the_packages() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fcn-convert {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        pytest.param(["--help"], "torch numpy pydantic ruamel", id="--help"),
        pytest.param(["--version"], "torch numpy pydantic ruamel rich", id="--version"),
        # Typer itself imports pydantic on the way to a command.
        pytest.param(["convert", "--help"], "torch numpy ruamel", id="convert--help"),
    ],
)
def test_help_and_version_import_nothing_heavy(arguments: list[str], heavy: str) -> None:
    code = (
        "import os, sys\n"
        "os._exit = sys.exit\n"
        "from fcn_convert.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as ending:\n"
        f"    found = set({heavy.split()}) & set(sys.modules)\n"
        "    sys.exit(f'imports {found}' if found else ending.code)\n"
    )
    done = run(*arguments, code=code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_help_says_what_a_status_means() -> None:
    text = " ".join(invoke("--help").stdout.split())
    for line in ("0 done and verified", "1 a check failed", "2 the input, the spec", "70 a bug"):
        assert line in text


def test_help_names_every_option_of_the_design() -> None:
    text = invoke("convert", "--help").stdout
    options = "--spec --output -o --report --verify --dry-run --force --strict --json -q -v"
    assert [option for option in options.split() if option not in text] == []


# Prefixes that wrappers put before every name.


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("module.", "module"),
        ("_orig_mod.", "_orig_mod"),
        ("model.", "model"),
        ("module._orig_mod.model.", "module._orig_mod.model"),
    ],
)
def test_a_prefix_of_every_name_suggests_its_rename(lenet: Path, prefix: str, key: str) -> None:
    state = torch.load(lenet)
    torch.save({prefix + name: tensor for name, tensor in state.items()}, lenet)
    spec = lenet.with_suffix(".yaml")
    done = invoke("convert", lenet)
    assert done.exit_code == 0
    hint = next(line for line in done.stdout.splitlines() if line.startswith("every name begins"))
    line = hint.partition(": ")[2]
    assert line == f'rename: {{{key}: ""}}'
    spec.write_text(f"{spec.read_text()}{line}\n")
    done = invoke("convert", lenet, "--force")
    assert (done.exit_code, "every name begins" in done.stdout) == (0, False)
    assert set(load_file(lenet.with_suffix(".fcn.safetensors"))) == set(state)


@pytest.mark.parametrize(
    "rename",
    [
        pytest.param(lambda name: name, id="no-prefix"),
        pytest.param(lambda name: f"net.{name}", id="another"),
        pytest.param(lambda name: f"models.{name}", id="longer"),
        pytest.param(lambda name: name.replace("features", "module.features"), id="some"),
    ],
)
def test_no_rename_is_suggested_without_need(lenet: Path, rename: Callable[[str], str]) -> None:
    torch.save({rename(name): tensor for name, tensor in torch.load(lenet).items()}, lenet)
    done = invoke("convert", lenet)
    assert (done.exit_code, "every name begins" in done.stdout) == (0, False)
