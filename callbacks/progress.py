"""Shows a progress bar over each task's steps, with the loss and the time left of the task and of the run."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from tqdm import tqdm

from cl_lightning.common.terminal import printable
from cl_lightning.sequence.callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence.context import RunContext


class TaskProgress(TaskCallback):
    """A tqdm bar on standard error, rank 0 only; redrawn rarely if standard error is not a terminal.

    The time left of the run is the mean time of the tasks finished by this process times the number of tasks left,
    so it appears from the second task on; later tasks score more cells and may take longer.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.durations: list[float] = []

    def on_task_start(self, run: RunContext, task: int) -> None:
        self.run, self.task, self.started = run, task, time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            terminal = sys.stderr.isatty()
            self.bar = tqdm(
                total=int(trainer.estimated_stepping_batches),
                desc=printable(f"task {self.task + 1}/{len(self.run.order)} {self.run.order[self.task]}"),
                unit="step",
                mininterval=0.2 if terminal else 20.0,
                dynamic_ncols=terminal,
                leave=True,
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None or trainer.global_step == self.bar.n:
            return
        loss = outputs["loss"].item() * trainer.accumulate_grad_batches
        self.bar.set_postfix_str(f"loss {loss:.3f}{self._run_left(trainer)}", refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    def _run_left(self, trainer: pl.Trainer) -> str:
        if not self.durations:
            return ""
        mean = sum(self.durations) / len(self.durations)
        left = mean * (len(self.run.order) - self.task) - (time.monotonic() - self.started)
        return f", run left {tqdm.format_interval(max(0.0, left))}"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_task_scored(self, run: RunContext, task: int) -> None:
        self.durations.append(time.monotonic() - self.started)
