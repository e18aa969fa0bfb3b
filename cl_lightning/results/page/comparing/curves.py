"""Charts FP after each task for each method: mean over seeds, with a band of one standard deviation."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING

from cl_lightning.metrics.matrix import is_whole
from cl_lightning.results.page.comparing.selection import Selection, height, key, look, named
from cl_lightning.results.page.papers import GAIN_CURVES, GAIN_SWEPT
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: (row, method, number of tasks -> values of the seeds).
Line = tuple[int, str, dict[int, list[float]]]


def section(selection: Selection) -> Section | Missing:
    """Build a chart for each column."""
    charts = []
    for c, name, suffix in selection.columns():
        lines = [line for r, method in enumerate(selection.table.methods) if (line := _line(selection, r, c, method))]
        if any(len(values) > 1 for _, _, values in lines):
            charts.append(_chart(lines, name, suffix))
    if not charts:
        return Missing("curves over the sequence: no run learns one task after the other")
    return Section("Over the sequence", ["The mean score of the tasks learnt so far, after each task."], charts=charts)


def _line(selection: Selection, row: int, column: int, method: str) -> Line | None:
    runs = [run for run in selection.table.cells.get((row, column), []) if run.protocol.builds_on]
    if not runs:
        return None
    steps = [i + 1 for i in range(len(runs[0].R)) if all(is_whole(run.R, i) for run in runs)]
    return row, method, {n: [run.protocol.metrics["fp"](run.R[:n]) for run in runs] for n in steps}


def _chart(lines: list[Line], name: str, suffix: str) -> Chart:
    tasks = max(max(values) for _, _, values in lines)
    scored = sorted({n for _, _, values in lines for n in values})
    rows = [[method, *(_figure(values[n]) if n in values else "" for n in scored)] for _, method, values in lines]
    ends = ", ".join(f"{method} {fmean(values[max(values)]):.1f}" for _, method, values in lines)
    return Chart(
        f"curves_{name}",
        f"FP after each task{suffix} (band: ± standard deviation over seeds)",
        f"Line chart of {len(lines)} methods over {tasks} tasks. At the end: {ends}.",
        Rows("", ["method", *("1 task" if n == 1 else f"{n} tasks" for n in scored)], rows),
        lambda figure: _draw(figure, lines, tasks),
        (3.4, height(len(lines), 2.4)),
        [GAIN_CURVES, GAIN_SWEPT],
    )


def _figure(values: list[float]) -> str:
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _draw(figure: Figure, lines: list[Line], tasks: int) -> None:
    axes = figure.subplots()
    for row, method, values in lines:
        steps, means, style = list(values), [fmean(at) for at in values.values()], look(row)
        axes.plot(steps, means, label=named(method), **style)
        if len(values[steps[0]]) > 1:
            spreads = [stdev(at) for at in values.values()]
            lows, highs = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            axes.fill_between(steps, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="tasks learnt", ylabel="FP")
    axes.set_xticks(range(1, tasks + 1, 1 + tasks // 10))
    axes.grid(axis="y")
    key(figure)
