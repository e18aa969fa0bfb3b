"""Run a task's boundary work from its Trainer, count steps and tokens, and save the state inside the task."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from cl_lightning.common import distributed, stopping
from cl_lightning.common.seeding import random_streams, set_random_streams
from cl_lightning.common.terminal import say
from cl_lightning.sequence.learning import Learning
from cl_lightning.sequence.loggers import RunLogs
from cl_lightning.sequence.save_every import Pace
from cl_lightning.sequence.stages import Stages
from cl_lightning.sequence.time_left import TRAINING


class SetupHook(Callback):
    """Calls `begin` with the Trainer in its setup stage, where the process group exists."""

    def __init__(self, begin: Callable[[pl.Trainer], None]) -> None:
        self.begin = begin

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.begin(trainer)


class TrainerHooks(Callback):
    """Begins a task in its Trainer's setup stage, ends it after the last step, and advances the run's clock.

    Args:
        begin: called with the Trainer in its setup stage.
        end: called after the last optimiser step.
        logs: loggers of loss and learning rate.
        log_every: optimiser steps between logged losses.
        stages: is told of the training, its steps and its end.
        save: called after an optimiser step that `pace` says is due, or after SIGTERM, with the Trainer and the number
            of this rank's micro-batches in this epoch. If an epoch or the task ends there, or is validated, a later
            step is saved.
        pace: tells rank 0 when to save.
    """

    def __init__(
        self,
        begin: Callable[[pl.Trainer], None],
        end: Callable[[], None],
        logs: RunLogs,
        log_every: int,
        stages: Stages,
        save: Callable[[pl.Trainer, int], None],
        pace: Pace,
    ) -> None:
        self.begin, self.end, self.logs, self.log_every = begin, end, logs, log_every
        self.stages, self.first_token = stages, logs.clock.tokens
        self.save, self.pace = save, pace
        self.loss: Any = 0.0
        self.tokens: Any = 0
        self._due = self._asked = False
        self.learning = Learning()
        self._device = torch.device("cpu")
        self._streams: list[dict[str, Any]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.begin(trainer)
        self._device = trainer.strategy.root_device

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stopping.install_handlers()  # the Trainer has installed its own for the duration of fit
        stopping.postpone()
        self.learning.steps = int(trainer.estimated_stepping_batches)
        planned = self.stages.plan[self.stages.task][TRAINING, ""]
        self.stages.begin(TRAINING, self.learning.steps, done=trainer.global_step, planned=planned)
        self.pace.begin(trainer.global_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore the random streams where a task goes on: whatever has drawn from them since had no part in it."""
        if self._streams:
            set_random_streams(self._streams[distributed.rank()], self._device)
            self._streams = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = self.loss + outputs["loss"].detach()
        self.tokens = self.tokens + batch["attention_mask"].sum() * batch["weight"]
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        clock = self.logs.clock
        clock.step += 1
        due = distributed.rank() == 0 and self.pace.is_due(trainer.global_step)
        own = [float(self.loss) / trainer.world_size, float(self.tokens), float(due), float(stopping.is_asked())]
        totals = torch.tensor(own, dtype=torch.float64)
        totals = distributed.sum_(totals.to(trainer.strategy.root_device, torch.float32))
        loss, tokens, due, asked = totals.tolist()  # one wait for the device
        clock.tokens += int(tokens)
        self.stages.step(loss, int(tokens))
        self.learning.add(trainer.global_step, loss)
        self.loss, self.tokens = 0.0, 0
        # For callbacks that monitor it; loggers get it below, over the sequence's axes.
        pl_module.log("train/loss", loss, on_step=True, on_epoch=True, logger=False, batch_size=1)
        if clock.step % self.log_every == 0 and distributed.rank() == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self.logs.log({"train/loss": loss, "train/lr": rate})
        self._due, self._asked = self._due or bool(due), self._asked or bool(asked)
        if (self._due or self._asked) and self._goes_on(trainer, batch_idx + 1):
            self._due = False
            with self.stages.within("saving"):
                self.save(trainer, batch_idx + 1)
            self.pace.begin(trainer.global_step)
            if self._asked:
                stopping.end_now()

    def _goes_on(self, trainer: pl.Trainer, batches: int) -> bool:
        """Whether the next thing is a training batch of this epoch: only there does Lightning go on exactly."""
        last = trainer.global_step >= self.learning.steps or batches >= trainer.num_training_batches
        interval = trainer.val_check_batch if trainer.enable_validation else None
        validates = interval not in (None, float("inf")) and batches % interval == 0
        return not last and not validates

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stages.begin("end")
        tokens, costs = self.logs.clock.tokens - self.first_token, self.stages.costs
        costs.add(tokens_per_second=tokens / costs.seconds(TRAINING))
        if distributed.rank() == 0 and (warning := self.learning.warning(pl_module.task_name)):
            say(f"  warning: {warning}")
        self.end()

    def state_dict(self) -> dict[str, Any]:
        """Return the random streams of all ranks, the tokens before the task, and its first losses."""
        streams = distributed.gather(random_streams(self._device))
        return {"streams": streams, "first_token": self.first_token, "learning": asdict(self.learning)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of `state_dict`. Another number of ranks draws other numbers."""
        self.first_token, self.learning = state["first_token"], Learning(**state["learning"])
        self._streams = state["streams"] if len(state["streams"]) == distributed.world_size() else []
