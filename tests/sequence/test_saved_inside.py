"""What is saved inside a task: its files, what is said of them, and what happens when they are damaged."""

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from cl_lightning.commands import verify
from cl_lightning.common.errors import ConfigError, TrainingError
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.load import load_run
from cl_lightning.sequence.save_every import Pace
from cl_lightning.sequence.verify import read_record
from tests.commands.test_bad_runs import go_on
from tests.commands.test_cli import Result
from tests.runs import record, same_bits

OFTEN = ("--sequence.save_every=1 step", "--data.train_samples=28", "--data.test_samples=1")
BREAK = f"--observers.break={__name__}.Break"


class Break(TaskCallback):
    """Breaks off the second task in its third step."""

    def on_task_start(self, run: Any, task: int) -> None:
        self.task = task

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.task == 1 and trainer.global_step == 2:
            raise TrainingError("broken off")


class Thing:
    """No number, text or tensor."""


class Keeper(pl.Callback):
    """A stock callback with a state that only code can restore."""

    def state_dict(self) -> dict[str, Any]:
        return {"thing": Thing()}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("broken") / "run"
    assert go_on(run, *OFTEN, BREAK).err.splitlines()[-1] == "error: broken off"
    return run


@pytest.fixture
def run(broken: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(broken, tmp_path / "run"))


def test_other_commands_see_the_finished_tasks_only(run: Path) -> None:
    assert read_record(run)["done"] == 1
    assert load_run(run).record["unfinished"]["step"] == 2
    assert not [name for name in record(run)["files"] if "NumGLUE-cm" in name and "zero-shot" not in name]


@pytest.fixture(scope="module")
def gone_on(broken: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The same gone on to its end. Not to be written to."""
    run = Path(shutil.copytree(broken, tmp_path_factory.mktemp("gone_on") / "run"))
    return run, go_on(run, *OFTEN)


def test_the_checkpoint_holds_the_branch_and_goes_when_it_has_served(
    broken: Path, gone_on: tuple[Path, Result]
) -> None:
    assert [path.name for path in broken.glob("unfinished/*")] == ["step_2.ckpt"]
    assert (broken / "unfinished/step_2.ckpt").stat().st_size < 200_000, "the frozen model is not in it"
    run, result = gone_on
    assert "continuing task 2 of 2 (NumGLUE-cm) after step 2" in result.out
    assert not (run / "unfinished").exists()
    assert record(run)["unfinished"] is None


def test_verify_says_what_is_saved(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify.main([str(run)])
    assert "note: the run's own command goes on, continuing task 2 of 2 (NumGLUE-cm) after step 2" in " ".join(
        capsys.readouterr().out.split()
    )


def test_if_it_is_damaged_the_task_begins_again(
    run: Path, gone_on: tuple[Path, Result], capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "unfinished/step_2.ckpt"
    file.write_bytes(file.read_bytes()[:-1])
    verify.main([str(run)])
    line = f"{file}: damaged (its checksum is not the recorded one); the task that was not finished begins again"
    assert f"damaged: {line}" in " ".join(capsys.readouterr().out.split())
    result = go_on(run, *OFTEN)
    assert line in " ".join(result.err.split())
    assert "continuing after task 1 of 2 (FOMC)" in result.out
    assert not (run / "unfinished").exists()
    assert same_bits(run, gone_on[0])


def test_another_name_of_the_run_leaves_it(run: Path) -> None:
    files = record(run)["files"]
    result = go_on(run, *OFTEN, "--sequence.name=mine", BREAK)
    assert "continuing task 2 of 2 (NumGLUE-cm) after step 2" in result.out
    state = record(run)
    assert (state["name"], state["unfinished"]["step"], state["files"]) == ("mine", 2, files)


def test_starting_over_deletes_it(run: Path) -> None:
    assert go_on(run, "--sequence.fresh=true", "--data.order=[FOMC]").code == 0
    assert not (run / "unfinished").exists()


def test_a_state_that_only_code_restores_is_not_saved_and_said(tmp_path: Path) -> None:
    run, keeper = tmp_path / "run", f"--trainer.callbacks+={__name__}.Keeper"
    result = go_on(run, *OFTEN, BREAK, keeper)
    kept = f"a callback or the optimiser keeps {__name__}.Thing in its state; an interrupted task begins again"
    assert kept in " ".join(result.out.split())
    assert "continuing after task 1 of 2" in go_on(run, *OFTEN, keeper).out


def test_the_pace_counts_steps_or_minutes() -> None:
    now = [0.0]
    steps, minutes = Pace("5 steps"), Pace("2 minutes", clock=lambda: now[0])
    assert [steps.is_due(step) for step in (4, 5)] == [False, True]
    steps.begin(5)
    assert not steps.is_due(9)
    now[0] = 119
    assert not minutes.is_due(10**6)
    now[0] = 120
    assert minutes.is_due(1)


@pytest.mark.parametrize("value", ["0 steps", "10", "-1 steps", "1.5 minutes", "10 hours", "x"])
def test_other_paces_are_refused(value: str, tmp_path: Path) -> None:
    result = go_on(tmp_path / "run", f"--sequence.save_every={value}")
    assert result.code == ConfigError.exit_code
    assert "sequence.save_every" in result.err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_lists_no_file_as_being_written(tmp_path: Path) -> None:
    """Of what its last task has discarded, nothing is left to delete."""
    alone = ("--data.protocol=independent", "--boundary.memory=null", "--boundary.init=null")
    assert go_on(tmp_path / "run", *OFTEN, *alone).code == 0
    found = record(tmp_path / "run")
    assert (found["done"], found["writing"]) == (2, [])
    assert not list((tmp_path / "run" / "unfinished").glob("*"))
