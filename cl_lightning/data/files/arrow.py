"""Reads Parquet, Arrow and Feather files, and data sets written by `save_to_disk` of the library `datasets`.

Imports no torch, and pyarrow only where it is used.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import DataError
from cl_lightning.common.packages import need
from cl_lightning.data.benchmarks.json_files import read_json
from cl_lightning.data.files.rows import EXTRA, Reader, Reading, Row, numbered, refuse_twins

#: Rows that are held at once.
ROWS = 64
#: File of a saved data set that lists its parts, and file of a saved set of splits that lists these.
STATE, SPLITS = "state.json", "dataset_dict.json"


def _parquet(path: Path, reading: Reading) -> Iterator[Row]:
    def tables() -> Iterator[Any]:
        from pyarrow import parquet

        # Without the map, a whole group of rows is copied, and one group may be the file.
        with parquet.ParquetFile(path, memory_map=True) as file:
            refuse_twins(file.schema_arrow.names, path)
            yield from file.iter_batches(batch_size=ROWS)

    return _from_tables(tables, path, "Parquet")


def _arrow(path: Path, reading: Reading) -> Iterator[Row]:
    def tables() -> Iterator[Any]:
        import pyarrow

        with pyarrow.memory_map(str(path)) as source:
            stored = source.read(6) == b"ARROW1"
            source.seek(0)
            # `save_to_disk` writes the streaming format, Feather the other one.
            reader = (pyarrow.ipc.open_file if stored else pyarrow.ipc.open_stream)(source)
            refuse_twins(reader.schema.names, path)
            parts = (reader.get_batch(i) for i in range(reader.num_record_batches)) if stored else reader
            for part in parts:
                yield from (part.slice(start, ROWS) for start in range(0, part.num_rows, ROWS))

    return _from_tables(tables, path, "Arrow")


def _from_tables(tables: Callable[[], Iterator[Any]], path: Path, called: str) -> Iterator[Row]:
    need("pyarrow", str(path), EXTRA)
    rows = _python_rows(tables, path, called)
    return numbered(rows, str(path))


def _python_rows(tables: Callable[[], Iterator[Any]], path: Path, called: str) -> Iterator[Any]:
    with _reported(path, called):
        for table in tables():
            table.validate(full=True)  # a damaged one could end the process
            yield from table.to_pylist()


@contextmanager
def _reported(path: Path, called: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as {called} ({' '.join(str(error).split())})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start} of a field)") from None
    except (OverflowError, ValueError, KeyError) as error:  # a date out of range, an unknown time zone
        raise DataError(f"{path}: holds a value out of Python's range ({' '.join(str(error).split())})") from None


def is_saved(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote this folder."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def saved_files(folder: Path) -> list[Path]:
    """List the Arrow files of a saved data set, in order.

    Raises:
        DataError: the folder holds several splits, or its list of files is damaged.
    """
    if not (folder / STATE).is_file():
        splits = read_json(folder / SPLITS)
        names = splits.get("splits") if isinstance(splits, dict) else None
        shown = [str(folder / str(name)) for name in names] if isinstance(names, list) else ["FOLDER/SPLIT"]
        raise DataError(f"{folder}: holds several splits; name one of them: {', '.join(shown)}")
    state = read_json(folder / STATE)
    try:
        names = [part["filename"] for part in state["_data_files"]]
    except (KeyError, TypeError):
        raise DataError(f"{folder / STATE}: does not list the data set's files; save it again") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise DataError(f"{folder / STATE}: {json.dumps(name)} is not the name of a file in this folder")
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing; {STATE} lists it")
    return [folder / name for name in names]


PARQUET, ARROW = Reader(_parquet), Reader(_arrow)
