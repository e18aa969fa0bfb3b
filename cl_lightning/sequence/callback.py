"""Task-level hooks: Lightning callbacks that also work at task boundaries and watch the whole sequence.

A TaskCallback lives through the sequence (stock callbacks are copied per task) and sits in a named slot of the
configuration, `boundary` (works on the model or the data) or `observers` (watches; never changes a score).
Order of a task: on_task_start (boundary slots by `phase`) -> Lightning's own hooks -> on_task_end -> scoring ->
on_task_scored. Hooks run on every rank; what is written goes through `run`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from torch import Tensor

    from cl_lightning.model.module import Step
    from cl_lightning.sequence.context import RunContext


@dataclass
class Table:
    """A table for people: printed at the end of the run and kept in the run folder."""

    title: str
    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list)


class TaskCallback(Callback):
    """Hooks at task boundaries. `phase` orders the boundary callbacks: memory 10, subspaces 20, gates 30, init 40."""

    phase: ClassVar[int] = 50

    def check(self, slots: dict[str, TaskCallback], adapter: Any) -> list[str]:
        """Reasons not to run beside these slots and this strategy, one line each. Called before anything is loaded."""
        return []

    def check_run(self, run: RunContext) -> None:
        """Refuse what the model's shapes or the data's sizes rule out: both are known, nothing is written yet.

        Raises:
            UserError: one line, naming the option.
        """

    def on_sequence_start(self, run: RunContext) -> None:
        """Once, after restoring finished tasks, before the first task of this process."""

    def on_base(self, run: RunContext) -> None:
        """In the first task's setup stage, as on_task_start, while the model is the base: nothing was added to it."""

    def on_task_start(self, run: RunContext, task: int) -> None:
        """In fit's setup stage: model on its device, process group alive, nothing wrapped, no optimiser yet."""

    def loss_terms(self, step: Step) -> dict[str, Tensor]:
        """What is added to the loss on this micro-batch, by name."""
        return {}

    def on_task_end(self, run: RunContext, task: int) -> None:
        """After the last optimiser step, before the branch is frozen."""

    def on_task_scored(self, run: RunContext, task: int) -> None:
        """After all seen tasks were scored; `run.record.matrix[task]` is the new row."""

    def on_sequence_end(self, run: RunContext) -> None:
        """After the last task's state is on disk."""

    def state(self) -> dict[str, Any]:
        """What must survive to the next task, as JSON values. Saved after each task."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""

    def tensors(self) -> dict[str, Tensor]:
        """As `state`, what is large: contiguous tensors on the CPU."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""

    def tables(self) -> list[Table]:
        """What the final report shows of this callback."""
        return []
