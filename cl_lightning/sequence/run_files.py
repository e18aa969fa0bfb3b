"""Which files of a run folder are the run's own: those that its record names, and where programs of ours write.

What is left is somebody else's, and nothing of ours deletes it. No torch here.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cl_lightning.common.paths import name_fault

RECORD = "sequence.json"
LOCK = ".cl_lightning.lock"
#: What is being written; the next write of any file takes its place.
SCRATCH = ".cl_lightning.scratch"
#: What the record says, for other programs; made anew after each task.
EXPORTS = ("matrix.csv", "curves.csv", "metrics.json")
KEPT = (RECORD, LOCK, SCRATCH)
#: Holds models that were exported for other programs: the user's, so never deleted, and never in the way.
EXPORTED = "export"
#: Folders that hold a view of the run, with a record of its own.
VIEW = re.compile(r"evaluated|rescored/[^/]+")
#: What the CSV logger writes in attempt n.
CSV_LOG = re.compile(r"logs/attempt_(\d{1,9})/(metrics\.csv|hparams\.yaml)")
#: wandb's links to its latest run.
WANDB_LINK = re.compile(r"wandb/(latest-run|debug\.log|debug-internal\.log)")

#: Reads a folder's record, None where there is none to go by.
ReadRecord = Callable[[Path], dict[str, Any] | None]


def sort_out(path: Path, record: dict[str, Any], read: ReadRecord) -> tuple[list[str], list[str]]:
    """(the run's own files, others) in a run folder, as names below it. Links are never followed.

    What lies in EXPORTED is neither. A link is the run's own only where wandb makes one; so is everything in wandb's
    folder of this run, by its name.
    """
    named = {*KEPT, *EXPORTS, *record["files"], *record["writing"]}
    wandb = re.compile(rf"wandb/(offline-)?run-\d{{8}}_\d{{6}}-{re.escape(record['identity'])}/.+")
    ours: list[str] = []
    others: list[str] = []
    views: dict[str, dict[str, Any]] = {}
    for name, link in _files(path, lambda folder: folder == EXPORTED or _view(path, folder, read, views)):
        log = CSV_LOG.fullmatch(name)
        logged = log is not None and int(log[1]) <= record["attempts"]
        mine = wandb.fullmatch(name) or (WANDB_LINK.fullmatch(name) if link else name in named or logged)
        (ours if mine and name_fault(name) is None else others).append(name)
    for folder, its_record in views.items():
        own, other = sort_out(path / folder, its_record, read)
        ours += [f"{folder}/{name}" for name in own]
        others += [f"{folder}/{name}" for name in other]
    return ours, others


def _view(path: Path, folder: str, read: ReadRecord, views: dict[str, dict[str, Any]]) -> bool:
    """Whether `folder` is a view, which is then put into `views`."""
    record = read(path / folder) if VIEW.fullmatch(folder) else None
    if record is None or "view" not in record:
        return False
    views[folder] = record
    return True


def _files(path: Path, skip: Callable[[str], bool], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(name below the folder, whether it is a link) of all that is no folder, but in folders that `skip` takes."""
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            name = f"{prefix}{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                yield name, entry.is_symlink()
            elif not skip(name):
                yield from _files(Path(entry.path), skip, f"{name}/")


def delete(path: Path, names: Iterable[str]) -> None:
    """Delete these files below `path`, and the folders that are empty then; what is not there is no fault.

    The names must come from `sort_out`, or be checked.
    """
    folders = set()
    for name in names:
        (path / name).unlink(missing_ok=True)
        folders |= {Path(name), *Path(name).parents} - {Path(name), Path()}
    for folder in sorted(folders, key=lambda f: len(f.parts), reverse=True):
        if (path / folder).is_dir() and not os.listdir(path / folder):
            (path / folder).rmdir()


def told(names: list[str]) -> str:
    """Up to three of them, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
