"""The commands that run a model which the user names."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from PIL import Image
from scripts import load_script
from typer.testing import CliRunner, Result

from fcn_convert.cli import app
from fcn_convert.errors import ExistsError, ModelError, OutputError
from fcn_convert.model.images import read_photos
from fcn_convert.model.picture import picture_paths, write_pictures
from fcn_convert.report.json_view import SCHEMA
from fcn_convert.report.model_entry import PictureEntry, PictureRequest
from fcn_convert.spec import load_spec, parse_spec

FOLDER = Path(__file__).parent.parent / "sample_checkpoints"
TRAIN = FOLDER / "train.py"
SAMPLES = {
    "lenet.pth": ("LeNet", "1,8,8"),
    "vgg.ckpt": ("VGG", "1x8x8"),
    "two_heads.pth": ("TwoHeads", "1,8,8"),
    "sequence.safetensors": ("SequenceNet", "8,8"),
}


train = load_script(TRAIN)


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
    monkeypatch.setattr("sys.path", [folder for folder in sys.path if folder])
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
        pytest.param(f"{TRAIN}:Nope", "1,8,8", ":Nope: there is no Nope", id="no-name"),
        pytest.param(
            "no_such_module_:f",
            "1,8,8",
            "fails: ModuleNotFoundError: No module named 'no_such_module_'; install it, or run",
            id="no-module",
        ),
        pytest.param("no/such.py:f", "1,8,8", "no/such.py: is not a file", id="no-file"),
        pytest.param(f"{TRAIN}:split_digits", "1,8,8", "expected an nn.Module", id="no-model"),
        pytest.param(f"{TRAIN}:answers", "1,8,8", "TypeError: answers()", id="arguments"),
        pytest.param(f"{TRAIN}:LeNet", "8", "expected the sizes of one sample", id="one-size"),
        pytest.param(f"{TRAIN}:LeNet", "1,8,a", "expected the sizes of one sample", id="no-number"),
        pytest.param(f"{TRAIN}:LeNet", "1,9,10", "LeNet cannot run on the example", id="size"),
        pytest.param(f"{TRAIN}:TwoHeads", "1,8,8", "is not of the model", id="other-model"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_sentence(model: str, sizes: str, message: str) -> None:
    done = run("init", FOLDER / "lenet.pth", "--model", model, "--input", sizes)
    assert message in str(done.exception)
    assert type(done.exception).__name__ in {"ModelError", "SpecError"}


def converted(name: str, folder: Path) -> tuple[Path, Path]:
    source = Path(shutil.copy(FOLDER / name, folder))
    shutil.copy((FOLDER / name).with_suffix(".yaml"), folder)
    assert run("convert", source, "--verify", "bytes").exit_code == 0
    return source, source.with_suffix(".fcn.safetensors")


def verified(name: str, folder: Path, *more: str) -> tuple[Result, Any]:
    factory, sizes = SAMPLES[name]
    pair, report = converted(name, folder), folder / "verified.json"
    done = run(
        "verify",
        *pair,
        "--model",
        f"{TRAIN}:{factory}",
        "--input",
        sizes,
        "--report",
        report,
        *more,
    )
    data = json.loads(report.read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8"))).validate(data)
    return done, data["model"]


@pytest.mark.parametrize("name", SAMPLES, ids=lambda name: Path(name).stem)
def test_verify_runs_both_networks(name: str, tmp_path: Path) -> None:
    done, model = verified(name, tmp_path)
    assert done.exit_code == 0
    assert model["passed"] is True
    assert model["max_abs_diff"] <= model["bound"] < 1e-7
    axes = len(SAMPLES[name][1].replace("x", ",").split(",")) - 1
    assert model["stride"] == [1 if name == "sequence.safetensors" else 2] * axes
    assert model["larger_output"][-axes:] == [2] * axes
    assert model["crops"] == 2**axes
    assert model["crops_max_abs_diff"] <= model["bound"]  # nothing is padded in the samples
    assert model["windows_max_abs_diff"] <= model["bound"]
    assert model["culprits"] == []
    assert model["macs_one_pass"] < model["macs_crops"]
    assert "outputs differ by" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.partition("\n  ")[2].splitlines()[:-1])
    markdown = tmp_path / "verified.md"
    factory, sizes = SAMPLES[name]
    pair = (tmp_path / name, (tmp_path / name).with_suffix(".fcn.safetensors"))
    options = ("--model", f"{TRAIN}:{factory}", "--input", sizes, "--report", markdown)
    assert run("verify", *pair, *options, "--verify", "bytes").exit_code == 0
    assert "outputs differ by" in markdown.read_text("utf-8")


def test_verify_fails_where_the_flatten_order_is_wrong(tmp_path: Path) -> None:
    """Which the spec alone cannot tell: the file matches it."""
    source = Path(shutil.copy(FOLDER / "lenet.pth", tmp_path))
    source.with_suffix(".yaml").write_text("feature_map: [16, 3, 3]\nflatten: HWC\n")
    assert run("convert", source).exit_code == 0
    output = source.with_suffix(".fcn.safetensors")
    done = run("verify", source, output, "--model", f"{TRAIN}:LeNet", "--input", "1,8,8")
    assert done.exit_code == 1
    assert "verdict: does not answer as the model does" in done.stdout
    assert "the outputs of the two networks differ by up to" in done.stderr


def test_renamed_modules_are_the_models_under_their_old_names(tmp_path: Path) -> None:
    source = Path(shutil.copy(FOLDER / "lenet.pth", tmp_path))
    source.with_suffix(".yaml").write_text(
        "feature_map: [16, 3, 3]\nrename: {classifier.1: head.a}\n"
    )
    assert run("convert", source, "--verify", "bytes").exit_code == 0
    output = source.with_suffix(".fcn.safetensors")
    done = run("verify", source, output, "--model", f"{TRAIN}:LeNet", "--input", "1,8,8")
    assert done.exit_code == 0


def test_a_model_of_another_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    pair = converted("lenet.pth", tmp_path)
    done = run("verify", *pair, "--model", f"{TRAIN}:TwoHeads", "--input", "1,8,8")
    assert "does not take its tensors" in str(done.exception)
    assert "let the factory make that one" in str(done.exception)
    assert type(done.exception).__name__ == "ModelError"


def test_a_spec_of_another_map_than_the_models_is_blamed_and_not_the_model(tmp_path: Path) -> None:
    source = Path(shutil.copy(FOLDER / "lenet.pth", tmp_path))
    source.with_suffix(".yaml").write_text("feature_map: [16, 9, 1]\n")
    assert run("convert", source, "--verify", "bytes").exit_code == 0
    output = source.with_suffix(".fcn.safetensors")
    done = run("verify", source, output, "--model", f"{TRAIN}:LeNet", "--input", "1,8,8")
    assert "size mismatch for classifier.1.weight" in str(done.exception)
    assert "The original fits this model, so the spec is not what its forward pass does" in str(
        done.exception
    )


PADDED = """
from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(), nn.Linear(4 * 5 * 5, 3),
    )
