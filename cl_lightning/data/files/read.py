"""Reads rows of the user's files, folders and hub data sets, each with a name for its place.

A new format is one module with a `Reader`, and its suffix in `READERS`. Imports no torch; the libraries for Parquet,
Arrow and the hub are imported when used.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cl_lightning.common.errors import ConfigError, DataError, first_three, nearest
from cl_lightning.common.packages import need
from cl_lightning.data.benchmarks.json_files import refuse_special
from cl_lightning.data.files import arrow, json_lines, json_list, separated
from cl_lightning.data.files.rows import EXTRA, Reader, Reading, Row, numbered
from cl_lightning.data.files.text import COMPRESSIONS, format_suffix

READERS: dict[str, Reader] = {
    ".json": json_list.READER,
    ".jsonl": json_lines.READER,
    ".csv": separated.CSV,
    ".tsv": separated.TSV,
    ".parquet": arrow.PARQUET,
    ".arrow": arrow.ARROW,
    ".feather": arrow.ARROW,
}


def read_rows(path: Path, reading: Reading = Reading()) -> Iterator[Row]:  # noqa: B008
    """Read the rows of a file in the format of its suffix, or of all files of a folder, in the order of their names.

    Raises:
        DataError: no such file, an unknown suffix, no row, or an unreadable row; the message names it.
        ConfigError: an option of `reading` has no effect on this format, or a library is not installed.
    """
    for file in files_of(path):
        yield from _with_some(_reader(file, reading).rows(file, reading), str(file))


def files_of(path: Path) -> list[Path]:
    """List the files to read: the path itself, or the data files of a folder. Raises DataError."""
    refuse_special(path)
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: is a link that leads to no file")
    if path.is_dir():
        return arrow.saved_files(path) if arrow.is_saved(path) else _in_folder(path)
    if not is_data(path):
        raise DataError(
            f"{path}: cannot be read; its name must end in one of {', '.join(READERS)}, or such an end and one of "
            f"{', '.join(COMPRESSIONS)}"
        )
    if not path.is_file():
        there = [p.name for p in path.parent.glob("*") if is_data(p) and p.is_file()]
        raise DataError(f"{path} is missing; {nearest(path.name, there) if there else 'there is no such file'}")
    return [path]


def is_data(path: Path) -> bool:
    """Return whether a file's name ends like that of a format that can be read."""
    return format_suffix(path) in READERS


def _in_folder(folder: Path) -> list[Path]:
    there = [path for path in folder.iterdir() if not path.name.startswith(".")]
    found = sorted(path for path in there if is_data(path) and not path.is_dir())
    deeper = sorted(path.name for path in there if path.is_dir() and any(map(is_data, path.rglob("*"))))
    if deeper:
        raise DataError(
            f"{folder}: {first_three(deeper)} in it would not be read; name the folder of the files themselves, or put "
            "all files into one"
        )
    if not found:
        raise DataError(f"{folder}: contains no data file; data files end in one of {', '.join(READERS)}")
    return [file for path in found for file in files_of(path)]


def _reader(path: Path, reading: Reading) -> Reader:
    reader = READERS[format_suffix(path)]
    compressed = path.suffix.lower() in COMPRESSIONS
    if compressed and "encoding" not in reader.takes:
        raise DataError(f"{path}: cannot be read while it is compressed; unpack it first")
    for option, value in vars(reading).items():
        if value is not None and option not in reader.takes:
            raise ConfigError(f"{path}: {option} has no effect on {format_suffix(path)} files; leave it out")
    return reader


@dataclass(frozen=True)
class Source:
    """What a task's rows are read from: `size` bytes, and `rows`, which reads them from the first one on."""

    size: int
    rows: Callable[[], Iterator[Row]]


def file_source(path: Path, reading: Reading) -> Source:
    """Return the file, or the files of the folder. Raises DataError as `files_of`; `rows` raises as `read_rows`."""
    return Source(sum(file.stat().st_size for file in files_of(path)), lambda: read_rows(path, reading))


def hub_source(name: str, config: str | None, split: str) -> Source:
    """Load one split of a hub data set, which stays on the disk.

    Raises:
        ConfigError: the library `datasets` is not installed.
        DataError: the data set cannot be loaded; by `rows`: it has no row.
    """
    need("datasets", f"the hub data set {name!r}", EXTRA)
    import datasets

    where = f"{name}, split {split}"
    try:
        data = datasets.load_dataset(name, config, split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{where}: cannot be loaded ({' '.join(str(error).split())})") from None
    return Source(data.data.nbytes, lambda: _with_some(numbered(iter(data), where), where))


def _with_some(rows: Iterator[Row], where: str) -> Iterator[Row]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{where}: has no rows")
