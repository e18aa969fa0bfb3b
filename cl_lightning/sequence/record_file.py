"""The record on disk: sequence.json, which holds a checksum of itself. No torch here.

A record is written in one form only, so a file that differs from it in any byte is noticed, not only where JSON or the
types of its values break.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import StateError
from cl_lightning.common.files import to_json
from cl_lightning.common.paths import below
from cl_lightning.sequence.record_check import record_fault
from cl_lightning.sequence.run_files import PREVIOUS, RECORD

SCHEMA = 4
CHECKSUM = "checksum"
RESTORE = "restore it, or move the folder away and run again"


def sealed(record: dict[str, Any]) -> bytes:
    """Serialise a record with the SHA-256 of the rest as its last entry, instead of one that it may have."""
    record = {key: value for key, value in record.items() if key != CHECKSUM}
    body = to_json(record)
    # As if the entry were added and all written again, which takes twice the time.
    return body.removesuffix(b"\n}\n") + f',\n "{CHECKSUM}": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def read_record_file(path: Path, name: str = RECORD) -> dict[str, Any]:
    """Read and check the record of a run folder by itself, without the files that it names.

    Raises:
        StateError: it is missing, damaged, of another schema version, or contains invalid file or task names.
    """
    file = below(path, name)
    if file.exists() and not file.is_file():
        raise StateError(f"{file}: is not a file; {RESTORE}")
    try:
        data = file.read_bytes()
        record = json.loads(data)
        schema = record["schema"]
    except (FileNotFoundError, NotADirectoryError):
        hint = f"; {PREVIOUS} holds an earlier state: copy it to {RECORD} to return to it" if _kept(path) else ""
        raise StateError(f"{path}: is not a run folder (no {RECORD}){hint}") from None
    except OSError as error:
        raise StateError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StateError(f"{file}: damaged; {RESTORE}") from None
    if schema != SCHEMA:
        raise StateError(f"{file}: has schema {schema}, this version of the code reads schema {SCHEMA}")
    record.pop(CHECKSUM, None)
    if why := record_fault(record) or _seal_fault(record, data):
        raise StateError(f"{file}: damaged ({why}); {RESTORE}")
    return record


def _seal_fault(record: dict[str, Any], data: bytes) -> str | None:
    try:
        same = sealed(record) == data
    except ValueError:  # half a surrogate pair, NaN
        same = False
    return None if same else "its checksum is not that of its content"


def _kept(path: Path) -> bool:
    return (path / PREVIOUS).is_file()
