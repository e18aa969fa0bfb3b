"""Loggers of a run, with axes that run through the whole sequence: cl/step, cl/tokens, cl/task.

Each task has a new Trainer whose global_step restarts at 0; these axes do not restart. All loggers get the same values
under the same keys: a CSV log that is always written, wandb, which is offline by default and then needs no key, and
those of the Trainer's option `logger`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from cl_lightning.common import stopping
from cl_lightning.common.paths import below
from cl_lightning.sequence.media import Media, show
from cl_lightning.sequence.wandb_folders import choose_folders
from cl_lightning.sequence.wandb_notices import without_notices

Wandb = Literal["offline", "online", "off"]


@dataclass
class Clock:
    """Optimiser steps and training tokens (all ranks, no padding) since the start of the sequence, and the task."""

    step: int = 0
    tokens: int = 0
    task: int = 0

    def axes(self) -> dict[str, int]:
        """Return the values by logged name."""
        return {f"cl/{name}": value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class About:
    """What wandb shows of a run: `id` is its identity; the rest are the user's words for finding it."""

    id: str
    name: str
    group: str | None = None
    job_type: str | None = None
    tags: Sequence[str] = ()
    notes: str | None = None


@dataclass
class RunLogs:
    """The loggers of a run in one process.

    Attributes:
        clock: the axes, logged with every value.
        theirs: loggers of the Trainer's options. A WandbLogger among them takes the place of the run's own.
        hyperparameters: the configuration, flat, which every logger but the CSV log gets once.
        loggers: all of them; empty before `open`.
        described: whether they have the hyperparameters.
    """

    clock: Clock
    theirs: Sequence[Logger] = ()
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    loggers: list[Logger] = field(default_factory=list)
    described: bool = False

    def open(self, folder: Path, attempt: int, about: About, wandb: Wandb) -> None:
        """Log to CSV files under logs/attempt_<n>, to wandb under one run id for the whole sequence, and to `theirs`.

        Raises:
            StateError: a path of the logs is a link.
        """
        below(folder, f"logs/attempt_{attempt}/metrics.csv")
        below(folder, "wandb")
        self.loggers = [CSVLogger(folder, name="logs", version=f"attempt_{attempt}", flush_logs_every_n_steps=1)]
        if wandb != "off" and not any(isinstance(logger, WandbLogger) for logger in self.theirs):
            self.loggers.append(_wandb(folder, about, wandb))
        self.loggers += self.theirs
        if any(isinstance(logger, WandbLogger) for logger in self.loggers):
            stopping.close_at_end(_close_wandb)
        for logger in self.loggers:
            _put_on_axes(logger, self.clock)

    def begin_task(self) -> None:
        """Give loggers the hyperparameters once, and wandb the axes.

        Call on rank 0 after the process group exists.
        """
        for logger in self.loggers[1:]:  # the CSV log lies beside config.yaml
            if isinstance(logger, MLFlowLogger):
                logger.experiment.update_run(logger.run_id, "RUNNING")  # the last task's Trainer has ended it
            if self.described:
                continue
            logger.log_hyperparams(dict(self.hyperparameters))
            if isinstance(logger, WandbLogger):
                for axis in self.clock.axes():
                    logger.experiment.define_metric(axis)
                logger.experiment.define_metric("*", step_metric="cl/step")
        self.described = True

    def log(self, values: Mapping[str, Any]) -> None:
        """Log numbers to every logger, and `Media` to those that have a form for them."""
        media = {name: value for name, value in values.items() if isinstance(value, Media)}
        numbers = {name: value for name, value in values.items() if name not in media}
        for logger in self.loggers:
            if numbers:
                logger.log_metrics(numbers, self.clock.step)
            for name, value in media.items():
                show(logger, name, value, self.clock.step)

    def close(self) -> None:
        """Finalise the loggers after the last task."""
        for logger in self.loggers:
            logger.finalize("success")

    def end(self) -> None:
        """End wandb's run, if a logger has one. Otherwise wandb's service ends it, with notices of its own."""
        if any(isinstance(logger, WandbLogger) for logger in self.loggers):
            import wandb

            wandb.finish()


def _wandb(folder: Path, about: About, mode: Wandb) -> WandbLogger:
    choose_folders(folder / "wandb")
    logger = WandbLogger(
        name=about.name,
        id=about.id,
        project="cl_lightning",
        save_dir=folder,
        offline=mode == "offline",
        mode=mode,  # wandb reads the variable that Lightning sets only where nobody has used it in this process
        group=about.group,
        job_type=about.job_type,
        tags=list(about.tags),
        notes=about.notes,
        resume="allow" if mode == "online" else None,
    )
    without_notices(logger, mode)
    return logger


def _put_on_axes(logger: Logger, clock: Clock) -> None:
    """Let all that a logger gets carry the axes, at the sequence's step, also what Lightning and callbacks log."""
    log = logger.log_metrics

    def log_metrics(metrics: Mapping[str, Any], step: int | None = None) -> None:
        log({**metrics, **clock.axes()}, clock.step)

    logger.log_metrics = log_metrics


def _close_wandb(exit_code: int) -> None:
    """Make wandb write its buffered data and end its service."""
    import wandb

    wandb.finish(exit_code)
    wandb.teardown(exit_code)
