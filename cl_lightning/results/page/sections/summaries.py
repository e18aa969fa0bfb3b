"""Charts AP, FP, forgetting and AAA after each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cl_lightning.metrics.bootstrap import Interval, format_interval, percentiles
from cl_lightning.metrics.matrix import CONVENTIONS, is_whole
from cl_lightning.results import thinned
from cl_lightning.results.page.palette import series
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section
from cl_lightning.results.page.source import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("ap", "fp", "aaa", "forget_T")


def section(run: Source) -> Section | Missing:
    """Build a chart of these metrics in `curves.csv`, with intervals."""
    if not run.protocol.builds_on or len(run.done) < 2:
        return Missing("sequence metrics after each task: they need two tasks, one learnt after the other")
    values = [run.protocol.summary(run.R[: i + 1]) for i in range(len(run.done))]
    ends = [_intervals(run, i + 1) for i in range(len(run.done))]
    heads = ["after", *(head for name in SHOWN for head in (name, "95 % interval"))]
    rows = [
        [after, *(cell for name in SHOWN for cell in (values[i][name], format_interval(ends[i].get(name))))]
        for i, after in enumerate(run.done)
    ]
    at_end = ", ".join(f"{name} {value:.1f}" for name in SHOWN if (value := values[-1][name]) is not None)
    chart = Chart(
        "summaries",
        "AP, FP, AAA and forgetting over the tasks (bands: 95 % intervals)",
        f"Line chart of four metrics over {len(run.done)} tasks. At the end: {at_end}.",
        Rows("", heads, rows),
        lambda figure: _draw(figure, values, ends),
        (3.4, 2.8),
    )
    text = [f"{name}: {CONVENTIONS[name]}." for name in SHOWN] + thinned.sentences(run.record)
    return Section("Sequence metrics after each task", text, charts=[chart])


def _intervals(run: Source, done: int) -> dict[str, Interval]:
    """Return the interval of each metric after `done` tasks; {} without predictions."""
    if run.resampled is None:
        return {}
    R = run.resampled[:, :done, :done]
    learnt = np.diagonal(R, axis1=1, axis2=2).mean(-1)
    if not is_whole(run.R, done - 1):
        return {"ap": percentiles(learnt)}
    means = np.stack([R[:, i, : i + 1].mean(-1) for i in range(done) if is_whole(run.R, i)])
    drawn = {"ap": learnt, "fp": means[-1], "aaa": means.mean(0), "forget_T": learnt - means[-1]}
    return {name: percentiles(values) for name, values in drawn.items()}


def _draw(figure: Figure, values: list[dict[str, float | None]], ends: list[dict[str, Interval]]) -> None:
    axes, steps = figure.subplots(), range(1, len(values) + 1)
    for k, name in enumerate(SHOWN):
        look, there = series(k), [step for step in steps if values[step - 1][name] is not None]
        axes.plot(there, [values[step - 1][name] for step in there], label=name, **look)
        if all(name in ends[step - 1] for step in there):
            lows, highs = ([ends[step - 1][name][side] for step in there] for side in (0, 1))
            axes.fill_between(there, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="tasks learnt", ylabel="score, points")
    axes.set_xticks(range(1, len(values) + 1, 1 + len(values) // 10))
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=4)
