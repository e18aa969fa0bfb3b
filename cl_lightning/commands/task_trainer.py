"""Lightning's Trainer with the values of its options that can train a task, and a Trainer for each task."""

import copy
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import ParallelStrategy

from cl_lightning.commands.stock_callbacks import check_stock
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Count, Duration, NoLimit, NonNegative, Share
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.sequence.run_files import PROFILE

#: Options that end a task's training early, with the value that does not.
CUTS = {
    "fast_dev_run": False,
    "max_steps": -1,
    "max_time": None,
    "limit_train_batches": None,
}
#: Processes that run on any machine.
LEAST_CORES = 2


class TaskTrainer(pl.Trainer):
    """A Trainer of one task. Its options are checked by the parser; the others are those of Lightning's Trainer."""

    def __init__(
        self,
        *,
        fast_dev_run: bool | Count = False,
        max_steps: NoLimit | Count = -1,
        min_steps: Count | None = None,
        max_time: Duration | None = None,
        limit_train_batches: Count | Share | None = None,
        overfit_batches: Literal[0] = 0,
        val_check_interval: Count | Share | Duration | None = None,
        check_val_every_n_epoch: Count | None = 1,
        log_every_n_steps: Count | None = None,
        gradient_clip_val: NonNegative | None = None,
        num_nodes: Count = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            fast_dev_run=fast_dev_run,
            max_steps=max_steps,
            min_steps=min_steps,
            max_time=max_time,
            limit_train_batches=limit_train_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            check_val_every_n_epoch=check_val_every_n_epoch,
            log_every_n_steps=log_every_n_steps,
            gradient_clip_val=gradient_clip_val,
            num_nodes=num_nodes,
            **kwargs,
        )


@dataclass(frozen=True)
class TaskTrainers:
    """Makes a fresh Trainer for each task of a sequence.

    Attributes:
        options: those of section `trainer`, with callbacks and loggers built.
        log_every: `sequence.log_every_n_steps`, for Lightning's own values too unless `options` says otherwise.
        data: the tasks.
    """

    options: Mapping[str, Any]
    log_every: int
    data: TaskSequence

    @property
    def processes(self) -> int:
        """Number of processes on this machine, as far as the options say it."""
        devices = str(self.options.get("devices"))  # the command line's is a text
        return max(1, int(devices)) if devices.isdecimal() else 1

    @property
    def loggers(self) -> list[Logger]:
        """The loggers of the options."""
        given = self.options.get("logger")
        return given if isinstance(given, list) else [given] if isinstance(given, Logger) else []

    def check(self) -> None:
        """Check callbacks, and build a Trainer that is thrown away. Raises ConfigError for options that make none."""
        validates = self.options.get("limit_val_batches") not in (0, None) and self.data.validation_samples > 0
        check_stock(_listed(self.options.get("callbacks")), validates)
        try:
            self.make(0, [], [])
        except (MisconfigurationException, TypeError, ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from None

    def check_machine(self) -> None:
        """Raise ConfigError for more processes than this machine's cores, or others than its cluster has started."""
        trainer = self.make(0, [], [])
        if isinstance(trainer.strategy, ParallelStrategy):  # its launcher asks when training starts
            environment = trainer.strategy.cluster_environment
            try:
                environment.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)
            except ValueError as error:
                raise ConfigError(f"trainer: {' '.join(str(error).split())}") from None
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > max(cores, LEAST_CORES):
            raise ConfigError(f"trainer.devices: {trainer.num_devices} processes on {cores} cores; use at most {cores}")

    def check_apart(self, folder: Path) -> None:
        """Raise ConfigError if checkpoints would lie among the run's files. `folder`: the run's."""
        for callback in _listed(self.options.get("callbacks")):
            place = getattr(callback, "dirpath", None) if isinstance(callback, Checkpoint) else None
            if place is not None and _inside(Path(place), folder):
                raise ConfigError(
                    f"trainer.callbacks: {type(callback).__name__}: dirpath {place} lies in the run's folder, whose "
                    "files are the run's own; give it a folder outside"
                )

    def check_tasks(self) -> None:
        """Raise ConfigError if a task, once prepared, has too few batches for an option."""
        trainer = self.make(0, [], [])
        # Lightning leaves the interval out where it is a time.
        share, every = trainer.limit_train_batches, getattr(trainer, "val_check_interval", None)
        per_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches > 0
        for task, name in enumerate(self.data.order):
            self.data.activate(task)
            batches = len(self.data.sampler(0, trainer.world_size, trainer.accumulate_grad_batches))
            if isinstance(share, float) and int(batches * share) < 1:
                raise ConfigError(
                    f"trainer.limit_train_batches: {share:g} of the {batches} batches of {name} is none; give "
                    f"{math.ceil(100 / batches) / 100:g} or more, or a number of batches"
                )
            seen = int(batches * share) if isinstance(share, float) else min(batches, share)
            if type(every) is int and every > seen and per_epoch:
                raise ConfigError(
                    f"trainer.val_check_interval: {every} is more than the {seen} batches of an epoch of {name}; give "
                    f"at most {seen}, or count over epochs with trainer.check_val_every_n_epoch=null"
                )
        self.data.activate(0)

    def make(self, task: int, ours: Sequence[Callback], loggers: Sequence[Logger]) -> pl.Trainer:
        """Build a Trainer for one task. Trainer callbacks are copied, because their state must not carry over."""
        options = dict(self.options)
        stock = [copy.deepcopy(callback) for callback in _listed(options.pop("callbacks", None))]
        for callback in stock:
            if isinstance(callback, ModelCheckpoint):
                self._place(callback, task)
        checkpoints = any(isinstance(callback, Checkpoint) for callback in stock)
        options["enable_checkpointing"] = bool(options.get("enable_checkpointing") or checkpoints)
        if not self.data.validation_samples:
            options["limit_val_batches"] = 0
        options["profiler"] = copy.deepcopy(options.get("profiler"))
        options["log_every_n_steps"] = options.get("log_every_n_steps") or self.log_every
        trainer = TaskTrainer(
            **{**options, "max_epochs": self.data.epochs_per_task[task], "logger": list(loggers)},
            callbacks=[*stock, *ours],
        )
        if not isinstance(trainer.profiler, PassThroughProfiler):
            # Its report is far wider than a terminal. Without a folder of its own, it goes beside the CSV log.
            named = PROFILE, trainer.profiler.filename, self.data.order[task]
            trainer.profiler.filename = "-".join(filter(None, named))
        return trainer

    def _place(self, checkpoint: ModelCheckpoint, task: int) -> None:
        """Give a task's checkpoints a folder of their own, since all tasks count their steps from 0."""
        if checkpoint.dirpath is None:
            raise ConfigError(
                "trainer.callbacks: ModelCheckpoint has no dirpath; give it a folder outside the run's "
                "(checkpoints are the user's own)"
            )
        checkpoint.dirpath = str(Path(checkpoint.dirpath, self.data.order[task]))


def _inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in (path.resolve(), *path.resolve().parents)


def _listed(callbacks: Callback | list[Callback] | None) -> list[Callback]:
    return callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]


def _cuts(value: Any, whole: Any) -> bool:
    return value != whole and not (isinstance(value, float) and value == 1.0)


def cut(options: Mapping[str, Any]) -> str:
    """Name the options of `trainer` that end training early, as the end of a description of the data; "" if none."""
    set_ = [f"trainer.{name}={options[name]}" for name, whole in CUTS.items() if _cuts(options.get(name, whole), whole)]
    return f"; TRAINING CUT by {', '.join(set_)}" if set_ else ""
