"""What a file says of a tensor, checked: the same for whichever library wrote it."""

from __future__ import annotations

from dataclasses import dataclass

from fcn_convert.tensors import MAX_AXES

_MAX_SIZE = 1 << 63


class RecordError(ValueError):
    """A tensor or storage record that lies or is malformed; the reader adds file and name."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A tensor that is not a plain row of values."""

    reason: str


def check_naturals(what: str, *values: object) -> None:
    """Raise RecordError unless all values are numbers of 0 to 2⁶³ - 1."""
    if not all(type(value) is int and 0 <= value < _MAX_SIZE for value in values):
        raise RecordError(f"{what} is not a natural number of 64 bits")


CHANGED = "it is changed after it was made, which torch.save and pickle.dump never do"


def sizes_of(value: object, what: str) -> tuple[int, ...]:
    """Return a tuple or a list of numbers as a tuple; raises RecordError for anything else."""
    if not isinstance(value, tuple | list) or len(value) > MAX_AXES:
        raise RecordError(f"its {what} are not a tuple of at most {MAX_AXES} numbers")
    check_naturals(f"one of its {what}", *value)
    return tuple(value)
