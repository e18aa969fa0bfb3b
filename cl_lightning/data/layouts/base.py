"""What a row asks and how it is answered, whatever its layout. Imports no torch."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import Any, ClassVar, Protocol

from cl_lightning.common.errors import DataError, nearest
from cl_lightning.common.wording import brief
from cl_lightning.data.base import Turn
from cl_lightning.data.benchmarks.json_files import kind

#: Types of a field that have one obvious text. A datetime is a date, a boolean an int.
WRITTEN = (str, int, float, Decimal, date, time)


class Options(Protocol):
    """The options of a task that layouts read; see `UserTask`."""

    prompt: str | None
    answer: str | None
    turns: str | None
    loss_on: str


@dataclass(frozen=True)
class Asked:
    """What a row asks, with its correct answers.

    Attributes:
        answers: values of the answer field, the training target first.
        turns, instruction, cue: see Example.
    """

    prompt: str
    answers: Sequence[Any]
    turns: tuple[Turn, ...] = ()
    instruction: int = 0
    cue: int = 0


class Layout(ABC):
    """How a row holds a prompt and its answer: one class in one file, and its line in `layouts.LAYOUTS`.

    Attributes:
        takes: options of a task that have an effect on this layout.
        needs: those of them that must be given.
        answer: the answer's name in messages about it.
    """

    takes: ClassVar[frozenset[str]]
    needs: ClassVar[frozenset[str]] = frozenset()
    answer: str

    @abstractmethod
    def __init__(self, options: Options, option: str) -> None:
        """Read the options of a task, which `option` names. Raises ConfigError."""

    @abstractmethod
    def read(self, row: Mapping[str, Any], where: str) -> Asked:
        """Read a row. Raises DataError that begins with `where`."""


def field(row: Mapping[str, Any], name: str, where: str) -> Any:
    """Return the value of a field. Raises DataError if there is none."""
    if name not in row:
        if len(row) == 1 and name in re.split(r"\W+", alone := next(iter(row))):
            raise DataError(
                f"{where} has one field, {brief(alone)!r}; if a character in it separates fields, name it as delimiter"
            )
        raise DataError(f"{where} has no field {name!r}; {nearest(name, (brief(str(other)) for other in row))}")
    return row[name]


def text(row: Mapping[str, Any], name: str, where: str) -> str:
    """Return a field as text. Raises DataError for anything but text and finite numbers."""
    value = field(row, name, where)
    if not isinstance(value, WRITTEN):
        raise DataError(f"{where}: {name!r} is {kind(value)}, expected text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where}: {name!r} is {value}, expected text or a finite number")
    return str(value)