"""


SEVERAL = """
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 2)
        self.fine = nn.Linear(4 * 8 * 8, 3)
        self.coarse = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x):
        x = self.conv(x)
        return self.fine(x.flatten(1)), self.coarse(F.max_pool2d(x, 2).flatten(1))
"""


def test_what_cannot_be_computed_is_a_warning(tmp_path: Path) -> None:
    code, source = tmp_path / "several.py", tmp_path / "several.pth"
    code.write_text(SEVERAL)
    namespace: dict[str, Any] = {}
    exec(SEVERAL, namespace)
    torch.save(namespace["Net"]().state_dict(), source)
    source.with_suffix(".yaml").write_text(
        "heads:\n- {feature_map: [4, 8, 8], dense: [fine]}\n"
        "- {feature_map: [4, 4, 4], dense: [coarse]}\n"
    )
    assert run("convert", source, "--verify", "bytes").exit_code == 0
    options = ("--model", f"{code}:Net", "--input", "1,9,9", "--verify", "bytes", "--json")
    pair = source, source.with_suffix(".fcn.safetensors")
    for strict, status in (((), 0), (("--strict",), 1)):
        done = run("verify", *pair, *options, *strict)
        assert done.exit_code == status
        report = json.loads(done.stdout)
        jsonschema.validate(report, json.loads(SCHEMA.read_text("utf-8")))
        assert report["model"]["windows_max_abs_diff"] is None
        [warning] = report["warnings"]
        assert "answers to their windows of the map: the head reads maps of several" in warning
        assert report["verdict"]["problems"] == [warning] * status
        assert f"warning: {warning}\n" in done.stderr


def test_a_bug_in_the_comparison_is_not_taken_for_what_cannot_be_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = converted("lenet.pth", tmp_path)
    monkeypatch.setattr("fcn_convert.model.windows._windows", lambda *_: 1 / 0)
    options = ("--verify", "bytes", "--model", f"{TRAIN}:LeNet", "--input", "1,8,8")
    assert isinstance(run("verify", *pair, *options).exception, ZeroDivisionError)


def test_what_makes_cells_differ_from_crops_is_named(tmp_path: Path) -> None:
    (tmp_path / "padded.py").write_text(PADDED)
    factory = f"{tmp_path / 'padded.py'}:make"
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    exec(PADDED, namespace)
    source = tmp_path / "padded.pth"
    torch.save(namespace["make"]().state_dict(), source)
    spec = source.with_suffix(".yaml")
    options = ("--model", factory, "--input", "1,9,9")
    assert run("init", source, "-o", spec, *options).exit_code == 0
    assert run("convert", source, "--verify", "bytes").exit_code == 0
    done = run("verify", source, source.with_suffix(".fcn.safetensors"), *options)
    assert done.exit_code == 0
    assert re.search(
        r"always: a cell is the Dense head on its window of the map; differs by (0|\d\.\de-1\d)\n",
        done.stdout,
    )
    assert "0 pads its input" in done.stdout
    assert "2 has ceil_mode" in done.stdout


OPERATIONS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 4, 2))
        self.fc = nn.Linear(4 * 8 * 8, 3)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


class OnPixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(81, 3)

    def forward(self, x):
        return self.fc(x.view(-1, 81))


class OneDtype(Net):
    def forward(self, x):
        if x.dtype != torch.float32:
            raise TypeError("float32, please")
        return super().forward(x)


class Exits(Net):
    def forward(self, x):
        return super().forward(x) if x.dtype == torch.float32 else exit(0)
"""


