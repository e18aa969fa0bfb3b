"""Logs, after every task, R as a picture and a table, the stability-plasticity plane and sample predictions."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from cl_lightning.common.terminal import printable
from cl_lightning.metrics.matrix import is_whole
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.media import Grid, Picture, Scatter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cl_lightning.sequence.context import RunContext

LEARNT, NOW = "when learnt", "now"


class Charts(TaskCallback):
    """Give loggers that show more than numbers (wandb, TensorBoard, MLflow) what a report shows of the scores.

    Logs under `scores/R`, `scores/R_picture`, `scores/plane` and `scores/predictions`.
    """

    def on_task_scored(self, run: RunContext, task: int) -> None:
        done = run.order[: task + 1]
        rows = [[name, *row] for name, row in zip(done, run.record.matrix, strict=True)]
        shown = {
            "scores/R": Grid(["after", *run.data.columns], rows),
            "scores/R_picture": _picture(run),
            "scores/predictions": _predictions(run, task),
        }
        if run.data.protocol.builds_on and is_whole(run.record.matrix, task):
            shown["scores/plane"] = _plane(run, task)
        run.log(shown)


def _predictions(run: RunContext, task: int) -> Grid:
    """Sample answers of the model after a task, on each task that was scored."""
    columns = ["after", "task", "id", "prediction", "reference", "score"]
    scores = zip(run.data.columns, run.record.matrix[task], strict=True)
    rows = [
        [run.order[task], name, row["id"], row["prediction"], str(row["reference"]), row["score"]]
        for name, score in scores
        if score is not None
        for row in run.record.samples[name]
    ]
    return Grid(columns, rows)


def _plane(run: RunContext, task: int) -> Scatter:
    """A point for each task so far, their mean, and the untrained model's mean."""
    R, order, zero = run.record.matrix, run.order, (run.record.zero_shot or [])[: task + 1]
    points = [[order[j], R[j][j], R[task][j]] for j in range(task + 1)]
    points.append(["mean", *(fmean(point[side] for point in points) for side in (1, 2))])
    if zero and None not in zero:  # of a continued run, new tasks have none
        points.append(["zero-shot, mean", *[fmean(zero)] * 2])
    title = f"Score {LEARNT} (plasticity) and {NOW} (stability), after task {task + 1}"
    return Scatter(["task", LEARNT, NOW], points, LEARNT, NOW, title)


def _picture(run: RunContext) -> Picture:
    """R as a heat map."""
    names, R = [printable(name) for name in run.data.columns], [list(row) for row in run.record.matrix]
    after = [printable(name) for name in run.order[: len(R)]]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        cells = [[float("nan") if score is None else score for score in row] for row in R]
        picture = axes.imshow(cells, vmin=0, vmax=100, cmap="cividis")
        for i, row in enumerate(R):
            for j, score in enumerate(row):
                if score is not None:
                    ink = "white" if score < 50 else "black"
                    axes.text(j, i, f"{score:.0f}", ha="center", va="center", color=ink, fontsize=8)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(after)), after, parse_math=False)
        axes.set(xlabel="score on", ylabel="after learning")
        figure.colorbar(picture, ax=axes)

    return Picture(draw, (3.0 + 0.4 * len(names), 2.2 + 0.3 * len(after)))
