"""Runs of the command line for tests: a process each, forked from one that has imported what every run imports.

Importing torch, lightning and transformers takes longer than most of these runs do. What runs is the command's own
`main`, with its own arguments, working directory and output, as `python -m cl_lightning` would.
"""

import atexit
import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["cl_lightning.commands.composition"])
#: Seconds that a run may take.
TIMEOUT = 180


def launched(argv: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `cl-lightning ARGV` and return what it printed.

    Raises subprocess.TimeoutExpired; the process is killed then.
    """
    with tempfile.TemporaryDirectory() as folder:
        process, *paths = started(argv, cwd, Path(folder))
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([*argv], TIMEOUT)
        return subprocess.CompletedProcess([*argv], process.exitcode, *(path.read_text() for path in paths))


def started(argv: Sequence[str], cwd: Path, folder: Path, entry: str = "main") -> tuple[BaseProcess, Path, Path]:
    """The process, and the files in `folder` that get what it prints.

    `entry`: main; or command, which signals end, in a process group of its own as under a shell.
    """
    out, err = folder / "out", folder / "err"
    process = _forks.Process(target=_run, args=(entry, [*argv], str(cwd), dict(os.environ), str(out), str(err)))
    process.start()
    return process, out, err


def _run(entry: str, argv: list[str], cwd: str, env: dict[str, str], *outputs: str) -> None:
    if entry == "command":
        os.setpgid(0, 0)
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    command = importlib.import_module("cl_lightning.__main__")
    sys.argv = [str(command.__file__), *argv]
    sys.modules["__main__"] = command  # from which further ranks are started
    try:
        sys.exit(getattr(command, entry)())
    finally:
        atexit._run_exitfuncs()  # a fork ends without
        sys.stdout.flush()
