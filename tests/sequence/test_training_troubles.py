"""What goes wrong in training is said with what to do: no memory, no learning, a model that is split."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    SingleDeviceStrategy,
)

from cl_lightning.common.errors import ConfigError, TrainingError
from cl_lightning.model.strategies import check_strategy
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.learning import Learning
from cl_lightning.sequence.out_of_memory import report_out_of_memory
from cl_lightning.sequence.record_file import read_record_file
from cl_lightning.sequence.stages import Stages
from tests.commands.test_bad_runs import go_on


class Hungry(TaskCallback):
    """Allocates more than any machine has, once, in the second step."""

    full = False

    def on_train_batch_end(self, *_: Any) -> None:
        if not Hungry.full:
            Hungry.full = True
            torch.empty(2**58)


def test_out_of_memory_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = go_on(run, f"--observers.hungry={__name__}.Hungry")
    assert result.code == 1
    line = result.err.splitlines()[-1]
    assert line.startswith("error: out of memory in training of task FOMC: raise trainer.accumulate_grad_batches")
    assert "Traceback" not in result.err
    assert read_record_file(run)["unfinished"]["cells"].keys() == {"zero-shot"}
    assert go_on(run, f"--observers.hungry={__name__}.Hungry").code == 0


@pytest.mark.parametrize(
    ("error", "stage", "advice"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "scoring",
            "lower data.eval_batch_size",
        ),
        (MemoryError(), "gradients", "lower batch_size of the boundary callbacks"),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory"),
            "start",
            "boundary.init.memory_budg",
        ),
    ],
)
def test_the_advice_goes_with_the_stage(error: Exception, stage: str, advice: str) -> None:
    stages = Stages(["a"])
    stages.begin_task(0)
    stages.begin(stage)
    with (
        pytest.raises(TrainingError, match=f"^out of memory in {stage} of task a: .*{advice}.*again$"),
        report_out_of_memory(stages, "run it again"),
    ):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), report_out_of_memory(stages, ""):  # the control
        raise RuntimeError("shapes do not fit")


def test_a_loss_that_does_not_fall_is_said() -> None:
    def warning(losses: list[float]) -> str | None:
        learning = Learning(len(losses))
        for step, loss in enumerate(losses, start=1):
            learning.add(step, loss)
        return learning.warning("A")

    assert warning([2.0] * 16) is not None
    assert warning([1.0] * 12 + [2.0] * 4).startswith(
        "A was hardly learnt: its training loss is 1 in the first quarter"
    )
    assert warning([2.0] * 12 + [1.9] * 4) is None
    assert warning([2.0] * 15) is None, "too few steps to tell"


def test_a_run_says_it(tmp_path: Path) -> None:
    result = go_on(tmp_path / "run", "--data.epochs=8", "--data.order=[FOMC]", "--model.lr=1e-12")
    assert result.code == 0
    assert "warning: FOMC was hardly learnt" in " ".join(result.out.split())
    result = go_on(tmp_path / "control", "--data.epochs=8", "--data.order=[FOMC]", "--model.lr=0.01")
    assert "hardly learnt" not in " ".join(result.out.split())


def test_strategies_that_split_the_model_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.strategy: FSDPStrategy splits the model"):
        check_strategy(FSDPStrategy())
    for whole in (SingleDeviceStrategy("cpu"), DDPStrategy()):
        check_strategy(whole)
