"""Runs that are ended at a chosen moment: the nth of the events at which a process may leave something half done.

They are killed by a signal, or the kernel refuses whatever they write from then on, as it does on a full disk.

Events are what the process does to files (fsync, rename, unlink, before and after), its optimiser steps, checkpoints,
boundaries, and scored cells. They are the same, in the same order, in every run of the same command.
"""

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests import launch
from tests.conftest import ROOT
from tests.runs import BASE

#: Where events happen: an object, the name of its function, and what it is for a reader.
PLACES: list[tuple[str, str, str]] = [
    ("os", "fsync", "fsync"),
    ("os", "replace", "rename"),
    ("pathlib.Path", "unlink", "unlink"),
    ("torch.optim.AdamW", "step", "optimiser step"),
    ("lightning.pytorch.Trainer", "save_checkpoint", "checkpoint"),
    ("cl_lightning.sequence.run.SequenceRun", "begin", "boundary"),
    ("cl_lightning.sequence.run.SequenceRun", "end", "end of a task"),
    ("cl_lightning.sequence.run", "score_task", "scoring"),
    ("cl_lightning.sequence.folder.RunFolder", "_store", "state"),
]
#: In place of a signal: no file grows beyond this many bytes any more, so that large ones end in the middle.
ROOMS = (0, 1000, 8000)


def _fill(room: int, shown: str) -> None:
    """Let the kernel refuse what would make a file larger than `room`. What is printed goes to the pipe `shown`."""
    for descriptor in (1, 2):
        os.dup2(os.open(shown, os.O_WRONLY), descriptor)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), name)


def _watch(happens: Callable[[str], None]) -> None:
    """Call `happens` before and after each event of this process."""

    def watched(function: Callable, what: str) -> Callable:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            happens(f"before {what}")
            result = function(*args, **kwargs)
            happens(f"after {what}")
            return result

        return call

    for owner, name, what in PLACES:
        place = _found(owner)
        setattr(place, name, watched(getattr(place, name), what))


def _run(moment: int, doom: Callable[[], None], listed: str, *arguments: Any) -> None:
    events: list[str] = []

    def happens(what: str) -> None:
        events.append(what)
        if len(events) == moment:
            doom()

    _watch(happens)
    try:
        launch._run(*arguments)
    finally:
        if not moment:
            Path(listed).write_text(json.dumps(events))
        sys.stdout.flush()


def _kill(signum: int) -> None:
    os.kill(os.getpid(), signum)


KILL = partial(_kill, signal.SIGKILL)


def _start(
    run: Path,
    options: Sequence[str],
    moment: int,
    doom: Callable[[], None] = KILL,
    base: Sequence[str] = BASE,
    entry: str = "main",
) -> tuple[int, str, list[str]]:
    with TemporaryDirectory() as folder:
        listed, out, err = (Path(folder, name) for name in ("events", "out", "err"))
        argv = [*base, f"--sequence.run_dir={run}", *options]
        paths = (str(ROOT), dict(os.environ), str(out), str(err))
        process = launch._forks.Process(target=_run, args=(moment, doom, str(listed), entry, argv, *paths))
        process.start()
        process.join(launch.TIMEOUT)
        if process.exitcode is None:
            process.kill()
        events = json.loads(listed.read_text()) if listed.exists() else []
        return process.exitcode, out.read_text() + err.read_text(), events


def events_of(run: Path, *options: str, base: Sequence[str] = BASE) -> list[str]:
    """Run into the folder `run` to the end, and return what happened. `base`: the experiment, before the options."""
    code, shown, events = _start(run, options, 0, base=base)
    assert code == 0, shown
    return events


def killed_at(run: Path, moment: int, *options: str, base: Sequence[str] = BASE) -> None:
    """Run into the folder `run`, and kill the process at an event: the first is 1."""
    code, shown, _ = _start(run, options, moment, base=base)
    assert code == -signal.SIGKILL, shown


def terminated_at(run: Path, moment: int, *options: str) -> str:
    """Run into the folder `run`, send SIGTERM at an event, and return what the process printed."""
    code, shown, _ = _start(run, options, moment, partial(_kill, signal.SIGTERM), entry="command")
    assert code == 128 + signal.SIGTERM, (code, shown)
    return shown


def filled_at(run: Path, moment: int, room: int, *options: str) -> tuple[int, str]:
    """Run into the folder `run`, fill the disk at an event, and return the exit code and what was printed from then on.

    `room`: the size that no file exceeds from then on.
    """
    with TemporaryDirectory() as folder:
        pipe = Path(folder, "pipe")
        os.mkfifo(pipe)
        # Opened to read first, or the run would wait for a reader; a pipe holds what a run prints at its end.
        with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as shown:
            code, _, _ = _start(run, options, moment, partial(_fill, room, str(pipe)))
            return code, shown.read()
