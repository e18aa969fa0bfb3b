"""Charts each task's score over the sequence, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_lightning.metrics.bootstrap import format_interval
from cl_lightning.results.page.palette import MUTED, SERIES
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section, label
from cl_lightning.results.page.source import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def section(run: Source) -> Section | Missing:
    """Build a chart with a panel for each task."""
    if not run.protocol.builds_on or len(run.done) < 2:
        return Missing("curves over the sequence: they need two tasks, one learnt after the other")
    return Section("Each task over the sequence", charts=[_chart(run)])


def _points(run: Source, task: int) -> list[tuple[int, float]]:
    """Return (row, score) of each score of a task."""
    return [(i, row[task]) for i, row in enumerate(run.R) if row[task] is not None]


def _chart(run: Source) -> Chart:
    across = 2 if len(run.done) <= 4 else 4
    down = -(-len(run.done) // across)
    rows = []
    for j, name in enumerate(run.done):
        for i, score in _points(run, j):
            rows.append([name, f"after {run.done[i]}", score, format_interval(run.cell(run.done[i], name))])
    ends = [(name, _points(run, j)) for j, name in enumerate(run.done[:-1])]
    falls = [f"{name} from {points[0][1]:.1f} to {points[-1][1]:.1f}" for name, points in ends]
    return Chart(
        "curves",
        "Score on each task after each later one (band: 95 % interval over its test examples; dashed: untrained model)",
        f"One line chart for each of {len(run.done)} tasks. When it was learnt and last scored: {', '.join(falls)}.",
        Rows("", ["task", "model", "score", "95 % interval"], rows),
        lambda figure: _draw(figure, run, down, across),
        (3.4 if across == 2 else 7.0, 0.5 + 1.15 * down),
    )


def _draw(figure: Figure, run: Source, down: int, across: int) -> None:
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for j, axes in enumerate(grid.flat):
        if j >= len(run.done):
            axes.set_visible(False)
            continue
        points = _points(run, j)
        steps, scores = [i + 1 for i, _ in points], [score for _, score in points]
        ends = [run.cell(run.done[i], run.done[j]) for i, _ in points]
        if all(ends):
            lows, highs = ([pair[side] for pair in ends if pair] for side in (0, 1))
            # A band of one point is invisible, so bars are drawn, too.
            axes.fill_between(steps, lows, highs, color=SERIES[0], alpha=0.2, linewidth=0)
            axes.vlines(steps, lows, highs, color=SERIES[0], alpha=0.35, linewidth=0.8)
        axes.plot(steps, scores, marker="o", color=SERIES[0])
        if run.record["zero_shot"] is not None:
            axes.axhline(run.record["zero_shot"][j], color=MUTED, linestyle="--", linewidth=0.8)
        axes.set_title(label(run.done[j], 18), loc="left", pad=3)
        axes.set(xlim=(0.6, len(run.done) + 0.4), ylim=(-4, 104), yticks=[0, 50, 100])
        axes.set_xticks(range(1, len(run.done) + 1, 1 + len(run.done) // 8))
        axes.grid(axis="y")
    figure.supxlabel("tasks learnt", fontsize=8)
    figure.supylabel("score", fontsize=8)
