"""Verify a run folder when it is opened: the record, and every file that it names. No torch here.

Every command that reads a run reads its record by `read_record`, so that all of them refuse the same damage before they
do anything else.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import StateError
from cl_lightning.common.paths import below
from cl_lightning.sequence.record_file import read_record_file
from cl_lightning.sequence.run_files import EXPORTS, PREVIOUS, RECORD

#: Bytes from which a file's digest is compared when it is read, and only its size when the run is opened.
LARGE = 64 * 2**20
#: Advice when a file of a run folder is missing or damaged.
REMEDY = "restore it, or start over with FRESH=1"


def digest_fault(data: bytes, record: dict[str, Any], name: str) -> str | None:
    """Return what is wrong with the content of a file that the record names, or None."""
    same = hashlib.sha256(data).hexdigest() == record["files"][name]
    return None if same else "damaged (its checksum is not the recorded one)"


def file_fault(file: Path, record: dict[str, Any], name: str, whole: bool = True) -> str | None:
    """Return what is wrong with a file that the record names, or None. `whole`: read large files too."""
    if not file.is_file():
        return "missing" if not file.exists() else "missing (what is there is no file)"
    try:
        if not whole and name in record["large"]:
            same = file.stat().st_size == record["large"][name]
            return None if same else f"damaged (it should have {record['large'][name]} bytes)"
        return digest_fault(file.read_bytes(), record, name)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def faults(path: Path, record: dict[str, Any], whole: bool = False) -> Iterator[str]:
    """Yield "FILE: what is wrong" for every damaged file of a run. `whole`: compare the digests of large files too.

    Raises:
        StateError: a name leads out of the folder, or is a link.
    """
    for name in record["files"]:
        file = below(path, name)
        # A file that is being replaced may be the old or the new one; what needs it writes it again.
        if name not in record["writing"] and (why := file_fault(file, record, name, whole)):
            yield f"{file}: {why}"
    for name in EXPORTS:
        if (path / name).is_dir():
            yield f"{path / name}: is not a file"


def unfinished_faults(path: Path, record: dict[str, Any], whole: bool = False) -> Iterator[str]:
    """Yield the same for the files that are saved of an unfinished task. They are no damage to the run."""
    if (inside := record["unfinished"]) is not None:
        yield from faults(path, {**inside, "writing": record["writing"]}, whole)


def export_faults(path: Path, record: dict[str, Any]) -> Iterator[str]:
    """Yield the same for the record's copies for other programs, which nothing here reads."""
    named = record.get("exports", {})
    for name in (name for name in EXPORTS if name in named):  # no other name of a record is a path
        if why := file_fault(below(path, name), {"files": named}, name):
            yield f"{path / name}: {why}"


def previous_record(path: Path) -> dict[str, Any] | None:
    """Return the record of the state before the last task, if it and all its files are whole."""
    try:
        record = read_record_file(path, PREVIOUS)
        return None if next(faults(path, record), None) else record
    except StateError:
        return None


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a run folder after verifying it and every file that it names.

    Raises:
        StateError: the folder is not a run's, or the record or a file is damaged; the message names the file, and says
            whether the run can go on from the state before.
    """
    try:
        record = read_record_file(path)
    except StateError as error:
        raise StateError(f"{error}{_earlier(path)}") from None
    found = list(faults(path, record))
    if found:
        more = f", and {len(found) - 1} more of its files" if len(found) > 1 else ""
        raise StateError(f"{found[0]}{more}; {REMEDY}{_earlier(path)}")
    return record


def _earlier(path: Path) -> str:
    found = previous_record(path) if (path / RECORD).is_file() else None
    return f". The run's own command goes on {after(found)}, which is whole" if found else ""


def after(record: dict[str, Any]) -> str:
    """Say which state a record is of."""
    return f"from the state after task {record['done']} of {len(record['order'])}"
