"""Reads CSV and TSV files with a head line of names. Imports no torch."""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import DataError
from cl_lightning.data.files.rows import Reader, Reading, Row, refuse_twins
from cl_lightning.data.files.text import lines

#: Most characters in a field; the library's own limit is 131072.
LONGEST_FIELD = 2**31 - 1
#: Characters that may separate fields where none is named.
DELIMITERS = (",", ";", "\t")
#: The same, of files that none of those separates.
ELSE = "|"
#: First line in which spreadsheets say the delimiter.
SAID = re.compile(r"sep=(.)\s*")
#: Lines at the beginning of a file that tell which of them does.
LOOKED_AT = 50


def _csv(path: Path, reading: Reading) -> Iterator[Row]:
    text = lines(path, reading.encoding)
    first = list(islice(text, LOOKED_AT))
    said = SAID.fullmatch(first[0]) if first else None
    if said:
        del first[0]
    delimiter = reading.delimiter or (said[1] if said else _delimiter(first, path))
    return _rows(path, chain(first, text), delimiter)


def _tsv(path: Path, reading: Reading) -> Iterator[Row]:
    return _rows(path, lines(path, reading.encoding), reading.delimiter or "\t")


def _rows(path: Path, text: Iterator[str], delimiter: str) -> Iterator[Row]:
    reader = csv.DictReader(text, delimiter=delimiter, strict=True)
    number = 0
    try:
        with _long_fields():
            refuse_twins(reader.fieldnames or (), path)
        for number, row in enumerate(_each(reader), start=1):
            if None in row or None in row.values():
                fields = len(reader.fieldnames or ())
                found = len([v for k, v in row.items() if k is not None and v is not None]) + len(row.get(None, ()))
                raise DataError(
                    f"{path}, row {number}: has {found} fields, the head line has {fields} (separated by {delimiter!r})"
                )
            yield f"{path}, row {number}", row
    except csv.Error as error:
        raise DataError(f"{path}, row {number + 1}: not valid CSV ({error})") from None


def _delimiter(first: Sequence[str], path: Path) -> str:
    """Return the delimiter that gives the head line two fields or more, and the rows below it as many.

    Raises:
        DataError: two delimiters do so equally well.
    """
    fields = {delimiter: _fields(first, delimiter) for delimiter in DELIMITERS}
    ranks = {delimiter: (len({*counts}) == 1, counts[0]) for delimiter, counts in fields.items() if counts[0] > 1}
    if not ranks:
        return ELSE if _fields(first, ELSE)[0] > 1 else DELIMITERS[0]
    best = [delimiter for delimiter, rank in ranks.items() if rank == max(ranks.values())]
    if len(best) > 1:
        raise DataError(
            f"{path}: {' or '.join(map(repr, best))} may separate its fields; say which, for example "
            f"delimiter: {best[0]!r}"
        )
    return best[0]


def _fields(first: Sequence[str], delimiter: str) -> list[int]:
    """Count the fields of the head line and of the rows below it, up to one that is not valid."""
    counts: list[int] = []
    with _long_fields(), suppress(csv.Error):  # what is not valid is said where the row is read
        counts += (len(row) for row in csv.reader(first, delimiter=delimiter, strict=True) if row)
    # The last row may go on behind these lines.
    return (counts[:-1] if len(first) == LOOKED_AT and len(counts) > 1 else counts) or [0]


def _each(reader: csv.DictReader) -> Iterator[dict[str | None, Any]]:
    while True:
        with _long_fields():
            row = next(reader, None)
        if row is None:
            return
        yield row


@contextmanager
def _long_fields() -> Iterator[None]:
    # The limit is global, so it is restored before any other code reads.
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


CSV = Reader(_csv, frozenset({"encoding", "delimiter"}))
TSV = Reader(_tsv, frozenset({"encoding", "delimiter"}))
