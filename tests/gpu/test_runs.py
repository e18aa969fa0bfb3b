"""Whole runs on the device: one process under DDP (nccl on GPUs), and one that is killed and goes on."""

from pathlib import Path

import pytest
import torch

from tests.runs import adapters, killed, record, relative, same_bits, smoke

pytestmark = pytest.mark.gpu


def near(one: Path, two: Path, device: torch.device) -> bool:
    """Whether two runs' branches are equal: to the bit on a CPU; kernels of GPUs may sum in another order each time."""
    if device.type == "cpu":
        return same_bits(one, two)
    a, b = adapters(one), adapters(two)
    return a.keys() == b.keys() and all(relative(a[task], b[task]) < 1e-2 for task in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    smoke(run)
    return run


def test_ddp_with_one_process(whole: Path, tmp_path: Path, device: torch.device) -> None:
    run, file = tmp_path / "ddp", tmp_path / "backend"
    seen = ["--observers.seen=tests.gpu.backend.Backend", f"--observers.seen.file={file}"]
    smoke(run, "--trainer.strategy=ddp", "--trainer.devices=1", *seen)
    backend = "gloo" if device.type == "cpu" else "nccl"
    assert file.read_text().splitlines() == [f"{backend} {device.type}"] * 2
    assert near(run, whole, device)


def test_a_killed_run_goes_on(whole: Path, tmp_path: Path, device: torch.device) -> None:
    run = tmp_path / "killed"
    killed(run, "surgery/NumGLUE-cm.csv")
    smoke(run)
    assert record(run)["done"] == 2
    assert near(run, whole, device)
    other = tmp_path / "other"
    smoke(other, "--seed_everything=7")
    assert not near(other, whole, device), "control"
