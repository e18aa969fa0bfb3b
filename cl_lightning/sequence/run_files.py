"""Tell the files of a run from others in its folder: those named in its record, exports and logs. No torch here.

All other files belong to somebody else and are never deleted.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cl_lightning.common.paths import name_fault

RECORD = "sequence.json"
#: The record as it was before the last task.
PREVIOUS = "previous.json"
LOCK = ".cl_lightning.lock"
#: Temporary file, replaced by the next write of any file.
SCRATCH = ".cl_lightning.scratch"
#: Contents of the record for other programs, rewritten after each task.
EXPORTS = ("matrix.csv", "curves.csv", "metrics.json")
KEPT = (RECORD, LOCK, SCRATCH)
#: Report files, made from the record at any time and never part of it. They begin with MARK.
PAGE = "report.html"
FIGURES = (
    "matrix", "plane", "curves", "summaries", "predictions", "losses", "surgery_cosine", "surgery_fired",
    "surgery_overlap", "surgery_energy", "gates", "gates_largest", "subspaces", "subspaces_gates", "replay",
    "parameters", "times", "probes_loss", "probes_exact",
)  # fmt: skip
REPORT = {PAGE, *(f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png"))}
MARK = "cl-lightning report"
#: Temporary file of the report, before it is renamed.
REPORT_SCRATCH = re.compile(r"\.cl_lightning-[0-9a-f]{16}")
#: Folder of models exported for other programs: the user's, so never deleted and never in the way.
EXPORTED = "export"
#: Folders of further scores of the run, each with a record that has the key "view".
VIEW = re.compile(r"evaluated|rescored/[^/]+")
#: Beginning of the name of a profiler's report, after the stage of Lightning's Trainer.
PROFILE = "profile"
#: Files of the CSV logger, and of Lightning's profilers, in attempt n.
CSV_LOG = re.compile(r"logs/attempt_(\d{1,9})/(metrics\.csv|hparams\.yaml)")
PROFILE_LOG = re.compile(rf"logs/attempt_(\d{{1,9}})/(fit|validate)-{PROFILE}-[^/]+")
#: wandb's links to its latest run.
WANDB_LINK = re.compile(r"wandb/(latest-run|debug\.log|debug-internal\.log)")

#: Reads a folder's record; None if it has no valid one.
ReadRecord = Callable[[Path], dict[str, Any] | None]


def split_files(path: Path, record: dict[str, Any], read: ReadRecord) -> tuple[list[str], list[str]]:
    """List the run's own files and the other files of a run folder, as names below it. Links are never followed.

    Files in EXPORTED are in neither list. Everything in wandb's folder of this run is its own. The only links that are
    its own are those made by wandb.
    """
    inside, attempts = record["unfinished"] or {"files": {}}, attempts_of(record)
    named = {*KEPT, PREVIOUS, *EXPORTS, *record["files"], *record["writing"], *inside["files"]}
    wandb = re.compile(rf"wandb/(offline-)?run-\d{{8}}_\d{{6}}-{re.escape(record['identity'])}/.+")
    ours: list[str] = []
    others: list[str] = []
    views: dict[str, dict[str, Any]] = {}
    for name, link in _files(path, lambda folder: folder == EXPORTED or _view(path, folder, read, views)):
        log = CSV_LOG.fullmatch(name) or PROFILE_LOG.fullmatch(name)
        logged = log is not None and int(log[1]) <= attempts
        shown = not link and (REPORT_SCRATCH.fullmatch(name) or (name in REPORT and is_report(path / name)))
        mine = wandb.fullmatch(name) or (WANDB_LINK.fullmatch(name) if link else name in named or logged or shown)
        (ours if mine and name_fault(name) is None else others).append(name)
    for folder, its_record in views.items():
        own, other = split_files(path / folder, its_record, read)
        ours += [f"{folder}/{name}" for name in own]
        others += [f"{folder}/{name}" for name in other]
    return ours, others


def attempts_of(record: dict[str, Any]) -> int:
    """Return the number of processes that have worked on a run, as far as they saved something."""
    return max(record["attempts"], (record["unfinished"] or record)["attempts"])


def is_report(path: Path) -> bool:
    """Whether a file is one that a report has made, and so may replace: its beginning says it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(2048)


def _view(path: Path, folder: str, read: ReadRecord, views: dict[str, dict[str, Any]]) -> bool:
    """Return whether `folder` is a view, adding its record to `views`."""
    record = read(path / folder) if VIEW.fullmatch(folder) else None
    if record is None or "view" not in record:
        return False
    views[folder] = record
    return True


def _files(path: Path, skip: Callable[[str], bool], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield (name below the folder, whether it is a link) of all files, except in folders for which `skip` is true."""
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            name = f"{prefix}{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                yield name, entry.is_symlink()
            elif not skip(name):
                yield from _files(Path(entry.path), skip, f"{name}/")


def delete(path: Path, names: Iterable[str]) -> None:
    """Delete these files below `path`, if they exist, and the folders that this leaves empty.

    The names must come from `split_files`, or be checked by the caller.
    """
    folders = set()
    for name in names:
        (path / name).unlink(missing_ok=True)
        folders |= {Path(name), *Path(name).parents} - {Path(name), Path()}
    for folder in sorted(folders, key=lambda f: len(f.parts), reverse=True):
        if (path / folder).is_dir() and not os.listdir(path / folder):
            (path / folder).rmdir()
