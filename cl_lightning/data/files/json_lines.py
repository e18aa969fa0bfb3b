"""Reads JSON Lines: files with an object on each line. Imports no torch."""

from collections.abc import Iterator
from pathlib import Path

from cl_lightning.common.errors import DataError
from cl_lightning.data.benchmarks.json_files import kind, parse_json
from cl_lightning.data.files.rows import Reader, Reading, Row
from cl_lightning.data.files.text import lines


def _rows(path: Path, reading: Reading) -> Iterator[Row]:
    for number, line in enumerate(lines(path, reading.encoding), start=1):
        if not line.strip():
            continue
        place = f"{path}, row {number}"
        row = parse_json(line, place)
        if not isinstance(row, dict):
            raise DataError(f"{place} is {kind(row)}, expected an object of fields")
        yield place, row


READER = Reader(_rows, frozenset({"encoding"}))
