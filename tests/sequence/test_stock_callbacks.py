"""Lightning's own callbacks and profilers work task by task, as its users know them."""

from pathlib import Path

import pytest

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
