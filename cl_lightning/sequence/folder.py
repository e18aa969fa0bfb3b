"""The run folder: atomic writes, checksums, schema version. Ground floor: knows files, not models.

sequence.json is the commit record, and a folder is a run's by it alone: it is written first, with nothing done, and
then after each task, when it names every file of the finished tasks with its checksum. What it does not name there
does not exist. A crash between any two writes leaves the previous record in force; files begun since stand under
"writing", and the next start removes them.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cl_lightning.common.errors import ConfigError, StateError
from cl_lightning.common.files import disk_errors_told, from_jsonl, replace_file, to_json
from cl_lightning.common.paths import below, name_fault, part_fault
from cl_lightning.sequence.record_check import PREDICTION, record_fault
from cl_lightning.sequence.run_files import EXPORTS, KEPT, LOCK, RECORD, SCRATCH, delete, sort_out, told

SCHEMA = 2
#: The resolved configuration, in a run folder.
CONFIG = "config.yaml"
#: What to do where a file of a run folder is missing or damaged.
REMEDY = "restore it, or start over with FRESH=1"
#: Stands for the untrained model where a finished task's name would stand.
ZERO_SHOT = "zero-shot"


def prediction_file(after: str, task: str) -> str:
    """Where a run folder holds the predictions for `task` after training `after` (ZERO_SHOT: before all)."""
    return f"predictions/{after}_{task}.jsonl"


def check_names(trained: Sequence[str], scored: Sequence[str]) -> None:
    """Refuse task names that no file can have, and those that would share a prediction file. Raises ConfigError."""
    seen: dict[str, tuple[str, str]] = {}
    for name in (*trained, *scored):
        if why := part_fault(name):
            raise ConfigError(f"data.order: the task name {name!r} {why}, and files are named by it; rename the task")
    for pair in product((ZERO_SHOT, *trained), scored):
        if why := name_fault(prediction_file(*pair)):
            raise ConfigError(f"data.order: {pair[1]} after {pair[0]}: the name of its file {why}; rename a task")
        twin = seen.setdefault(prediction_file(*pair), pair)
        if twin != pair:
            raise ConfigError(
                f"data.order: {twin[1]} after {twin[0]} and {pair[1]} after {pair[0]} would share a file; rename a task"
            )
    if ZERO_SHOT in trained:
        raise ConfigError(f"data.order: a task named {ZERO_SHOT} cannot be told from the untrained model; rename it")


class RunFolder:
    """One run's folder. `record`: what sequence.json says, {} before `open`; `files`: name -> SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self._lock: FileLock | None = None
        #: What is on disk; `record` is handed out, and runs go on with its lists.
        self._committed: dict[str, Any] = {}

    def check(self, fresh: bool) -> None:
        """Refuse a folder that is not ours to write to, before anything in it is touched.

        Raises:
            StateError: it holds files and no record of a run; or it is to be started over (`fresh`) and its record is
                damaged, or does not account for all that it holds.
        """
        if not self.path.is_dir():
            return
        if not _is_run(self.path):
            if strangers := sorted(set(os.listdir(self.path)) - {LOCK, SCRATCH}):
                raise StateError(
                    f"{self.path}: holds files but no run ({told(strangers)}); nothing was touched. "
                    "Choose an empty or a new folder (RUN_DIR=), or move them away"
                )
        elif fresh:
            self._own_files()

    def open(self, identity: str, fresh: bool, begin: dict[str, Any]) -> None:
        """Create or reopen the folder; `identity` is the hash of configuration, data and base.

        `begin`: the record of the run with nothing done, which makes a new folder a run's before all else is written.
        `fresh`: start over; only files that the record there accounts for are deleted.

        Raises:
            StateError: somebody else's, unwritable, in use, damaged, of another schema, or of another configuration.
        """
        with disk_errors_told(self.path, StateError):
            self.check(fresh)
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(below(self.path, LOCK))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise StateError(f"{self.path}: another process is running this experiment") from None
            self._lock = lock
            try:
                self._start(identity, fresh, begin)
            except BaseException:
                self.close()
                raise

    def _start(self, identity: str, fresh: bool, begin: dict[str, Any]) -> None:
        if not _is_run(self.path):
            self.commit(begin)
        elif fresh:
            old = self._own_files()
            # The new record first, naming what is to go: a run that is half deleted is never taken for a whole one.
            self.commit(begin, writing=old)
        else:
            self.record, self._committed = read_record(self.path), read_record(self.path)
            if self.record["identity"] != identity:
                raise StateError(
                    f"{self.path}: holds a run of another configuration, data or model; "
                    "choose another RUN_DIR=, or start over with FRESH=1"
                )
            self.files = dict(self.record["files"])
        if left := [name for name in self.record["writing"] if name not in self.files]:
            for name in left:
                if folder := name.rpartition("/")[0]:
                    below(self.path, folder)
            delete(self.path, left)
            self.commit(self.record)

    def _own_files(self) -> list[str]:
        """The files of the run that the folder holds. Raises StateError where it holds others."""
        try:
            record = read_record(self.path)
        except StateError as error:
            raise StateError(f"{error}. FRESH=1 deletes nothing here: which files are the run's is not known") from None
        ours, others = sort_out(self.path, record, _record_or_none)
        if others:
            raise StateError(
                f"{self.path}: holds files that are not the run's ({told(others)}); nothing was deleted. "
                "Move them away, then start over"
            )
        return [name for name in ours if name not in KEPT]

    def attach(self) -> None:
        """Read the state without owning the folder: what ranks other than 0 do."""
        self.record = read_record(self.path) if _is_run(self.path) else {}

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.release()

    def write(self, name: str, data: bytes) -> None:
        """Write one file; it counts once `commit` has named it.

        Raises:
            StateError: the name leaves the folder, is one that the folder keeps for itself, or is somebody else's file.
            TrainingError: the disk is full or cannot be written.
        """
        if name in (*KEPT, *EXPORTS):
            raise StateError(f"{self.path}: the name {name!r} is the run folder's own; choose another")
        path = below(self.path, name)
        begun = self._committed.get("writing", [])
        if name not in self.files and name not in begun and path.exists():
            raise StateError(f"{path}: is not the run's, and would be overwritten; move it away, then run again")
        if self._committed and name not in self.files and name not in begun:
            # Told before it is there, so that whatever happens the record accounts for it.
            self._committed["writing"] = [*begun, name]
            self._put(RECORD, to_json(self._committed))
        self.files[name] = self._put(name, data)

    def export(self, name: str, data: bytes) -> None:
        """Write one of EXPORTS, which are no part of the state."""
        self._put(name, data)

    def commit(self, record: dict[str, Any], writing: Sequence[str] = ()) -> None:
        """Make everything written so far the state of the run."""
        self.record = {"schema": SCHEMA, **record, "files": dict(self.files), "writing": list(writing)}
        data = to_json(self.record)
        self._put(RECORD, data)
        self._committed = json.loads(data)

    def read(self, name: str) -> bytes:
        """Read a committed file, checked."""
        return read_checked(self.path, self.record, name)

    def _put(self, name: str, data: bytes) -> str:
        """Replace a file whole or not at all. Returns the SHA-256 of `data`."""
        path = below(self.path, name)
        with disk_errors_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data, self.path / SCRATCH)
        return hashlib.sha256(data).hexdigest()


