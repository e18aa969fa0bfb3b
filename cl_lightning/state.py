"""The run folder: atomic writes, checksums, schema version. Ground floor: knows files, not models.

sequence.json is the commit record: it is written last, names every file of the finished tasks with its
checksum, and what it does not name does not exist. A crash between any two writes leaves the previous
record in force.
"""

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cl_lightning.errors import ConfigError, StateError, TrainingError, UserError

SCHEMA = 1
RECORD = "sequence.json"
LOCK = ".lock"
#: Stands for the untrained model where a finished task's name would stand.
ZERO_SHOT = "zero-shot"
#: Without these a record is damaged.
KEYS = ("identity", "order", "done", "R", "zero_shot", "clock", "attempts", "metrics", "files")

#: The disk's fault, not ours: told in one line. FULL wherever it happens, PLACE if it is about the path in question.
FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO}
PLACE = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG}


def _about(error: OSError, path: Path) -> bool:
    """Whether an error names `path`, what lies in it or what it lies in."""
    if not isinstance(error.filename, str):
        return False
    named, path = Path(error.filename).absolute(), path.absolute()
    return named.is_relative_to(path) or path.is_relative_to(named) or named.parent == path.parent


@contextmanager
def disk_errors_told(path: Path, kind: type[UserError] = TrainingError) -> Iterator[None]:
    """Turn a full or unwritable disk into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL and not (error.errno in PLACE and _about(error, path)):
            raise
        raise kind(
            f"{path}: cannot be written ({os.strerror(error.errno)}); what was saved before is intact. "
            "Make room or choose another folder with RUN_DIR=, then run the same command again"
        ) from error


def write_atomic(path: Path, data: bytes) -> str:
    """Write to a temporary file beside `path`, sync, rename. Returns the SHA-256 of `data`."""
    with disk_errors_told(path):
        _replace(path, data)
    return hashlib.sha256(data).hexdigest()


def write_output(path: Path, data: bytes) -> None:
    """Write, as `write_atomic` does, a file that a command was asked for by an option; its folder is made.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        _replace(path, data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another file") from None


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(scratch, 0o666 & ~umask)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def to_json(value: Any) -> bytes:
    """Indented JSON; NaN and infinity are refused."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def to_jsonl(rows: list[dict[str, Any]]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def from_jsonl(data: bytes) -> list[dict[str, Any]]:
    """What `to_jsonl` wrote. Lines end in a line feed alone: texts may hold Unicode's other line ends."""
    return [json.loads(line) for line in data.decode().split("\n") if line]


def prediction_file(after: str, task: str) -> str:
    """Where a run folder holds the predictions for `task` after training `after` (ZERO_SHOT: before all)."""
    return f"predictions/{after}_{task}.jsonl"


def check_names(trained: Sequence[str], scored: Sequence[str]) -> None:
    """Refuse task names that would share a prediction file. Raises ConfigError."""
    seen: dict[str, tuple[str, str]] = {}
    for pair in product((ZERO_SHOT, *trained), scored):
        twin = seen.setdefault(prediction_file(*pair), pair)
        if twin != pair:
            raise ConfigError(
                f"data.order: {twin[1]} after {twin[0]} and {pair[1]} after {pair[0]} would share a file; rename a task"
            )
    if ZERO_SHOT in trained:
        raise ConfigError(f"data.order: a task named {ZERO_SHOT} cannot be told from the untrained model; rename it")


def to_csv(columns: list[str], rows: list[list[Any]]) -> bytes:
    """CSV with empty cells for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return text.getvalue().encode()


class RunFolder:
    """One run's folder. `record`: what sequence.json says, {} for a new run; `files`: name -> SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self._lock: FileLock | None = None

    def open(self, identity: str, fresh: bool) -> None:
        """Create or reopen the folder; `identity` is the hash of configuration, data and base.

        Raises:
            StateError: unwritable, in use, damaged, of another schema, or of another configuration.
        """
        with disk_errors_told(self.path, StateError):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / LOCK)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise StateError(f"{self.path}: another process is running this experiment") from None
            if fresh and (self.path / RECORD).exists():
                self._empty()
            for scratch in self.path.rglob(".*-*"):
                if scratch.is_file():
                    scratch.unlink()
        self.record = read_record(self.path) if (self.path / RECORD).exists() else {}
        if self.record and self.record["identity"] != identity:
            raise StateError(
                f"{self.path}: holds a run of another configuration, data or model; "
                "choose another RUN_DIR=, or start over with FRESH=1"
            )
        self.files = dict(self.record.get("files", {}))

    def _empty(self) -> None:
        # The record first: what is left of a run that was being deleted is no run.
        (self.path / RECORD).unlink()
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def attach(self) -> None:
        """Read the state without owning the folder: what ranks other than 0 do."""
        self.record = read_record(self.path) if (self.path / RECORD).exists() else {}

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def write(self, name: str, data: bytes) -> None:
        """Write one file; it counts once `commit` has named it."""
        self.files[name] = write_atomic(self.path / name, data)

    def commit(self, record: dict[str, Any]) -> None:
        """Make everything written so far the state of the run."""
        self.record = {"schema": SCHEMA, **record, "files": self.files}
        write_atomic(self.path / RECORD, to_json(self.record))

    def read(self, name: str) -> bytes:
        """Read a committed file, checked."""
        return read_checked(self.path, self.record, name)


def read_record(path: Path) -> dict[str, Any]:
    """sequence.json of a run folder.

    Raises:
        StateError: missing, damaged, or of another schema version.
    """
    file = path / RECORD
    try:
        record = json.loads(file.read_bytes())
        schema = record["schema"]
        missing = [key for key in KEYS if key not in record] if schema == SCHEMA else []
    except (FileNotFoundError, NotADirectoryError):
        raise StateError(f"{path}: is no run folder (no {RECORD})") from None
    except (ValueError, KeyError, TypeError):
        raise StateError(f"{file}: damaged; restore it, or start over with FRESH=1") from None
    if schema != SCHEMA:
        raise StateError(f"{file}: state version {schema}, this code reads version {SCHEMA}")
    if missing:
        raise StateError(f"{file}: damaged (no {', '.join(missing)}); restore it, or start over with FRESH=1")
    return record


def columns(record: dict[str, Any]) -> list[str]:
    """The tasks that a run scores; those it trains but under protocol=joint."""
    return record.get("columns", record["order"])


def metric_told(metrics: dict[str, Any], task: str) -> str:
    """A task's metric, and whether labels were chosen by likelihood instead of generated."""
    return metrics["metric_of_task"][task] + (" by likelihood" if task in metrics.get("by_likelihood", ()) else "")


def read_checked(path: Path, record: dict[str, Any], name: str) -> bytes:
    """A file that the record names, compared with its checksum."""
    file = path / name
    if name not in record["files"]:
        raise StateError(f"{file}: not part of this run's state")
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise StateError(f"{file}: missing; restore it, or start over with FRESH=1") from None
    if hashlib.sha256(data).hexdigest() != record["files"][name]:
        raise StateError(
            f"{file}: damaged (its checksum is not the recorded one); restore it, or start over with FRESH=1"
        )
    return data


def adapter_file(task_name: str) -> str:
    """Where a task's branch lies in the run folder."""
    return f"adapters/{task_name}/adapter.safetensors"
