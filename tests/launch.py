"""Runs of the command line for tests: a process each, forked from one that has imported what every run imports.

Importing torch, lightning and transformers takes longer than most of these runs do. What runs is the command's own
`main`, with its own arguments, working directory and output, as `python -m cl_lightning` would.
"""

import atexit
import gc
import importlib
import multiprocessing
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp
from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only

_forks = multiprocessing.get_context("forkserver")
# The first has all of the second, but is found only from this folder, which a test may have left by then.
_forks.set_forkserver_preload(["tests.preload", "cl_lightning.commands.composition"])
#: Seconds that a run may take.
TIMEOUT = 180


def launched(argv: Sequence[str], cwd: Path, ranks: int = 1, strategy: str = "ddp") -> subprocess.CompletedProcess[str]:
    """Run `cl-lightning ARGV`, under `strategy` where `ranks` is more than 1, started as torchrun starts them here.

    Returns what rank 0 printed to standard output, and what all ranks printed to standard error. Raises
    subprocess.TimeoutExpired; the ranks are killed then.
    """
    several = [f"--trainer.devices={ranks}", f"--trainer.strategy={strategy}", "--trainer.accelerator=cpu"]
    return launched_in([*argv, *several], cwd, torchrun(ranks)) if ranks > 1 else launched_in(argv, cwd, [{}])


def launched_in(
    argv: Sequence[str], cwd: Path, environments: Sequence[Mapping[str, str]]
) -> subprocess.CompletedProcess[str]:
    """Run `cl-lightning ARGV` in a process for each environment; see `launched`."""
    ranks = len(environments)
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder, str(rank)) for rank in range(ranks)]
        for own in folders:
            own.mkdir()
        runs = [
            started(argv, cwd, own, environment=environment)
            for own, environment in zip(folders, environments, strict=True)
        ]
        deadline = time.monotonic() + TIMEOUT
        for process, *_ in runs:
            process.join(max(0.0, deadline - time.monotonic()))
        late = [process for process, *_ in runs if process.exitcode is None]
        for process in late:
            process.kill()
            process.join()
        if late:
            raise subprocess.TimeoutExpired([*argv], TIMEOUT)
        code = next((process.exitcode for process, *_ in runs if process.exitcode), 0)
        errors = "".join(err.read_text() for _, _, err in runs)
        return subprocess.CompletedProcess([*argv], code, runs[0][1].read_text(), errors)


def ends(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process, anybody's child, ends within `seconds`: what is killed lives until the kernel has its turn."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], seconds)[0])
    finally:
        os.close(process)


def torchrun(ranks: int) -> list[dict[str, str]]:
    """Each rank's environment, as torchrun sets it on one machine."""
    everyone = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCHELASTIC_RUN_ID": "tests",
    }
    return [{**everyone, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def free_port() -> int:
    """A port of this machine at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def on_two_ranks(function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in two forked processes and wait for both. Raises what a rank raises."""
    mp.start_processes(function, arguments, nprocs=2, start_method="forkserver")


def started(
    argv: Sequence[str],
    cwd: Path,
    folder: Path,
    entry: str = "main",
    environment: Mapping[str, str] | None = None,
) -> tuple[BaseProcess, Path, Path]:
    """The process, and the files in `folder` that get what it prints.

    `entry`: main; or command, which signals end, in a process group of its own as under a shell.
    `environment`: variables that the process has beside this one's.
    """
    out, err = folder / "out", folder / "err"
    variables = {**os.environ, **(environment or {})}
    process = _forks.Process(target=_run, args=(entry, [*argv], str(cwd), variables, str(out), str(err)))
    process.start()
    return process, out, err


def _run(entry: str, argv: list[str], cwd: str, env: dict[str, str], *outputs: str) -> None:
    gc.freeze()  # what the fork shares is never garbage
    if entry == "command":
        os.setpgid(0, 0)
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    rank_zero_only.rank = _get_rank() or 0  # found at import otherwise, which was before the fork
    command = importlib.import_module("cl_lightning.__main__")
    sys.argv = [str(command.__file__), *argv]
    sys.modules["__main__"] = command  # from which further ranks are started
    try:
        sys.exit(getattr(command, entry)())
    finally:
        atexit._run_exitfuncs()  # a fork ends without
        sys.stdout.flush()
