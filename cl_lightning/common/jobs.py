"""Run commands in processes of their own: on this machine, or as jobs of a cluster through submitit. No torch here."""

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cl_lightning.common import stopping
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.machine import machine_kind
from cl_lightning.common.packages import need


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code.
        cpu_seconds: processor time.
        machine: kind of the machine it ran on.
    """

    code: int
    cpu_seconds: float
    machine: str


class Jobs(Protocol):
    """Runs commands. Several threads may each run one; all of them end with this process."""

    def run(self, command: Sequence[str], log: Path) -> Ended | None:
        """Run a command, its output in the file `log`, and wait for it; None if this process ends."""


class Here:
    """Processes of this machine."""

    def __init__(self) -> None:
        self._lock, self._processes, self._ending = threading.Lock(), list[subprocess.Popen[bytes]](), False
        stopping.end_ranks(self._end)

    def run(self, command: Sequence[str], log: Path) -> Ended | None:
        with log.open("wb") as output:
            with self._lock:
                if self._ending:
                    return None
                process = _started(command, output)
                self._processes.append(process)
            ended = _waited(process)
            self._processes.remove(process)
        return ended

    def _end(self) -> list[subprocess.Popen[bytes]]:
        """Start no process from now on, and return those that run. Called when a signal ends the command."""
        with self._lock:
            self._ending = True
            return list(self._processes)


class Cluster:
    """Jobs of Slurm, through submitit.

    Args:
        folder: of submitit's own files, on a file system that all machines share.
        settings: of submitit's `AutoExecutor.update_parameters`: timeout_min, gpus_per_node, slurm_partition, ...

    Raises:
        ConfigError: submitit or Slurm is not there, or submitit does not know a setting.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        need("submitit", "--cluster", "'cl-lightning[cluster]'")
        if shutil.which("sbatch") is None:
            raise ConfigError("--cluster: no sbatch, so no Slurm on this machine; without it, processes are used")
        # Its own logging would close the handlers of others, and print to standard output.
        os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
        import submitit

        self._executor = submitit.AutoExecutor(folder, cluster="slurm")
        try:
            self._executor.update_parameters(**settings)
        except (NameError, TypeError, AssertionError) as error:
            raise ConfigError(f"--cluster: {' '.join(str(error).split())}") from None
        self._lock, self._jobs, self._ending = threading.Lock(), list[submitit.Job[Ended]](), False
        stopping.end_ranks(self._end)

    def run(self, command: Sequence[str], log: Path) -> Ended | None:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        with self._lock:
            if self._ending:
                return None
            job = self._executor.submit(run_logged, list(command), log.absolute())
            self._jobs.append(job)
        try:
            return job.result()
        except (FailedJobError, UncompletedJobError) as error:
            last = str(error).strip().splitlines()[-1]
            with log.open("a") as file:
                file.write(f"\njob {job.job_id} ended without a result: {last}\n")
            return Ended(1, 0.0, "")

    def _end(self) -> list[stopping.Process]:
        with self._lock:
            self._ending = True
            for job in self._jobs:
                if not job.done():
                    job.cancel(check=False)
        return []


def run_logged(command: Sequence[str], log: Path) -> Ended:
    """Run a command in a job, its output in the file `log`.

    The command starts further ranks itself: Lightning takes a job that is called "interactive" as one process, however
    many GPUs it has.
    """
    with log.open("wb") as output:
        return _waited(_started(command, output, {**os.environ, "SLURM_JOB_NAME": "interactive"}))


def _started(
    command: Sequence[str], output: BinaryIO, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)


def _waited(process: subprocess.Popen[bytes]) -> Ended:
    _, status, usage = os.wait4(process.pid, 0)  # for the processor time of this child alone
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, usage.ru_utime + usage.ru_stime, machine_kind())
