"""Training protocols (`data.protocol`): tasks in sequence, all at once, or each alone. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from cl_lightning.metrics.matrix import (
    CONVENTIONS,
    THINNED,
    Matrix,
    Row,
    ap,
    independent_summary,
    joint_fp,
    joint_summary,
    summary,
)

ProtocolName = Literal["sequential", "joint", "independent"]


@dataclass(frozen=True)
class Protocol:
    """One way to train on several tasks.

    Attributes:
        name: as in `data.protocol` and in the record.
        opening: format of the task count in the first lines of a run.
        scored: (task, number of tasks) -> the columns scored after training `task`, unless `Thinning` leaves some out.
        summarise: computes the sequence metrics once a task is done.
        metrics: the metrics that need only R, by name. What a record's R must have is checked when it is read.
        builds_on: whether a task starts from the adapters of earlier tasks.
        together: whether all tasks are trained as one.
        alone: whether each task starts from the base model.
    """

    name: ProtocolName
    opening: str
    scored: Callable[[int, int], range]
    summarise: Callable[[Matrix, Row | None], dict[str, float | None]]
    metrics: dict[str, Callable[[Matrix], float]]
    builds_on: bool = False
    together: bool = False
    alone: bool = False

    def summary(self, R: Matrix, zero_shot: Row | None = None) -> dict[str, float | None]:
        """Compute all sequence metrics; None for those undefined, as all are before the first task is done."""
        return self.summarise(R, zero_shot) if R else dict.fromkeys(CONVENTIONS)


SEQUENTIAL = Protocol(
    "sequential",
    "{} tasks, each",
    lambda task, count: range(task + 1),
    partial(summary, thinned=True),
    THINNED,
    builds_on=True,
)
JOINT = Protocol(
    "joint",
    "joint training on {} tasks together,",
    lambda task, count: range(count),
    joint_summary,
    {"fp": joint_fp},
    together=True,
)
INDEPENDENT = Protocol(
    "independent",
    "{} tasks, each from the base model,",
    lambda task, count: range(task, task + 1),
    independent_summary,
    {"ap": ap},
    alone=True,
)
PROTOCOLS = {protocol.name: protocol for protocol in (SEQUENTIAL, JOINT, INDEPENDENT)}
