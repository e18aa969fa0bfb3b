"""Reads JSON files that hold one list of objects. Imports no torch."""

from collections.abc import Iterator
from pathlib import Path

from cl_lightning.common.errors import DataError
from cl_lightning.data.benchmarks.json_files import parse_json, records_in
from cl_lightning.data.files.rows import Reader, Reading, Row, numbered
from cl_lightning.data.files.text import whole


def _rows(path: Path, reading: Reading) -> Iterator[Row]:
    text = whole(path, reading.encoding)
    try:
        data = parse_json(text, str(path))
    except DataError as error:
        if "Extra data" in str(error):
            raise DataError(f"{error}; a file with an object on each line is called .jsonl") from None
        raise
    yield from numbered(iter(records_in(data, path)), str(path))


READER = Reader(_rows, frozenset({"encoding"}))
