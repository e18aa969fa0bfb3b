"""What all readers of files share: the form of a row, and the checks of rows. Imports no torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import DataError
from cl_lightning.data.benchmarks.json_files import kind

#: Argument of pip that installs the libraries that some formats need.
EXTRA = "'cl-lightning[data]'"
#: Place of a row ("FILE, row 3") and its fields.
Row = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Reading:
    """How to read a file, where its suffix and its content do not say it.

    Attributes:
        encoding: name of a text encoding; None: UTF-8, or what a byte order mark says.
        delimiter: one character between the fields of CSV; None: the one that the head line has.
    """

    encoding: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True)
class Reader:
    """Reads one format.

    Attributes:
        rows: yields the rows of a file one after another, without holding them all.
        takes: fields of `Reading` that have an effect on this format.
    """

    rows: Callable[[Path, Reading], Iterator[Row]]
    takes: frozenset[str] = frozenset()


def numbered(rows: Iterator[Any], where: str) -> Iterator[Row]:
    """Add its place to each row. Raises DataError for one that has no fields."""
    for number, row in enumerate(rows, start=1):
        place = f"{where}, row {number}"
        if not isinstance(row, dict):
            raise DataError(f"{place} is {kind(row)}, expected an object of fields")
        yield place, row


def refuse_twins(names: Sequence[str], path: Path) -> None:
    """Raise DataError if two columns have one name."""
    twin = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twin is not None:
        raise DataError(f"{path}: two columns are called {twin!r}; rename one of them")
