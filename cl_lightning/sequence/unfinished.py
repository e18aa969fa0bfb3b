"""What is saved of the task that a run works on, so that the same command goes on inside it.

The record is that of the last finished task and has this beside it, under "unfinished". Boundary work is not saved: it
is a function of what is, and done again. The trained tensors, the optimiser and the random streams lie in a checkpoint
of Lightning's; which steps and cells are done is here.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from cl_lightning.sequence.loggers import Clock

#: Nothing is trained yet; a checkpoint is kept; all steps are done and the branch is frozen.
Stage = Literal["start", "training", "scoring"]


@dataclass
class Unfinished:
    """The state inside a task.

    Attributes:
        task: its index, which is the number of finished tasks.
        stage: how far it is.
        step: optimiser steps done.
        epoch: passes over its examples done.
        batches: micro-batches of a rank done in this pass.
        checkpoint: file with the state of the training; None without one.
        measured_base: callbacks have seen the base model, and their state files are of that moment.
        trained: number of trained parameters, once known.
        attempts: number of processes that worked on the run until now.
        clock: the run's axes at `step`.
        costs: what the task has cost so far.
        cells: scores of this task so far, [after][task] -> score, interval and further metrics.
    """

    task: int
    stage: Stage = "start"
    step: int = 0
    epoch: int = 0
    batches: int = 0
    checkpoint: str | None = None
    measured_base: bool = False
    trained: int | None = None
    attempts: int = 0
    clock: dict[str, int] = field(default_factory=lambda: vars(Clock()))
    costs: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def restored(self) -> int:
        """Number of tasks whose branches and callbacks' states are restored."""
        return self.task + (self.stage == "scoring")


def unfinished_of(record: dict[str, Any]) -> Unfinished | None:
    """Return what a record has saved of the task after the finished ones; None: nothing."""
    stored = record["unfinished"]
    if stored is None:
        return None
    return Unfinished(**{key: value for key, value in stored.items() if key not in ("files", "large")})
