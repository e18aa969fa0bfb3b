"""Prints and logs the score matrix after every task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_lightning.sequence.callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence.context import RunContext


class ScoreMatrix(TaskCallback):
    """Print the row of R in one line after each task, and log scores and sequence metrics."""

    def on_task_scored(self, run: RunContext, task: int) -> None:
        row = {
            name: score
            for name, score in zip(run.data.columns, run.record.matrix[task], strict=True)
            if score is not None
        }
        cells = "  ".join(f"{name} {score:.1f}" for name, score in row.items())
        run.say(f"  scores after task {task + 1}/{len(run.order)}: {cells}")
        metrics = {f"cl/{k}": v for k, v in run.record.summary().items() if v is not None}
        cells_by_task = {f"task/{name}/score": score for name, score in row.items()}
        also = run.record.further.get(run.order[task], {})
        further = {f"task/{name}/{m}": value["score"] for name, each in also.items() for m, value in each.items()}
        new = {"cl/learned": row[run.order[task]]} if run.order[task] in row else {}
        run.log({**metrics, **cells_by_task, **further, **new, "cl/tasks_done": task + 1})
