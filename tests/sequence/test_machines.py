"""Two machines of one rank each, as torchrun and Slurm's srun start them, equal one process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.launch import free_port, launched_in
from tests.runs import BASE, adapters, record, relative, smoke

Environments = list[dict[str, str]]
MACHINES = ("--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")


def torchrun() -> Environments:
    """torchrun --nnodes=2 --nproc_per_node=1."""
    everyone = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCHELASTIC_RUN_ID": "tests",
    }
    return [{**everyone, "RANK": str(rank), "GROUP_RANK": str(rank)} for rank in range(2)]


def srun() -> Environments:
    """srun --nodes=2 --ntasks-per-node=1, in a job of sbatch."""
    everyone = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "sequence",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_LOCALID": "0",
        "MASTER_PORT": str(free_port()),  # Lightning makes one of the job's number
    }
    return [{**everyone, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)} for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    smoke(run)
    return run


@pytest.mark.parametrize("launcher", [pytest.param(torchrun, marks=pytest.mark.long), srun])
def test_two_machines_equal_one_process(launcher: Callable[[], Environments], alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = launched_in([*BASE, f"--sequence.run_dir={run}", *MACHINES], ROOT, launcher())
    assert done.returncode == 0, done.stdout + done.stderr
    assert record(run)["world_size"] == 2
    assert record(run)["R"] == record(alone)["R"]
    for task, branch in adapters(alone).items():
        assert relative(adapters(run)[task], branch) < 1e-5, task


def test_nodes_that_slurm_does_not_have_are_refused_before_the_run(tmp_path: Path) -> None:
    machines = [option.replace("num_nodes=2", "num_nodes=1") for option in MACHINES]
    done = launched_in([*BASE, f"--sequence.run_dir={tmp_path / 'run'}", *machines], ROOT, srun()[:1])
    assert done.returncode == 2
    assert done.stderr.startswith("error: trainer: You set `num_nodes=1` in Lightning, but the number of nodes")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
