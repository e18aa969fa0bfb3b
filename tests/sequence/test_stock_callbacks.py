"""Lightning's own callbacks and profilers work task by task, as its users know them."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint

from cl_lightning import TaskSequence
from cl_lightning.commands.stock_callbacks import check_stock
from cl_lightning.commands.task_trainer import TaskTrainers
from cl_lightning.common.errors import ConfigError
from cl_lightning.data import TRACE
from tests.commands.test_bad_input import refused
from tests.commands.test_cli import configs, launch
from tests.runs import record, smoke

SETTINGS = """
trainer:
  limit_val_batches: 1.0
  profiler: simple
  callbacks:
    - {{class_path: EarlyStopping, init_args: {{monitor: {monitor}, min_delta: 1000, patience: 1}}}}
    - {{class_path: ModelCheckpoint, init_args: {{dirpath: '{folder}', monitor: {monitor}, save_weights_only: true}}}}
data: {{epochs: 3}}
"""


@pytest.mark.parametrize("monitor", ["val/loss", pytest.param("train/loss", marks=pytest.mark.long)])
def test_early_stopping_checkpoints_and_a_profiler_work_per_task(tmp_path: Path, monitor: str) -> None:
    (tmp_path / "mine.yaml").write_text(SETTINGS.format(monitor=monitor, folder=tmp_path / "kept"))
    done = smoke(tmp_path / "run", f"--config={tmp_path / 'mine.yaml'}", "--boundary.init=null")
    found = record(tmp_path / "run")
    assert found["clock"]["step"] == 2 * 2 * 5, "each task stops after its second epoch of three"
    assert len(found["R"]) == 2
    for task in found["order"]:
        (file,) = (tmp_path / "kept" / task).glob("*.ckpt")
        assert file.stat().st_size > 0
        assert "run_training_epoch" in reported(done.stdout, task)


def reported(said: str, task: str) -> str:
    """The profiler's report of a task, from the file that a line names."""
    (file,) = re.findall(rf"^  profile: (.*-{task}\.txt)$", said, re.M)
    return Path(file).read_text()


def test_each_task_has_a_profile_of_its_own(tmp_path: Path) -> None:
    """And the run that has them in its folder can be started over."""
    options = ("--trainer.profiler=PyTorchProfiler", "--trainer.profiler.filename=mine", "--boundary.init=null")
    for more in (("--data.order=[FOMC]",), ("--sequence.fresh=true",)):
        done = smoke(tmp_path / "run", *options, "--sequence.zero_shot=false", "--data.train_samples=14", *more)
        for task in record(tmp_path / "run")["order"]:
            report = reported(done.stdout, task)
            assert report.startswith("FIT Profiler Report")
            assert report.count("Profiler Report") == 1
    assert "Profiler Report" not in done.stdout + done.stderr, "wider than a terminal"


def test_a_checkpoint_without_a_folder_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, "--trainer.callbacks+=ModelCheckpoint")
    assert said.startswith("trainer.callbacks: ModelCheckpoint has no dirpath")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["BatchSizeFinder"], "BatchSizeFinder: it would change the batch of the task"),
        (["StochasticWeightAveraging", "swa_lrs=0.01"], "StochasticWeightAveraging: it would average the frozen base"),
        (["LearningRateFinder"], "LearningRateFinder: its steps and its rate would be no part of the run"),
        (["GradientAccumulationScheduler", "scheduling={0: 3}"], "GradientAccumulationScheduler: a step's loss is"),
        (["ModelPruning", "pruning_fn=l1_unstructured"], "ModelPruning: it would prune the frozen base"),
        (["BackboneFinetuning"], "BackboneFinetuning: the strategy says what is trained"),
        (
            ["EarlyStopping", "monitor=val/loss"],
            "EarlyStopping monitors val/loss, but nothing is validated; set",
        ),
        (["EarlyStopping", "monitor=val_loss"], "EarlyStopping monitors 'val_loss'; did you mean val/loss?"),
        (
            ["ModelCheckpoint", "monitor=train_los", "dirpath=kept"],
            "ModelCheckpoint monitors 'train_los'; did you",
        ),
    ],
)
def test_what_cannot_work_on_a_task_is_refused_before_anything_is_loaded(
    options: list[str], said: str, tmp_path: Path
) -> None:
    name, *more = options
    argv = [f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{option}" for option in more)]
    result = launch(*configs("smoke"), *argv, f"--sequence.run_dir={tmp_path / 'run'}")
    assert result.code == 2
    assert result.line.startswith(f"trainer.callbacks: {said}")
    assert not (tmp_path / "run").exists()


TOO_MUCH = {
    "--trainer.devices=99": "trainer.devices: 99 processes on ",
    "--trainer.limit_train_batches=0.01": "trainer.limit_train_batches: 0.01 of the 5 batches of FOMC is none",
    "--trainer.val_check_interval=6": "trainer.val_check_interval: 6 is more than the 5 batches of an epoch of FOMC",
}


@pytest.mark.parametrize("option", TOO_MUCH)
def test_more_than_the_machine_or_a_task_has_is_refused_before_the_run_folder_is_made(
    option: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = launch(*configs("smoke"), "--trainer.limit_val_batches=1.0", option, f"--sequence.run_dir={run}")
    assert (result.code, result.line.startswith(TOO_MUCH[option])) == (2, True), result
    assert not run.exists()


@pytest.mark.parametrize("kind", [ModelCheckpoint, OnExceptionCheckpoint])
@pytest.mark.parametrize(("folder", "refused"), [(".", True), ("a/b", True), ("../kept", False)])
def test_checkpoints_among_the_files_of_the_run_are_refused(
    kind: type[Checkpoint], folder: str, refused: bool, tmp_path: Path
) -> None:
    data = TaskSequence(TRACE())
    trainers = TaskTrainers({"callbacks": [kind(dirpath=tmp_path / "run" / folder)]}, 1, data)
    with pytest.raises(ConfigError, match="lies in the run's folder") if refused else nullcontext():
        trainers.check_apart(tmp_path / "run")


SHORT = ("--boundary.init=null", "--sequence.zero_shot=false", "--data.order=[FOMC]", "--trainer.limit_val_batches=1.0")


def test_an_interval_of_validation_may_be_a_time_and_a_timer_is_built_and_described(tmp_path: Path) -> None:
    timer = ("--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:00:10:00")
    smoke(tmp_path / "run", *SHORT, *timer, "--trainer.val_check_interval=00:00:00:01")
    assert record(tmp_path / "run")["done"] == 1
    assert "interval: step" in (tmp_path / "run" / "config.yaml").read_text()


def test_without_validation_examples_nothing_is_validated(tmp_path: Path) -> None:
    done = smoke(tmp_path / "run", *SHORT, "--data.validation_samples=0")
    assert "Total length" not in done.stdout + done.stderr


def test_a_metric_of_the_users_own_may_be_monitored() -> None:
    check_stock([EarlyStopping(monitor="mine/accuracy"), EarlyStopping(monitor="val/loss")], validates=True)
