"""Charts FP after each task for each method: mean over seeds, with a band of one standard deviation."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING

from cl_lightning.results.page.comparing.selection import Selection, height, key, look, named
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: (row, method, values of the seeds for each number of tasks).
Line = tuple[int, str, list[list[float]]]


def section(selection: Selection) -> Section | Missing:
    """Build a chart for each column."""
    charts = []
    for c, name, suffix in selection.columns():
        lines = [line for r, method in enumerate(selection.table.methods) if (line := _line(selection, r, c, method))]
        if lines and len(lines[0][2]) > 1:
            charts.append(_chart(lines, name, suffix))
    if not charts:
        return Missing("curves over the sequence: no run learns one task after the other")
    return Section("Over the sequence", ["The mean score of the tasks learnt so far, after each task."], charts=charts)


def _line(selection: Selection, row: int, column: int, method: str) -> Line | None:
    runs = [run for run in selection.table.cells.get((row, column), []) if run.protocol.builds_on]
    if not runs:
        return None
    return row, method, [[run.protocol.metrics["fp"](run.R[: i + 1]) for run in runs] for i in range(len(runs[0].R))]


def _chart(lines: list[Line], name: str, suffix: str) -> Chart:
    tasks = max(len(values) for _, _, values in lines)
    rows = [[method, *(_figure(at) for at in values)] for _, method, values in lines]
    ends = ", ".join(f"{method} {fmean(values[-1]):.1f}" for _, method, values in lines)
    return Chart(
        f"curves_{name}",
        f"FP after each task{suffix} (band: ± standard deviation over seeds)",
        f"Line chart of {len(lines)} methods over {tasks} tasks. At the end: {ends}.",
        Rows("", ["method", *(f"{i + 1} tasks" if i else "1 task" for i in range(tasks))], rows),
        lambda figure: _draw(figure, lines, tasks),
        (3.4, height(len(lines), 2.4)),
    )


def _figure(values: list[float]) -> str:
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _draw(figure: Figure, lines: list[Line], tasks: int) -> None:
    axes = figure.subplots()
    for row, method, values in lines:
        steps, means, style = range(1, len(values) + 1), [fmean(at) for at in values], look(row)
        axes.plot(steps, means, label=named(method), **style)
        if len(values[0]) > 1:
            spreads = [stdev(at) for at in values]
            lows, highs = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            axes.fill_between(steps, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="tasks learnt", ylabel="FP")
    axes.set_xticks(range(1, tasks + 1, 1 + tasks // 10))
    axes.grid(axis="y")
    key(figure)
