"""Run a task's boundary work from its Trainer, and count steps and tokens."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from cl_lightning.common import distributed, stopping
from cl_lightning.sequence.costs import Costs
from cl_lightning.sequence.loggers import RunLogs
from cl_lightning.sequence.stages import Stages
from cl_lightning.sequence.time_left import TRAINING


class TrainerHooks(Callback):
    """Begins a task in its Trainer's setup stage, ends it after the last step, and advances the run's clock.

    Args:
        begin: called with the Trainer in its setup stage.
        end: called after the last optimiser step.
        logs: loggers of loss and learning rate.
        costs: measures the training.
        log_every: optimiser steps between logged losses.
        stages: is told of the training and its steps.
    """

    def __init__(
        self,
        begin: Callable[[pl.Trainer], None],
        end: Callable[[], None],
        logs: RunLogs,
        costs: Costs,
        log_every: int,
        stages: Stages,
    ) -> None:
        self.begin, self.end, self.logs, self.costs, self.log_every = begin, end, logs, costs, log_every
        self.stages, self.first_token = stages, logs.clock.tokens
        self.loss: Any = 0.0
        self.tokens: Any = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.begin(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stopping.install_handlers()  # the Trainer has installed its own for the duration of fit
        self.stages.begin(TRAINING, int(trainer.estimated_stepping_batches))
        self.costs.enter("training")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = self.loss + outputs["loss"].detach()
        self.tokens = self.tokens + batch["attention_mask"].sum() * batch["weight"]
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        clock = self.logs.clock
        clock.step += 1
        totals = torch.tensor([float(self.loss) / trainer.world_size, float(self.tokens)], dtype=torch.float64)
        totals = distributed.sum_(totals.to(trainer.strategy.root_device, torch.float32))
        clock.tokens += int(totals[1])
        self.stages.step(float(totals[0]), int(totals[1]))
        self.loss, self.tokens = 0.0, 0
        # For callbacks that monitor it; loggers get it below, over the sequence's axes.
        pl_module.log("train/loss", float(totals[0]), on_step=True, on_epoch=True, logger=False, batch_size=1)
        if clock.step % self.log_every == 0 and distributed.rank() == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self.logs.log({"train/loss": float(totals[0]), "train/lr": rate})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.costs.leave()
        tokens, seconds = self.logs.clock.tokens - self.first_token, self.costs.seconds("training")
        self.costs.add(tokens_per_second=tokens / seconds)
        self.end()
