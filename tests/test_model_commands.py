"""The commands that run a model which the user names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fcn_convert.cli import app
from fcn_convert.spec import load_spec, parse_spec

FOLDER = Path(__file__).parent.parent / "sample_checkpoints"
TRAIN = FOLDER / "train.py"
SAMPLES = {
    "lenet.pth": ("LeNet", "1,8,8"),
    "vgg.ckpt": ("VGG", "1x8x8"),
    "two_heads.pth": ("TwoHeads", "1,8,8"),
    "sequence.safetensors": ("SequenceNet", "8,8"),
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("name", SAMPLES, ids=lambda name: Path(name).stem)
def test_init_takes_the_spec_from_the_forward_pass(name: str, tmp_path: Path) -> None:
    factory, sizes = SAMPLES[name]
    source = Path(shutil.copy(FOLDER / name, tmp_path))
    spec = source.with_suffix(".yaml")
    done = run("init", source, "--model", f"{TRAIN}:{factory}", "--input", sizes, "-o", spec)
    assert (done.exit_code, done.stdout) == (0, "")
    [found] = load_spec(spec).heads
    [expected] = load_spec((FOLDER / name).with_suffix(".yaml")).heads
    assert (found.feature_map, found.flatten) == (expected.feature_map, expected.flatten)
    assert run("convert", source, "--verify", "bytes").exit_code == 0


def test_a_model_is_found_in_the_current_folder_as_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(TRAIN, tmp_path / "a_module_of_mine.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    source = FOLDER / "lenet.pth"
    done = run("init", source, "--model", "a_module_of_mine:LeNet", "--input", "1,8,8")
    assert done.exit_code == 0
    [head] = parse_spec(done.stdout).heads
    assert [(entry.name, entry.reads) for entry in head.dense or ()] == [
        ("classifier.1", "map"),
        ("classifier.3", "dense"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--model", f"{TRAIN}:LeNet"], "go together", id="no-input"),
        pytest.param(["--input", "1,8,8"], "go together", id="no-model"),
    ],
)
def test_one_option_without_the_other_is_bad_usage(arguments: list[str], message: str) -> None:
    done = run("init", FOLDER / "lenet.pth", *arguments)
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize(
    ("model", "sizes", "message"),
    [
        pytest.param(str(TRAIN), "1,8,8", "expected `package.module:factory`", id="no-factory"),
        pytest.param(f"{TRAIN}:Nope", "1,8,8", "AttributeError: module 'train'", id="no-name"),
        pytest.param("no_such_module_:f", "1,8,8", "ModuleNotFoundError", id="no-module"),
        pytest.param("no/such.py:f", "1,8,8", "no/such.py: is no file", id="no-file"),
        pytest.param(f"{TRAIN}:split_digits", "1,8,8", "expected an nn.Module", id="no-model"),
        pytest.param(f"{TRAIN}:answers", "1,8,8", "TypeError: answers()", id="arguments"),
        pytest.param(f"{TRAIN}:LeNet", "8", "expected the sizes of one sample", id="one-size"),
        pytest.param(f"{TRAIN}:LeNet", "1,8,a", "expected the sizes of one sample", id="no-number"),
        pytest.param(f"{TRAIN}:LeNet", "1,9,10", "LeNet cannot run on the example", id="size"),
        pytest.param(f"{TRAIN}:TwoHeads", "1,8,8", "is not a Dense layer", id="other-model"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_sentence(model: str, sizes: str, message: str) -> None:
    done = run("init", FOLDER / "lenet.pth", "--model", model, "--input", sizes)
    assert message in str(done.exception)
    assert type(done.exception).__name__ in {"ModelError", "SpecError"}
