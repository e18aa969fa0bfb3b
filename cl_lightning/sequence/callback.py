"""Task callbacks: Lightning callbacks with additional hooks at task boundaries.

A TaskCallback lives through the whole sequence (stock callbacks are copied per task) in a named slot of the
configuration: `boundary` callbacks change the model or the data, `observers` never change a score.
Order of a task: on_task_start (boundary slots by `phase`) -> Lightning's own hooks -> on_task_end -> scoring ->
on_task_scored. Hooks run on every rank and write files through `run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch.callbacks import Callback

from cl_lightning.common.described import Described
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.mix import NEW_ONLY, Mix

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch import Tensor

    from cl_lightning.model.module import ContinualLM, Step
    from cl_lightning.sequence.context import RunContext
    from cl_lightning.sequence.rehearsal import Rehearsal
    from cl_lightning.sequence.stages import Stages


@dataclass
class Table:
    """A table that is printed at the end of the run and stored in the run folder."""

    title: str
    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list)


class TaskCallback(Described, Callback):
    """Hooks at task boundaries. `phase` orders boundary callbacks: memory 10, subspaces 20, gates 30, init 40."""

    phase: ClassVar[int] = 50

    @property
    def private(self) -> bool:
        """Whether `state` or `tensors` give training texts away; only the owner may read their files then."""
        return False

    @property
    def mix(self) -> Mix:
        """How it mixes replayed examples into training, from the second task on."""
        return NEW_ONLY

    def setup(self, trainer: Trainer, pl_module: ContinualLM, stage: str) -> None:
        """Raise ConfigError in a Trainer of the user's own, which has no task boundaries."""
        if not pl_module.in_run:
            raise ConfigError(
                f"{type(self).__name__} works at the boundaries of tasks, which a Trainer does not have; give it to "
                "cl_lightning.ContinualTrainer as one of boundary= or observers="
            )

    def check(self, slots: dict[str, TaskCallback], adapter: Any) -> list[str]:
        """Return reasons not to run with these slots and this strategy, one line each, before anything is loaded."""
        return []

    def check_run(self, run: RunContext) -> None:
        """Check options against the model's shapes and the data's sizes, before anything is written.

        Raises:
            UserError: one line that names the option.
        """

    def on_sequence_start(self, run: RunContext) -> None:
        """Called once per process, after finished tasks are restored and before the first task."""

    def on_base(self, run: RunContext) -> None:
        """Called in the first task's setup stage like on_task_start, while the model is still the base."""

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Repeat on tensors without data what takes memory from `on_task_start` on, for `cl-lightning plan`.

        Called for each task. Callbacks that do not have it are said to be left out of the plan.
        """

    def on_task_start(self, run: RunContext, task: int) -> None:
        """Called in fit's setup stage: model on its device, process group exists, no DDP wrapper or optimiser yet."""

    def loss_terms(self, step: Step) -> dict[str, Tensor]:
        """Return the terms to add to the loss of this micro-batch, by name."""
        return {}

    def on_stage(self, run: RunContext, stages: Stages) -> None:
        """Called when a stage begins, or goes on after one within it (gradients, training, scoring, ...); `stages`
        counts what is done, and knows the time left."""

    def work(self, run: RunContext, task: int) -> dict[str, float]:
        """Return the units of work in a task that are known before the run, by stage, for the time left.

        Those of `training` are tokens, of `gradients` and `inputs` examples of a rank. Stages that no callback names
        are expected to cost what they did in the task before.
        """
        return {}

    def on_task_end(self, run: RunContext, task: int) -> None:
        """Called after the last optimiser step, before the branch is frozen."""

    def on_task_scored(self, run: RunContext, task: int) -> None:
        """Called after scoring, once the state is on disk; `run.record.matrix[task]` is the new row."""

    def on_sequence_end(self, run: RunContext) -> None:
        """Called after the last task's state is on disk."""

    def state(self) -> dict[str, Any]:
        """Return the state to keep for the next task, as JSON values. Saved after each task."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the output of `state`."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the large part of the state: contiguous tensors on the CPU."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore the output of `tensors`."""

    def tables(self) -> list[Table]:
        """Return this callback's tables for the final report."""
        return []


def mix_of(boundary: Mapping[str, TaskCallback]) -> Mix:
    """Return how these callbacks mix replayed examples into training; at most one of them does."""
    return next((mix for one in boundary.values() if (mix := one.mix) != NEW_ONLY), NEW_ONLY)