def verified_code(code: str, factory: str, folder: Path) -> Result:
    """Save the net of a factory, convert it and verify it with the model."""
    (folder / "code.py").write_text(code)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    source = folder / "net.pth"
    torch.save(namespace[factory]().state_dict(), source)
    options = ("--model", f"{folder / 'code.py'}:{factory}", "--input", "1,9,9")
    assert run("init", source, "-o", source.with_suffix(".yaml"), *options).exit_code == 0
    assert run("convert", source, "--verify", "bytes").exit_code == 0
    converted = source.with_suffix(".fcn.safetensors")
    return run("verify", source, converted, "--verify", "bytes", *options)


@pytest.mark.parametrize("factory", ["Net", "OnPixels"])
def test_a_model_may_compute_its_weights_or_need_whole_crops(factory: str, tmp_path: Path) -> None:
    done = verified_code(OPERATIONS, factory, tmp_path)
    assert done.exit_code == 0
    assert "outputs differ by" in done.stdout


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        pytest.param(
            "OneDtype",
            r"OneDtype fails on an input of 1×9×9 in float64 \(code\.py:28: .*\): TypeError: "
            "float32, please; expected one that runs",
            id="error",
        ),
        pytest.param("Exits", r"the model ends the program \(code\.py:34: .*\)", id="exit"),
    ],
)
def test_what_a_models_own_code_raises_is_one_sentence(
    factory: str, said: str, tmp_path: Path
) -> None:
    done = verified_code(OPERATIONS, factory, tmp_path)
    assert type(done.exception) is ModelError
    assert re.match(said, str(done.exception))


