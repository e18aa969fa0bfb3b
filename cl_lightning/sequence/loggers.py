"""Loggers of a run, with axes that run through the whole sequence: cl/step, cl/tokens, cl/task.

Each task has a new Trainer whose global_step restarts at 0; these axes do not restart. The CSV log is always written;
wandb is offline by default and then needs no key.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from cl_lightning.common import stopping
from cl_lightning.common.paths import below

Wandb = Literal["offline", "online", "off"]


@dataclass
class Clock:
    """Optimiser steps and training tokens (all ranks, no padding) since the start of the sequence, and the task."""

    step: int = 0
    tokens: int = 0
    task: int = 0

    def axes(self) -> dict[str, int]:
        return {f"cl/{name}": value for name, value in asdict(self).items()}


class RunLogs:
    """The loggers of a run in one process.

    Attributes:
        clock: the axes, logged with every value.
        loggers: empty before `open`.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.loggers: list[Logger] = []

    def open(self, folder: Path, attempt: int, run_id: str, name: str, tags: list[str], wandb: Wandb) -> None:
        """Log to CSV files under logs/attempt_<n>, and to wandb under one run id for the whole sequence.

        Raises:
            StateError: a path of the logs is a link.
        """
        below(folder, f"logs/attempt_{attempt}/metrics.csv")
        below(folder, "wandb")
        self.loggers = [CSVLogger(folder, name="logs", version=f"attempt_{attempt}", flush_logs_every_n_steps=1)]
        if wandb != "off":
            stopping.close_at_end(_close_wandb)
            self.loggers.append(
                WandbLogger(
                    name=name,
                    id=run_id,
                    project="cl_lightning",
                    save_dir=folder,
                    offline=wandb == "offline",
                    tags=tags,
                    resume="allow" if wandb == "online" else None,
                )
            )

    def define_axes(self) -> None:
        """Make cl/step the x axis of all wandb charts. Call on rank 0 after the process group exists."""
        for logger in self.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.define_metric("cl/step")
                logger.experiment.define_metric("*", step_metric="cl/step")

    def log(self, values: dict[str, Any]) -> None:
        """Log values together with the axes."""
        for logger in self.loggers:
            logger.log_metrics({**values, **self.clock.axes()}, step=self.clock.step)

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Log a table to wandb together with the axes."""
        for logger in self.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                table = wandb.Table(columns=columns, data=rows)
                logger.log_metrics({name: table, **self.clock.axes()}, step=self.clock.step)

    def close(self) -> None:
        """Finalise the loggers after the last task."""
        for logger in self.loggers:
            logger.finalize("success")


def _close_wandb(exit_code: int) -> None:
    """Make wandb write its buffered data and end its service."""
    import wandb

    wandb.teardown(exit_code)
