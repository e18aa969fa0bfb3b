"""Shows R as a heat map, and the tables of scores that the terminal shows."""

from cl_lightning.results import thinned
from cl_lightning.results.page.heat import Heat
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section
from cl_lightning.results.page.source import Source
from cl_lightning.results.tables import score_tables


def section(run: Source) -> Section | Missing:
    """Build R, last scores, further metrics and sequence metrics, with intervals."""
    if not run.R:
        return Missing("scores: no task is finished")
    heat = Heat(
        [f"after {name}" for name in run.done], run.tasks, run.R, (0, 100), "scored on", "", digits=1
    )  # fmt: skip
    rows = [[f"after {name}", *row] for name, row in zip(run.done, thinned.marked(run.record), strict=True)]
    matrix = Chart(
        "matrix",
        "Scores of each task after each task",
        _says(run),
        Rows("", ["", *run.tasks], rows),
        heat.draw,
        heat.size,
    )
    text = ["A row is the model after a task was learnt, a column a task. Scores lie in 0..100; higher is better."]
    text += thinned.sentences(run.record)
    return Section("Scores", text, charts=[matrix], tables=score_tables(run.record, run.metric_intervals))


def _says(run: Source) -> str:
    last = [(name, score) for name, score in zip(run.tasks, run.R[-1], strict=True) if score is not None]
    scores = ", ".join(f"{name} {score:.1f}" for name, score in last)
    return f"Heat map of {len(run.R)} rows and {len(run.tasks)} columns. The last row: {scores}."
