"""Charts each task's score at the end over its score when learnt: the stability-plasticity plane."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from cl_lightning.metrics.bootstrap import Interval, format_interval
from cl_lightning.results.page.drawing import tip
from cl_lightning.results.page.palette import INK, MUTED, SERIES
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section, label
from cl_lightning.results.page.source import Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def section(run: Source) -> Section | Missing:
    """Build a chart with a point for each task, their mean, and the means of models that learn nothing."""
    if not run.protocol.builds_on or len(run.done) < 2:
        return Missing("stability-plasticity plane: it needs two tasks, one learnt after the other")
    if not run.whole:
        return Missing(f"stability-plasticity plane: old tasks were not scored after {run.done[-1]}")
    text = [
        "A point is a task, numbered in the order of training. On the diagonal nothing was forgotten, below it "
        "something was, above it the task gained later. Higher and further to the right is better."
    ]
    return Section("Stability and plasticity", text, charts=[_chart(run)])


def fixed_means(run: Source) -> dict[str, float]:
    """Means over the tasks so far of what learns nothing, by name."""
    found = {"zero-shot": run.record["zero_shot"], "majority answer": run.metrics["majority"]}
    count = len(run.tasks) if run.protocol.together else len(run.done)
    rows = {name: row[:count] for name, row in found.items() if row is not None}
    return {name: fmean(row) for name, row in rows.items() if None not in row}


def _chart(run: Source) -> Chart:
    values = run.protocol.summary(run.R)
    ap, fp = values["ap"], values["fp"]
    ends = [run.metric_intervals.get(name) for name in ("ap", "fp")]
    rows = []
    for j, name in enumerate(run.done):
        then, now = (format_interval(run.cell(after, name)) for after in (name, run.done[-1]))
        rows.append([f"{j + 1} {name}", run.R[j][j], then, run.R[-1][j], now])
    rows.append(["mean (ap, fp)", ap, format_interval(ends[0]), fp, format_interval(ends[1])])
    rows += [[f"{name}, mean", value, "", value, ""] for name, value in fixed_means(run).items()]
    fixed = ", ".join(f"{name} {value:.1f}" for name, value in fixed_means(run).items())
    return Chart(
        "plane",
        "Score when learnt, and at the end",
        f"Scatter plot of {len(run.done)} tasks. Mean when learnt {ap:.1f}, at the end {fp:.1f}."
        + (f" Models that learn nothing: {fixed}." if fixed else ""),
        Rows("", ["task", "when learnt", "95 % interval", "at the end", "95 % interval"], rows),
        lambda figure: _draw(figure, run, (ap, fp), ends),
        (3.4, 3.3),
    )


def diagonal(axes: Axes) -> None:
    """Set up the plane's axes and draw its diagonal."""
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.7, zorder=1)
    axes.set(xlim=(-3, 103), ylim=(-3, 103), aspect="equal")
    axes.set(xlabel="score when learnt (plasticity)", ylabel="score at the end (stability)")
    axes.grid()


def _draw(figure: Figure, run: Source, mean: tuple[float, float], ends: list[Interval | None]) -> None:
    axes = figure.subplots()
    diagonal(axes)
    for j, name in enumerate(run.done):
        x, y = run.R[j][j], run.R[-1][j]
        tip(axes.scatter([x], [y], s=16, color=SERIES[0], zorder=3), f"{name}: {x:.1f} when learnt, {y:.1f} at the end")
    _names(axes, run)
    if ends[0] and ends[1]:
        axes.plot(ends[0], [mean[1]] * 2, color=SERIES[1], linewidth=1.2, zorder=4)
        axes.plot([mean[0]] * 2, ends[1], color=SERIES[1], linewidth=1.2, zorder=4)
    axes.scatter(*mean, s=44, marker="D", color=SERIES[1], edgecolor=INK, linewidth=0.5, zorder=5, label="mean")
    for (name, value), marker in zip(fixed_means(run).items(), "xP", strict=False):
        axes.scatter([value], [value], s=30, marker=marker, color=MUTED, zorder=4, label=f"{name}, mean")
    figure.legend(loc="outside lower center", ncols=3, handletextpad=0.2, columnspacing=0.9)


def _names(axes: Axes, run: Source) -> None:
    """Write the tasks' numbers beside their points; neighbouring points share a label."""
    places: dict[tuple[int, int], list[int]] = {}
    for j in range(len(run.done)):
        places.setdefault((round(run.R[j][j] / 5), round(run.R[-1][j] / 4)), []).append(j)
    for near in places.values():
        text, at = label(", ".join(str(j + 1) for j in near), 14), (run.R[near[-1]][near[-1]], run.R[-1][near[-1]])
        axes.annotate(text, at, xytext=(4, 3), textcoords="offset points", fontsize=6.5)
