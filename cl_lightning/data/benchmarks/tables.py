"""Reads rows of the user's files (JSON, JSONL, CSV, TSV, Parquet) and of hub data sets, each with a name for its place.

Imports no torch; the libraries for Parquet and the hub are imported when used.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import ConfigError, DataError, nearest
from cl_lightning.data.benchmarks.json_files import kind, parse_json, read_json, records_in, refuse_special

#: Place of a row ("FILE, row 3") and its fields.
Row = tuple[str, dict[str, Any]]

#: Most characters in a field of CSV; the library's own limit is 131072.
LONGEST_FIELD = 2**31 - 1


def read_rows(path: Path) -> Iterator[Row]:
    """Read the rows of a file in the format of its suffix.

    Raises:
        DataError: no such file, an unknown suffix, no row, or an unreadable row; the message names it.
    """
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path}: cannot be read; its name must end in one of {', '.join(READERS)}")
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not a file of rows")
    refuse_special(path)
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: is a link that leads to no file")
    if not path.is_file():
        there = [p.name for p in path.parent.glob("*") if p.suffix.lower() in READERS and p.is_file()]
        raise DataError(f"{path} is missing; {nearest(path.name, there) if there else 'there is no such file'}")
    return _with_some(READERS[path.suffix.lower()](path), str(path))


def hub_rows(name: str, config: str | None, split: str) -> Iterator[Row]:
    """Read the rows of one split of a hub data set.

    Raises:
        ConfigError: the library `datasets` is not installed.
        DataError: the data set cannot be loaded, or has no row.
    """
    _need("datasets", f"the hub data set {name!r}")
    import datasets

    where = f"{name}, split {split}"
    try:
        data = datasets.load_dataset(name, config, split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{where}: cannot be loaded ({' '.join(str(error).split())})") from None
    return _with_some(_numbered(iter(data), where), where)


def _with_some(rows: Iterator[Row], where: str) -> Iterator[Row]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{where}: holds no row")


def _numbered(rows: Iterator[Any], where: str) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        place = f"{where}, row {number}"
        if not isinstance(row, dict):
            raise DataError(f"{place} is {kind(row)}, expected an object of fields")
        yield place, row


def _json(path: Path) -> Iterator[Row]:
    return _numbered(iter(records_in(read_json(path), path)), str(path))


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path}, row {number}"
        row = parse_json(line, place)
        if not isinstance(row, dict):
            raise DataError(f"{place} is {kind(row)}, expected an object of fields")
        yield place, row


def _separated(delimiter: str) -> Callable[[Path], Iterator[Row]]:
    def read(path: Path) -> Iterator[Row]:
        reader = csv.DictReader(_lines(path), delimiter=delimiter, strict=True)
        number = 0
        try:
            with _long_fields():
                _refuse_twins(reader.fieldnames or (), path)
            for number, row in enumerate(_each(reader), start=1):
                if None in row or None in row.values():
                    fields = len(reader.fieldnames or ())
                    found = len([v for k, v in row.items() if k is not None and v is not None]) + len(row.get(None, ()))
                    raise DataError(f"{path}, row {number}: has {found} fields, the head line has {fields}")
                yield f"{path}, row {number}", row
        except csv.Error as error:
            raise DataError(f"{path}, row {number + 1}: not valid CSV ({error})") from None

    return read


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


def _refuse_twins(names: Sequence[str], path: Path) -> None:
    twin = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twin is not None:
        raise DataError(f"{path}: two of its columns are called {twin!r}; name each once")


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _parquet(path: Path) -> Iterator[Row]:
    _need("pyarrow", str(path))
    import pyarrow
    from pyarrow import parquet

    try:
        _refuse_twins(parquet.read_schema(path).names, path)
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet ({' '.join(str(error).split())})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start} of a field)") from None
    except (OverflowError, ValueError, KeyError) as error:  # a date out of range, an unknown time zone
        raise DataError(f"{path}: holds a value out of Python's range ({' '.join(str(error).split())})") from None
    return _numbered(iter(rows), str(path))


def _need(library: str, what: str) -> None:
    if find_spec(library) is None:
        raise ConfigError(f"{what}: reading it needs {library}; pip install 'cl-lightning[data]'")


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
}
