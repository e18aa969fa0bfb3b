"""Prints and logs the score matrix after every task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_lightning.evaluation.matrix import summary
from cl_lightning.task_callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence import SequenceRun


class ScoreMatrix(TaskCallback):
    """After each task: its row of R in one line; scores and sequence metrics to the loggers."""

    def on_task_scored(self, run: SequenceRun, task: int) -> None:
        row = run.matrix[task][: task + 1]
        cells = "  ".join(f"{name} {score:.1f}" for name, score in zip(run.order, row, strict=False))
        run.say(f"  scores after task {task + 1}/{len(run.order)}: {cells}")
        metrics = {f"cl/{k}": v for k, v in summary([r[: task + 1] for r in run.matrix]).items() if v is not None}
        scores = {f"task/{name}/score": score for name, score in zip(run.order, row, strict=False)}
        run.log({**metrics, **scores, "cl/learned": row[-1], "cl/tasks_done": task + 1})
