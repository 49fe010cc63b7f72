"""Files that must be refused, one id a case: generated here, and stored nowhere.

`BAD` is all of them, as what a user does: a folder with files, and a command line. Each must get
status 2 and the sentence that is expected, and nothing else (test_bad_input.py). The fuzzers start
from them, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from corpus import (
    arrays,
    costly,
    foreign,
    hdf5,
    headers,
    layers,
    legacy,
    pickles,
    places,
    shards,
    specs,
    zips,
)

SPEC = "feature_map: [1, 2, 2]\n"
MARKER = "marker"
"""What a file that is run leaves in the folder."""
NOBODY = 65534


@dataclass(frozen=True)
class Case:
    """Something that `convert` must refuse.

    make: writes the files into a folder, and returns the arguments. said: a pattern for each line
    of the error. user: who runs the command; None: who runs the tests. is_heavy: it
    needs a library of the extra dev-heavy.
    """

    id: str
    make: Callable[[Path], Sequence[str]]
    said: Sequence[str] = ("",)
    user: int | None = None
    is_heavy: bool = False


def file(kind: str, name: str, raw: bytes | Callable[[], bytes], said: str, suffix: str) -> Case:
    """A checkpoint of these bytes, with a spec beside it that is in order."""

    def make(folder: Path) -> list[str]:
        path = folder / f"m.{suffix}"
        path.write_bytes(raw if isinstance(raw, bytes) else raw())
        path.with_suffix(".yaml").write_text(SPEC)
        return [path.name]

    return Case(f"{kind}-{name}", make, (said,))


def wrapped(name: str, raw: bytes) -> list[Case]:
    """A pickle by itself, and in both of torch's containers; which of them sees it first varies."""
    kinds = {"bare": bytes, "zip": pickles.torch_zip, "legacy": pickles.torch_legacy}
    return [
        file(f"pickle-{kind}", name, lambda wrap=wrap: wrap(raw), "", "pt")
        for kind, wrap in kinds.items()
    ]


def planted(name: str, wrap: Callable[[bytes], bytes], kind: str) -> Case:
    def make(folder: Path) -> list[str]:
        raw = dict(pickles.planted(folder / MARKER))[name]
        return file("", "", wrap(raw), "", "pt").make(folder)

    return Case(f"planted-{kind}-{name}", make)


def sharded(name: str, change: shards.Change, said: str) -> Case:
    def make(folder: Path) -> list[str]:
        shards.broken(folder, change)
        (folder / "s.yaml").write_text(SPEC)
        return [shards.INDEX, "--spec", "s.yaml"]

    return Case(f"shards-{name}", make, (said,))


def with_spec(name: str, raw: bytes, said: Sequence[str]) -> Case:
    def make(folder: Path) -> list[str]:
        layers.make_net(folder / "net.safetensors")
        (folder / "spec.yaml").write_bytes(raw)
        return ["net.safetensors", "--spec", "spec.yaml"]

    return Case(f"spec-{name}", make, said)


def placed(
    name: str, change: places.Change, arguments: Sequence[str], said: str, user: int | None = None
) -> Case:
    def make(folder: Path) -> Sequence[str]:
        layers.make_net(folder / places.IN)
        (folder / places.IN).chmod(0o644)  # the library's files are their owner's
        (folder / places.SPEC).write_text(layers.MAP)
        folder.chmod(0o755 if user is None else 0o777)
        change(folder)
        return arguments

    return Case(f"place-{name}", make, (said,), user)


def _all() -> list[Case]:
    made = [file("safetensors", n, *case, "safetensors") for n, case in headers.MALFORMED.items()]
    made += [file("zip", n, *case, "pt") for n, case in zips.MALFORMED.items()]
    made += [
        file("zip", n, lambda c=change: zips.rezipped(zips.saved(), c), said, "pt")
        for n, (change, said) in zips.NOT_OF_TORCH.items()
    ]
    made += [file("legacy", n, *case, "pt") for n, case in legacy.MALFORMED.items()]
    made += [case for n, (raw, _) in pickles.MALFORMED.items() for case in wrapped(n, raw)]
    made += [
        file("hostile", n, lambda m=make: pickles.torch_zip(m()), said, "pt")
        for n, (make, said) in {**pickles.HOSTILE, **pickles.DEEP, **pickles.BOMBS}.items()
    ]
    made += [
        planted(n, wrap, kind)
        for n, _ in pickles.planted(Path(MARKER))
        for kind, wrap in {"bare": bytes, "zip": pickles.torch_zip}.items()
    ]
    made += [sharded(n, *case) for n, case in shards.MALFORMED.items()]
    made += [file("index", n, *case, "index.json") for n, case in shards.TEXTS.items()]
    made += [file("arrays", n, *case, n[:3]) for n, case in arrays.MALFORMED.items()]
    made += [file("costly", n, *case) for n, case in costly.COSTLY.items()]
    made += [
        replace(file("hdf5", n, *case, "keras" if n.startswith("member") else "h5"), is_heavy=True)
        for n, case in hdf5.MALFORMED.items()
    ]
    made += [file("foreign", n, *case, "pth") for n, case in foreign.FOREIGN.items()]
    for case in specs.BAD:
        text, said = case.values
        made.append(with_spec(case.id, text.encode(), said))
    for case in specs.YAML_CASES:
        text, said = case.values
        made.append(with_spec(case.id, text.encode(), (said,)))
    made += [with_spec(f"file-{n}", raw, (said,)) for n, (raw, said) in specs.RAW.items()]
    made += [
        with_spec(f"layers-{n}", text.encode(), said)
        for n, (text, said) in layers.MALFORMED.items()
    ]
    made += [placed(n, *case) for n, case in places.CASES.items()]
    made += [placed(f"forbidden-{n}", *case, NOBODY) for n, case in places.FORBIDDEN.items()]
    return made


BAD = _all()
