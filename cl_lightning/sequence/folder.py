"""The run folder: atomic writes, checksums, schema version. Depends on files only, not on models.

sequence.json is the commit record and makes a folder a run's. It is written first, before any task, and then after each
task, naming every file of the finished tasks with its checksum; other files do not count. A crash between any two
writes leaves the previous record valid; files written since are listed under "writing" and removed at the next start.
The record before the last task is kept, for a run whose last files are damaged. What is saved inside a task is an
entry of the record of the last finished one, with files of its own; if one of them is damaged, the task begins again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cl_lightning.common.errors import ConfigError, StateError, first_three
from cl_lightning.common.files import from_jsonl, replace_file, report_disk_errors
from cl_lightning.common.paths import below, name_fault, part_fault
from cl_lightning.common.terminal import say
from cl_lightning.sequence.record_check import PREDICTION
from cl_lightning.sequence.record_file import SCHEMA, read_record_file, sealed
from cl_lightning.sequence.run_files import EXPORTS, KEPT, LOCK, PREVIOUS, RECORD, REPORT, SCRATCH, delete, split_files
from cl_lightning.sequence.verify import (
    LARGE,
    REMEDY,
    after,
    digest_fault,
    file_fault,
    previous_record,
    read_record,
    unfinished_faults,
)

#: The resolved configuration, in a run folder.
CONFIG = "config.yaml"
#: Permissions of files that give training texts away.
PRIVATE = 0o600
#: Stands for the untrained model in place of a finished task's name.
ZERO_SHOT = "zero-shot"


def prediction_file(after: str, task: str) -> str:
    """Return the name of the file with the predictions for `task` after training `after` (or ZERO_SHOT)."""
    return f"predictions/{after}_{task}.jsonl"


def check_names(trained: Sequence[str], scored: Sequence[str]) -> None:
    """Raise ConfigError for task names that are not valid file names or would share a prediction file."""
    seen: dict[str, tuple[str, str]] = {}
    for name in (*trained, *scored):
        if why := part_fault(name):
            raise ConfigError(f"data.order: the task name {name!r} {why}, but names a file; rename the task")
    for pair in product((ZERO_SHOT, *trained), scored):
        if why := name_fault(prediction_file(*pair)):
            raise ConfigError(f"data.order: {pair[1]} after {pair[0]}: the name of its file {why}; rename a task")
        twin = seen.setdefault(prediction_file(*pair), pair)
        if twin != pair:
            raise ConfigError(
                f"data.order: {twin[1]} after {twin[0]} and {pair[1]} after {pair[0]} would share a file; rename a task"
            )
    if ZERO_SHOT in trained:
        raise ConfigError(f"data.order: the name {ZERO_SHOT} is reserved for the untrained model; rename the task")


class RunFolder:
    """The folder of one run. `record`: the contents of sequence.json, {} before `open`; `files`: name -> SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        #: Sizes in bytes of the files of LARGE bytes or more.
        self.large: dict[str, int] = {}
        self._lock: FileLock | None = None
        #: The record on disk; `record` is shared with the run, which changes its lists.
        self._committed: dict[str, Any] = {}
        self._discarded: list[str] = []

    def check(self, fresh: bool) -> None:
        """Check that the folder may be written to, before anything in it is changed.

        Raises:
            StateError: it holds files but no record of a run; or with `fresh`, its record is damaged or does not
                account for all files.
        """
        if not self.path.is_dir():
            return
        if not _is_run(self.path):
            if strangers := sorted(set(os.listdir(self.path)) - {LOCK, SCRATCH}):
                raise StateError(
                    f"{self.path}: holds files but no run ({first_three(strangers)}); nothing was touched. "
                    "Choose an empty or a new folder (RUN_DIR=), or move them away"
                )
        elif fresh:
            self._own_files()

    def open(self, identity: str, fresh: bool, begin: dict[str, Any]) -> None:
        """Create or reopen the folder; `identity` is the hash of configuration, data and base.

        `begin`: the record with no task done, written to a new folder before anything else.
        `fresh`: start over, deleting only files that the existing record accounts for.

        Raises:
            StateError: the folder is not a run's, not writable, in use, damaged, of another schema, or of another
                configuration.
        """
        with report_disk_errors(self.path, StateError):
            self.check(fresh)
            self.path.mkdir(parents=True, exist_ok=True)
            self._acquire()
            try:
                self._start(identity, fresh, begin)
            except BaseException:
                self.close()
                raise

    def reopen(self) -> None:
        """Lock a run's folder and read its record. Raises StateError: no run, damaged, or in use."""
        self.record = read_record(self.path)
        self._acquire()
        self._take_files()
        self._committed = json.loads(json.dumps(self.record))

    def rewrite(self, files: Mapping[str, bytes]) -> None:
        """Replace files of a finished task and commit them. The earlier state is forgotten, since it names the old."""
        if files:
            self._committed["writing"] = [*self._committed["writing"], *files]
            self._put(RECORD, sealed(self._committed))
            below(self.path, PREVIOUS).unlink(missing_ok=True)
            for name, data in files.items():
                self.files[name] = self._put(name, data, PRIVATE)
            own = {**self.record["files"], **{name: self.files[name] for name in files if name in self.record["files"]}}
            self._store({**self.record, "files": own}, self.record["writing"], self.record["unfinished"])

    def _acquire(self) -> None:
        lock = FileLock(below(self.path, LOCK))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StateError(f"{self.path}: another process is running this experiment") from None
        self._lock = lock

    def _start(self, identity: str, fresh: bool, begin: dict[str, Any]) -> None:
        if not _is_run(self.path):
            self.commit(begin)
        elif fresh:
            old = self._own_files()
            # Write the new record first, listing the files to delete: a half-deleted run never counts as a whole one.
            self.commit(begin, writing=old)
        else:
            record = _record_or_none(self.path)
            if record is not None and record["identity"] != identity:
                raise StateError(
                    f"{self.path}: holds a run of another configuration, data or model; "
                    "choose another RUN_DIR=, or start over with FRESH=1"
                )
            self._reopen()
            self._take_files()
        self.tidy()

    def tidy(self) -> None:
        """Delete files that the record lists as being written and the state does not hold, and list them no more."""
        if left := [name for name in self.record["writing"] if name not in self.files]:
            for name in left:
                if folder := name.rpartition("/")[0]:
                    below(self.path, folder)
            delete(self.path, left)
            still = [name for name in self.record["writing"] if name in self.files]
            self._store(self.record, still, self.record["unfinished"])

    def _reopen(self) -> None:
        """Read the record; where it or a file is damaged, return to the state before the last task if it is whole."""
        try:
            self.record = read_record(self.path)
        except StateError as error:
            found = previous_record(self.path)
            if found is None:
                raise
            say(f"{str(error).partition(';')[0]}; going on {after(found)}", error=True)
            self.record = found
        inside = self.record["unfinished"]
        if inside is not None and (why := next(unfinished_faults(self.path, self.record), None)):
            say(f"{why}; the task that was not finished begins again", error=True)
            writing = [*self.record["writing"], *inside["files"]]
            self.record = {**self.record, "unfinished": None, "writing": writing}
        self._committed = json.loads(json.dumps(self.record))

    def _take_files(self) -> None:
        self.files, self.large = dict(self.state["files"]), dict(self.state["large"])

    @property
    def state(self) -> dict[str, Any]:
        """The record with the files that are saved of an unfinished task among its own."""
        inside = self.record["unfinished"]
        if inside is None:
            return self.record
        return {**self.record, **{key: {**self.record[key], **inside[key]} for key in ("files", "large")}}

    def _own_files(self) -> list[str]:
        """List the run's files in the folder. Raises StateError if it holds other files."""
        try:
            record = read_record_file(self.path)
        except StateError as error:
            raise StateError(f"{error}. FRESH=1 deletes nothing here, since the run's files are not known") from None
        ours, others = split_files(self.path, record, _record_or_none)
        if others:
            raise StateError(
                f"{self.path}: holds files that are not the run's ({first_three(others)}); nothing was deleted. "
                "Move them away, then start over"
            )
        return [name for name in ours if name not in KEPT]

    def attach(self) -> None:
        """Read the record without locking the folder, on ranks other than 0."""
        self.record = read_record(self.path) if _is_run(self.path) else {}

    def close(self) -> None:
        """Release the lock on the folder."""
        if self._lock is not None:
            self._lock.release()

    def write(self, name: str, data: bytes, private: bool = False) -> None:
        """Write one file, which becomes part of the state at the next `commit`. `private`: for its owner only.

        Raises:
            StateError: the name leaves the folder or is reserved, or a file that is not the run's exists there.
            TrainingError: the disk is full or cannot be written.
        """
        self.announce([name])
        self.files[name] = self._put(name, data, PRIVATE if private else None)
        self._note_size(name, len(data))

    def prepare(self, name: str) -> None:
        """Announce a file that something else writes to `path / name`, before `take`. Raises: see `write`."""
        self.announce([name])
        path = below(self.path, name)
        with report_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)

    def take(self, name: str) -> None:
        """Let a file that was written after `prepare` become part of the state, like those of `write`."""
        path = below(self.path, name)
        with report_disk_errors(path), path.open("rb") as file:
            os.fsync(file.fileno())
            self.files[name] = hashlib.file_digest(file, "sha256").hexdigest()
        self._note_size(name, path.stat().st_size)

    def discard(self, names: Iterable[str]) -> None:
        """Let the next commit leave out these files and delete them."""
        for name in names:
            self.files.pop(name)
            self.large.pop(name, None)
            self._discarded.append(name)

    def _note_size(self, name: str, size: int) -> None:
        self.large.pop(name, None)
        if size >= LARGE:
            self.large[name] = size

    def announce(self, names: Iterable[str]) -> None:
        """List files in the record before they are written, as `write` does for each. Raises: see `write`."""
        begun = self._committed.get("writing", [])
        new = [name for name in names if name not in begun]
        for name in new:
            if name in (*KEPT, PREVIOUS, *EXPORTS, *REPORT):
                raise StateError(f"{self.path}: the name {name!r} is reserved; choose another")
            path = below(self.path, name)
            if name not in self.files and path.exists():
                raise StateError(f"{path}: exists, but is not a file of the run; move it away, then run again")
        if self._committed and new:
            self._committed["writing"] = [*begun, *new]
            self._put(RECORD, sealed(self._committed))

    def export(self, files: Mapping[str, bytes]) -> None:
        """Write EXPORTS, which are not part of the state: the record has their digests, and nothing here reads them."""
        if (made := {name: self._put(name, data) for name, data in files.items()}) != self.record.get("exports"):
            self.amend(exports=made)

    def commit(self, record: dict[str, Any], writing: Sequence[str] = ()) -> None:
        """Make all files written so far the state of the run after its last finished task."""
        if "view" not in record and 0 < self._committed.get("done", 0) < record["done"]:
            before = {**self._committed, "unfinished": None}
            since = [name for name in self.files if name not in before["files"]]
            before["writing"] = list(dict.fromkeys([*before["writing"], *since]))
            self._put(PREVIOUS, sealed(before))
        self._store(record, writing, None)

    def amend(self, **entries: Any) -> None:
        """Change entries of the record that say nothing of its files; what is saved inside a task stays."""
        self._store({**self.record, **entries}, self.record["writing"], self.record["unfinished"])

    def save_inside(self, unfinished: dict[str, Any]) -> None:
        """Make all files written since the last commit the state inside a task, beside that after the last one."""
        announced = [name for name in self._committed["writing"] if name not in self.files]
        self._store(self._committed, announced, unfinished)

    def _store(self, record: dict[str, Any], writing: Sequence[str], unfinished: dict[str, Any] | None) -> None:
        """Write a record. With `unfinished`, its files stay as they are, and what was written since goes there."""
        named = {"files": dict(self.files), "large": dict(self.large)}
        if unfinished is not None:
            since = {name for name, digest in self.files.items() if record["files"].get(name) != digest}
            unfinished = {**unfinished, **{key: {n: of for n, of in named[key].items() if n in since} for key in named}}
            named = {key: record[key] for key in named}
            writing = [*writing, *sorted(since & record["files"].keys())]
        writing = list(dict.fromkeys([*writing, *self._discarded]))
        self.record = {"schema": SCHEMA, **record, **named, "unfinished": unfinished, "writing": writing}
        self._put(RECORD, sealed(self.record))
        self._committed = json.loads(json.dumps(self.record))
        delete(self.path, self._discarded)
        self._discarded = []

    def read(self, name: str) -> bytes:
        """Read a committed file and check it."""
        return read_checked(self.path, self.state, name)

    def _put(self, name: str, data: bytes, mode: int | None = None) -> str:
        """Replace a file atomically. Returns the SHA-256 of `data`. `mode`: see `replace_file`."""
        path = below(self.path, name)
        with report_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data, self.path / SCRATCH, mode)
        return hashlib.sha256(data).hexdigest()