@pytest.mark.parametrize(
    ("converted", "expected"),
    [
        pytest.param("net.fcn.safetensors", "net.fcn.canvas.png", id="file"),
        pytest.param("net.fcn", "net.fcn.canvas.png", id="folder"),
        pytest.param(".", "../here.canvas.png", id="the-current-folder"),
    ],
)
def test_a_picture_lies_beside_the_converted_file(
    converted: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    [path] = picture_paths([Path("canvas.png")], Path(converted))
    assert os.path.abspath(path) == os.path.abspath(expected)


def canvas(folder: Path, size: tuple[int, int], mode: str = "L") -> Path:
    """Save a gray image of noise, (width, height)."""
    pixels = torch.randint(0, 256, (size[0] * size[1] * (3 if mode == "RGB" else 1),))
    path = folder / "canvas.png"
    Image.frombytes(mode, size, bytes(pixels.tolist())).save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_shows_the_best_class_of_every_cell(mode: str, tmp_path: Path) -> None:
    image = canvas(tmp_path, (20, 14), mode)
    done, model = verified("vgg.ckpt", tmp_path, "--image", str(image))
    assert done.exit_code == 0
    [entry] = model["pictures"]
    net = train.VGG()
    net.load_state_dict(torch.load(FOLDER / "vgg.ckpt", weights_only=True)["state_dict"])
    gray = Image.open(image).convert("L")
    pixels = torch.tensor(list(gray.tobytes()), dtype=torch.float64).view(14, 20) / 255
    windows = pixels.unfold(0, 8, 2).unfold(1, 8, 2)  # nothing is padded, so crops are the oracle
    with torch.inference_mode():
        scores = net.double().eval()(windows.reshape(-1, 1, 8, 8)).softmax(1)
    assert entry["classes"] == scores.argmax(1).view(4, 7).tolist()
    assert entry["chosen"] == int(scores.amax(0).argmax())
    assert entry["probability"] == pytest.approx(float(scores.max()), abs=1e-5)
    drawn = Image.open(tmp_path / "vgg.fcn.canvas.png").convert("RGB")
    scale = 480 // 20
    assert drawn.size == (3 * 20 * scale + 2 * scale, 14 * scale)
    assert drawn.getpixel((1, 1)) != drawn.getpixel((drawn.width // 2, drawn.height // 2))
    data = base64.b64decode(entry["png"].removeprefix("data:image/png;base64,"))
    assert data == (tmp_path / "vgg.fcn.canvas.png").read_bytes()


def test_the_class_of_the_heat_map_can_be_chosen(tmp_path: Path) -> None:
    image = canvas(tmp_path, (9, 9))
    done, model = verified("lenet.pth", tmp_path, "--image", str(image), "--class", "3")
    assert done.exit_code == 0
    assert model["pictures"][0]["chosen"] == 3


def text(folder: Path, content: str) -> Path:
    path = folder / "labels.txt"
    path.write_text(content)
    return path


def saved_as(folder: Path, image: Image.Image, suffix: str, **options: Any) -> Path:
    path = folder / f"canvas.{suffix}"
    image.save(path, **options)
    return path


def test_classes_are_called_by_their_names(tmp_path: Path) -> None:
    image = canvas(tmp_path, (20, 14))
    names = [f"digit {index}" for index in range(10)]
    labels = text(tmp_path, "\n".join(names) + "\n\n")
    done, model = verified("vgg.ckpt", tmp_path, "--image", str(image), "--labels", str(labels))
    [entry] = model["pictures"]
    assert entry["labels"] == names
    assert f"class {entry['chosen']} (digit {entry['chosen']})" in done.stdout
    named = (tmp_path / "vgg.fcn.canvas.png").read_bytes()
    pair = (tmp_path / "vgg.ckpt", tmp_path / "vgg.fcn.safetensors", "--verify", "shapes")
    options = ("--model", f"{TRAIN}:VGG", "--input", "1,8,8", "--image", image)
    assert run("verify", *pair, *options).exit_code == 0
    assert (tmp_path / "vgg.fcn.canvas.png").read_bytes() != named


ALIKE: dict[str, Callable[[Path, Image.Image], Path]] = {
    "rgb": lambda folder, gray: saved_as(folder, gray.convert("RGB"), "bmp"),
    "palette": lambda folder, gray: saved_as(folder, gray.convert("P"), "gif"),
    "transparent-white": lambda folder, gray: saved_as(folder, on_nothing(gray), "png"),
    "16-bit": lambda folder, gray: saved_as(folder, sixteen_bits(gray), "png"),
    "turned": lambda folder, gray: saved_as(
        folder, gray.transpose(Image.Transpose.ROTATE_90), "png", exif=TURNED
    ),
}
TURNED = Image.Exif()
TURNED[0x0112] = 6  # to be shown turned by a quarter, clockwise


def on_nothing(gray: Image.Image) -> Image.Image:
    """Return the image where it is dark, black at an opacity that gives it on white."""
    whole = Image.new("LA", gray.size)
    whole.putalpha(gray.point(lambda value: 255 - value))
    return whole


def sixteen_bits(gray: Image.Image) -> Image.Image:
    values = b"".join(value.to_bytes(1, "little") * 2 for value in gray.tobytes())
    return Image.frombytes("I;16", gray.size, values)


@pytest.mark.parametrize("save", ALIKE.values(), ids=ALIKE)
def test_however_an_image_is_stored_its_pixels_are_the_same(
    save: Callable[[Path, Image.Image], Path], tmp_path: Path
) -> None:
    gray = Image.frombytes("L", (11, 8), bytes(range(0, 176, 2)))
    request = PictureRequest((save(tmp_path, gray),), mean=(0.5,), std=(0.25,))
    [photo] = read_photos(request, (1, 8, 8))
    expected = torch.tensor(list(gray.tobytes())).view(1, 1, 8, 11) / 255
    torch.testing.assert_close(photo.pixels, (expected - 0.5) / 0.25, rtol=0, atol=0.01)


def test_color_channels_have_a_mean_each(tmp_path: Path) -> None:
    path = saved_as(tmp_path, Image.new("RGB", (4, 5), (255, 51, 0)), "png")
    request = PictureRequest((path,), mean=(0.5, 0.1, 0.2), std=(0.5, 0.1, 0.4))
    [photo] = read_photos(request, (3, 4, 4))
    assert photo.pixels.shape == (1, 3, 5, 4)
    torch.testing.assert_close(photo.pixels[0, :, 2, 2], torch.tensor([1.0, 1.0, -0.5]))


@pytest.mark.parametrize("name", ["sequence.safetensors"])
def test_a_model_of_no_images_is_one_sentence(name: str, tmp_path: Path) -> None:
    factory, sizes = SAMPLES[name]
    options = (
        "--model",
        f"{TRAIN}:{factory}",
        "--input",
        sizes,
        "--image",
        canvas(tmp_path, (9, 9)),
    )
    done = run("verify", *converted(name, tmp_path), *options)
    assert "--image: the model reads 8,8; expected an --input of 1,H,W or 3,H,W" in str(
        done.exception
    )


def broken_image(folder: Path) -> list[str | Path]:
    path = folder / "broken.png"
    path.write_bytes(b"no image")
    return ["--image", path]


BAD_IMAGES = {
    "no-image": (broken_image, "broken.png: is not an image that can be read"),
    "missing": (lambda folder: ["--image", folder / "none.png"], "none.png: is not an image"),
    "small": (
        lambda folder: ["--image", canvas(folder, (7, 20))],
        r"has 20×7 pixels (H×W), fewer than the model's own input, 8×8",
    ),
    "labels": (
        lambda folder: ["--image", canvas(folder, (9, 9)), "--labels", text(folder, "a\nb\n")],
        "--labels: has 2 lines, expected 10, one for each class",
    ),
    "no-labels": (
        lambda folder: ["--image", canvas(folder, (9, 9)), "--labels", folder / "none.txt"],
        "none.txt: cannot be read: No such file",
    ),
    "labels-that-are-no-text": (
        lambda folder: ["--image", canvas(folder, (9, 9)), "--labels", canvas(folder, (9, 9))],
        "canvas.png: is not UTF-8 text, one name a line",
    ),
    "mean": (
        lambda folder: ["--image", canvas(folder, (9, 9)), "--mean", "1,2,3"],
        "--mean: 3 numbers, expected one for each of 1 channels, or one",
    ),
    "std": (
        lambda folder: ["--image", canvas(folder, (9, 9)), "--std", "0"],
        "--std: expected numbers above 0",
    ),
    "floats": (
        lambda folder: ["--image", saved_as(folder, Image.new("F", (9, 9), 0.5), "tiff")],
        "canvas.tiff: has pixels of floating point; expected 8 or 16 bits",
    ),
    "class": (
        lambda folder: ["--image", canvas(folder, (9, 9)), "--class", "10"],
        "--class 10: the model has the classes 0 to 9",
    ),
    "same-stem": (
        lambda folder: ["--image", canvas(folder, (9, 9)), "--image", folder / "x" / "canvas.bmp"],
        "two images would give this picture",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_an_unusable_image_is_one_sentence(make: Any, message: str, tmp_path: Path) -> None:
    pair = converted("lenet.pth", tmp_path)
    options = ("--verify", "bytes", "--model", f"{TRAIN}:LeNet", "--input", "1,8,8")
    done = run("verify", *pair, *options, *make(tmp_path))
    assert message in str(done.exception)
    assert type(done.exception).__name__ in {"ModelError", "OutputError"}
    assert not list(tmp_path.glob("*.fcn.*.png"))


def test_a_picture_needs_a_model(tmp_path: Path) -> None:
    done = run("verify", *converted("lenet.pth", tmp_path), "--image", canvas(tmp_path, (9, 9)))
    assert done.exit_code == 2
    assert "goes with --model and --input" in " ".join(done.output.replace("│", " ").split())


def test_a_picture_replaces_no_image(tmp_path: Path) -> None:
    pair = converted("lenet.pth", tmp_path)
    image = canvas(tmp_path, (9, 9)).rename(tmp_path / "lenet.fcn.canvas.png")
    (tmp_path / "lenet.fcn.lenet.fcn.canvas.png").symlink_to(image)
    options = ("--verify", "bytes", "--model", f"{TRAIN}:LeNet", "--input", "1,8,8")
    done = run("verify", *pair, *options, "--image", image)
    assert "is not a regular file" in str(done.exception)
    copy = shutil.copy(image, tmp_path / "copy.png")
    mine = Path(shutil.copy(image, tmp_path / "lenet.fcn.copy.png"))
    refused = run("verify", *pair, *options, "--image", copy)
    assert "already exists and is not a report or picture of ours" in str(refused.exception)
    assert mine.read_bytes() == image.read_bytes()
    mine.unlink()
    for _ in range(2):  # of ours it is drawn anew
        assert run("verify", *pair, *options, "--image", copy).exit_code == 0


def test_a_picture_is_written_through_its_draft_and_replaces_nothing_that_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    entry = PictureEntry("a.png", 0, 1.0, ((0,),), (), "data:image/png;base64,aGVsbG8=")
    path = tmp_path / "p.png"
    write_pictures([entry], [path])
    assert path.read_bytes() == b"hello"
    path.write_bytes(b"mine")
    with pytest.raises(ExistsError, match=r"p\.png: already exists and is not a report or pict"):
        write_pictures([entry], [path])
    assert path.read_bytes() == b"mine"
    monkeypatch.setattr(os, "write", full)  # by which drafts are written
    with pytest.raises(OutputError, match=r"q\.png: No space left on device$"):
        write_pictures([entry], [tmp_path / "q.png"])
    assert list(tmp_path.iterdir()) == [path]


def test_without_pillow_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = canvas(tmp_path, (9, 9))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    pair = converted("lenet.pth", tmp_path)
    options = ("--verify", "bytes", "--model", f"{TRAIN}:LeNet", "--input", "1,8,8")
    done = run("verify", *pair, *options, "--image", image)
    assert "pip install 'fcn-convert[pictures]'" in str(done.exception)
