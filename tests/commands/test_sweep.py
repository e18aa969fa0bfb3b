"""`cl-lightning sweep`: a run for each value, one after the other or as jobs of a cluster."""

import os
from pathlib import Path

import pytest

from tests import slurm
from tests.commands.test_cli import NO_REPORT, TINY, launch
from tests.runs import record

SWEEP = ["sweep", "smoke", "--over", "model.adapter.rank"]
TWO = [*SWEEP, "--values", "2", "3", *TINY, NO_REPORT, "--trainer.max_steps=1"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["smoke", "--over", "modle.rank", "--values", "2"], "unknown option 'modle.rank'"),
        (["smoek", "--over", "model.adapter.rank", "--values", "2"], "no experiment 'smoek'; did you mean smoke?"),
        (["smoke", "--over", "model.adapter", "--values", "SeqLoRA", "SqeLoRA"], "no class 'SqeLoRA'; did you mean"),
        (["smoke", "--over", "model.adapter.rank"], "--values"),
        (["smoke", "--over", "model.lr", "--values", "1", "--cluster", "gpus"], "'gpus' must be KEY=VALUE"),
    ],
)
def test_bad_input_is_one_line_before_the_first_run(
    argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = launch("sweep", *argv)
    assert result.code == 2
    assert said in result.line
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_each_value_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch(*TWO).code == 0
    runs = [record(file.parent)["adapter"]["rank"] for file in tmp_path.glob("runs/smoke/*/sequence.json")]
    assert sorted(runs) == [2, 3]
    assert capfd.readouterr().out.count("run folder: runs/smoke/") == 2


@pytest.mark.long
def test_the_first_run_that_fails_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = launch(*SWEEP, "--values", "1000", "2", *TINY, NO_REPORT)
    assert result.code == 2
    assert not list(tmp_path.glob("runs/smoke/*"))


@pytest.mark.long
def test_on_a_cluster_each_value_is_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{slurm.install(tmp_path / 'slurm')}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    result = launch(*TWO, "--cluster", "timeout_min=5")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "sweep: 2 jobs, their output in runs/jobs"
    for number, rank in ((1, 2), (2, 3)):
        log = f"runs/jobs/smoke-model.adapter.rank-{number}.log"
        assert f"--model.adapter.rank={rank}: done ({log})" in lines
        assert "run folder: runs/smoke/" in Path(log).read_text()
    result = launch(*SWEEP, "--values", "0", *TINY, "--cluster")
    assert (result.code, result.line) == (2, "model.adapter.rank: 0 must be 1 or more"), "before any job"
    result = launch(*SWEEP, "--values", "1000", *TINY, "--cluster")
    assert result.code == 1
    assert "--model.adapter.rank=1000: failed with exit code 2 (runs/jobs/" in result.out
    assert result.line == "1 of 1 runs failed; the last line of each one's output says why"