def _is_run(path: Path) -> bool:
    """Return whether a folder has a record, valid or not."""
    return os.path.lexists(path / RECORD)


def records_below(path: Path) -> list[str]:
    """List the views of a run that have a valid record, as names below its folder."""
    names = ["evaluated", *(f"rescored/{found.name}" for found in sorted((path / "rescored").glob("*")))]
    return [name for name in names if "view" in (_record_or_none(path / name) or {})]


def _record_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return read_record_file(path)
    except StateError:
        return None


def columns(record: dict[str, Any]) -> list[str]:
    """Return the tasks that a run scores: those it trains, except with protocol=joint."""
    return record["columns"]


def metric_label(metrics: dict[str, Any], task: str) -> str:
    """Return a task's metric for tables, with "by likelihood" if labels are chosen rather than generated."""
    return metrics["metric_of_task"][task] + (" by likelihood" if task in metrics["by_likelihood"] else "")


def read_checked(path: Path, record: dict[str, Any], name: str, remedy: str = REMEDY) -> bytes:
    """Read a file named in the record and check its checksum. `remedy`: the advice if it cannot be read.

    Raises:
        StateError: the file is missing, damaged, or a link.
    """
    file = below(path, name)
    if name not in record["files"]:
        raise StateError(f"{file}: not part of what {path} holds by its record")
    if not file.is_file():
        raise StateError(f"{file}: {file_fault(file, record, name)}; {remedy}")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StateError(f"{file}: cannot be read ({error.strerror})") from None
    if why := digest_fault(data, record, name):
        raise StateError(f"{file}: {why}; {remedy}")
    return data


def read_predictions(path: Path, record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Read a prediction file. Raises StateError like `read_checked`, and if it holds no scored predictions."""
    try:
        rows = from_jsonl(read_checked(path, record, name))
    except (ValueError, RecursionError):
        rows = []
    if not rows or not all(map(PREDICTION, rows)):
        raise StateError(f"{path / name}: damaged (holds no predictions with their scores); restore it")
    return rows


def state_file(slot: str, done: int, kind: str = "json") -> str:
    """Return the name of the state file of the callback in `slot` after `done` tasks."""
    return f"state/{slot}-{done}.{kind}"


#: The LoRA that lies under all tasks, where a run has one (`model.adapter.start_from`).
START = "start/adapter.safetensors"


def adapter_file(task_name: str) -> str:
    """Return the name of the file with a task's branch."""
    return f"adapters/{task_name}/adapter.safetensors"
