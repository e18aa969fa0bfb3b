"""Lightning's own callbacks and profilers work task by task, as its users know them."""

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from cl_lightning.commands.stock_callbacks import check_stock
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
    assert done.stderr.count("FIT Profiler Report") == 2
    assert "run_training_epoch" in done.stderr


def test_a_checkpoint_without_a_folder_is_refused(tmp_path: Path) -> None:
    done = smoke(tmp_path / "run", "--trainer.callbacks+=ModelCheckpoint", check=False)
    assert done.returncode == 2
    assert "trainer.callbacks: ModelCheckpoint has no dirpath" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["BatchSizeFinder"], "BatchSizeFinder: it would change the batch of the task"),
        (["StochasticWeightAveraging", "swa_lrs=0.01"], "StochasticWeightAveraging: it would average the frozen base"),
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


def test_a_metric_of_the_users_own_may_be_monitored() -> None:
    check_stock([EarlyStopping(monitor="mine/accuracy"), EarlyStopping(monitor="val/loss")], validates=True)