def _is_run(path: Path) -> bool:
    """Whether a folder has a record, whatever it says."""
    return os.path.lexists(path / RECORD)


def _record_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return read_record(path)
    except StateError:
        return None


def read_record(path: Path) -> dict[str, Any]:
    """sequence.json of a run folder.

    Raises:
        StateError: missing, damaged, of another schema version, or naming what cannot be a run's file or task.
    """
    file = below(path, RECORD)
    damaged = "restore it, or move the folder away and run again"
    try:
        record = json.loads(file.read_bytes())
        schema = record["schema"]
    except (FileNotFoundError, NotADirectoryError):
        raise StateError(f"{path}: is no run folder (no {RECORD})") from None
    except OSError as error:
        raise StateError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StateError(f"{file}: damaged; {damaged}") from None
    if schema != SCHEMA:
        raise StateError(f"{file}: state version {schema}, this code reads version {SCHEMA}")
    if why := record_fault(record):
        raise StateError(f"{file}: damaged ({why}); {damaged}")
    return record


def columns(record: dict[str, Any]) -> list[str]:
    """The tasks that a run scores; those it trains but under protocol=joint."""
    return record["columns"]


def metric_told(metrics: dict[str, Any], task: str) -> str:
    """A task's metric, and whether labels were chosen by likelihood instead of generated."""
    return metrics["metric_of_task"][task] + (" by likelihood" if task in metrics["by_likelihood"] else "")


def read_checked(path: Path, record: dict[str, Any], name: str, remedy: str = REMEDY) -> bytes:
    """A file that the record names, compared with its checksum. `remedy`: what to do where it cannot be read.

    Raises:
        StateError: missing, damaged, a link.
    """
    file = below(path, name)
    if name not in record["files"]:
        raise StateError(f"{file}: not part of what {path} holds by its record")
    if not file.is_file():
        raise StateError(f"{file}: missing; {remedy}")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StateError(f"{file}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != record["files"][name]:
        raise StateError(f"{file}: damaged (its checksum is not the recorded one); {remedy}")
    return data


def read_rows(path: Path, record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A prediction file that the record names. Raises StateError as `read_checked`, and where it holds no such rows."""
    try:
        rows = from_jsonl(read_checked(path, record, name))
    except (ValueError, RecursionError):
        rows = []
    if not rows or not all(map(PREDICTION, rows)):
        raise StateError(f"{path / name}: damaged (holds no predictions with their scores); restore it")
    return rows


def state_file(slot: str, done: int, kind: str = "json") -> str:
    """Where the callback in a slot keeps its state after so many tasks."""
    return f"state/{slot}-{done}.{kind}"


#: The LoRA that lies under all tasks, where a run has one (`model.adapter.start_from`).
START = "start/adapter.safetensors"


def adapter_file(task_name: str) -> str:
    """Where a task's branch lies in the run folder."""
    return f"adapters/{task_name}/adapter.safetensors"
