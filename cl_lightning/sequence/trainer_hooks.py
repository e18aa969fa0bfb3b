"""Hangs a task's boundary work into its Trainer, and counts steps and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from cl_lightning.common import distributed, stopping

if TYPE_CHECKING:
    from cl_lightning.sequence.run import SequenceRun


class TaskRunner(Callback):
    """Begins a task in its Trainer's setup stage, ends it after the last step, and moves the run's clock."""

    def __init__(self, run: SequenceRun, task: int) -> None:
        self.run, self.task = run, task
        self.loss: Any = 0.0
        self.tokens: Any = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.run.begin(self.task, trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stopping.hold_signals()  # the Trainer has put its own in place for the time of the fit

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = self.loss + outputs["loss"].detach()
        self.tokens = self.tokens + batch["attention_mask"].sum() * batch["weight"]
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        clock = self.run.clock
        clock.step += 1
        totals = torch.tensor([float(self.loss) / trainer.world_size, float(self.tokens)], dtype=torch.float64)
        totals = distributed.sum_(totals.to(trainer.strategy.root_device, torch.float32))
        clock.tokens += int(totals[1])
        self.loss, self.tokens = 0.0, 0
        if clock.step % self.run.settings.log_every_n_steps == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self.run.log({"train/loss": float(totals[0]), "train/lr": rate})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.run.end(self.task)
