"""Prints and logs the score matrix after every task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_lightning.sequence.callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence.run import SequenceRun


class ScoreMatrix(TaskCallback):
    """After each task: its row of R in one line; scores and sequence metrics to the loggers."""

    def on_task_scored(self, run: SequenceRun, task: int) -> None:
        row = {name: score for name, score in zip(run.columns, run.matrix[task], strict=True) if score is not None}
        cells = "  ".join(f"{name} {score:.1f}" for name, score in row.items())
        run.say(f"  scores after task {task + 1}/{len(run.order)}: {cells}")
        metrics = {f"cl/{k}": v for k, v in run.summary().items() if v is not None}
        scores = {f"task/{name}/score": score for name, score in row.items()}
        also = run.further.get(run.order[task], {})
        further = {f"task/{name}/{m}": value["score"] for name, each in also.items() for m, value in each.items()}
        new = {"cl/learned": row[run.order[task]]} if run.order[task] in row else {}
        run.log({**metrics, **scores, **further, **new, "cl/tasks_done": task + 1})
