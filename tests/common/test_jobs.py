"""Commands as jobs of a cluster, through submitit and a Slurm of this machine."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.jobs import Cluster, Here
from cl_lightning.common.machine import machine_kind
from tests import slurm
from tests.launch import ends


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PATH", f"{slurm.install(tmp_path / 'slurm')}{os.pathsep}{os.environ['PATH']}")
    return Cluster(tmp_path / "jobs", {"timeout_min": 5, "slurm_partition": "gpu"})


def code(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_job_gives_what_a_process_here_gives(cluster: Cluster, tmp_path: Path) -> None:
    command = code("import sys; print('said'); print('warned', file=sys.stderr); sys.exit(3)")
    for jobs in (Here(), cluster):
        log = tmp_path / "log"
        ended = jobs.run(command, log)
        assert ended is not None
        assert (ended.code, ended.machine) == (3, machine_kind())
        assert 0 < ended.cpu_seconds < 60
        assert sorted(log.read_text().split()) == ["said", "warned"]
    (script,) = (tmp_path / "jobs").glob("*_submission.sh")
    assert "--partition=gpu" in script.read_text()


@pytest.mark.long
def test_the_commands_own_launcher_sees_no_slurm(cluster: Cluster, tmp_path: Path) -> None:
    """Or Lightning would want a task of Slurm for each device."""
    detect = (
        "from lightning.fabric.plugins.environments.slurm import SLURMEnvironment as S; import os; "
        "print(S.detect(), 'SLURM_NTASKS' in os.environ)"
    )
    assert cluster.run(code(detect), tmp_path / "log").code == 0
    assert (tmp_path / "log").read_text().split()[-2:] == ["False", "True"]


def members(group: int) -> list[int]:
    """The processes of a group, dead ones that nobody has waited for too."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            _, _, facts = (process / "stat").read_text().rpartition(") ")
            if int(facts.split()[2]) == group:
                found.append(int(process.name))
    return found


@contextmanager
def sleeping(cluster: Cluster, log: Path) -> Iterator[int]:
    """Inside, a job sleeps; its process group. Waits for its end afterwards."""
    pid = "import os, time; print(os.getpgid(0), flush=True); time.sleep(600)"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cluster.run, code(pid), log)
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield int(log.read_text())
        ended = waiting.result(60)
        assert ended is not None
        assert ended.code


def test_jobs_are_cancelled_when_the_command_ends(cluster: Cluster, tmp_path: Path) -> None:
    with sleeping(cluster, tmp_path / "log") as group:
        cluster._end()
    assert all(ends(process) for process in members(group))
    assert cluster.run(code("print('late')"), tmp_path / "late") is None, "nothing starts any more"


@pytest.mark.long
def test_a_job_that_is_lost_says_so_in_its_log(cluster: Cluster, tmp_path: Path) -> None:
    with sleeping(cluster, tmp_path / "log") as group:
        os.killpg(group, signal.SIGKILL)
    assert re.search(r"job \d+ ended without a result: .", (tmp_path / "log").read_text())


def test_without_slurm_or_with_an_unknown_setting_it_is_refused(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"^--cluster: .*gpus"):
        Cluster(tmp_path / "jobs", {"gpus": 1})
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"^--cluster: no sbatch, so no Slurm on this machine"):
        Cluster(tmp_path / "jobs", {})
