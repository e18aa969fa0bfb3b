"""Charts small samples of earlier tasks over the steps of later ones, as `Probes` logged them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_lightning.results.page.palette import MUTED, SERIES
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section, label
from cl_lightning.results.page.sections.losses import Line, borders, thinned
from cl_lightning.results.page.source import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFIX, KINDS = "probe/", {"loss": "loss, nats per answer token", "exact": "exact answers, %"}


def section(run: Source) -> Section | Missing:
    """Build two charts with a panel for each task."""
    charts = [_chart(run, kind) for kind in KINDS if any(_lines(run, kind).values())]
    if not charts:
        return Missing("probes of earlier tasks within training (observers.probes)")
    text = [
        "A few fixed test examples of each task, scored by likelihood while later tasks are learnt. A vertical line "
        "marks the start of a task. Exact answers are those that greedy decoding would give."
    ]
    return Section("Within each task", text, charts=charts)


def _lines(run: Source, kind: str) -> dict[str, Line]:
    """Return the series of each finished or current task that was probed."""
    found = {task: run.log.series(f"{PREFIX}{task}/{kind}") for task in run.tasks}
    return {task: line for task, line in found.items() if line[0]}


def _chart(run: Source, kind: str) -> Chart:
    lines, at = _lines(run, kind), borders(run)
    across = 2 if len(lines) <= 4 else 4
    down = -(-len(lines) // across)
    rows = [[task, len(v), *(f"{x:.4g}" for x in (v[0], v[-1], min(v), max(v)))] for task, (_, v) in lines.items()]
    ends = ", ".join(f"{task} from {v[0]:.3g} to {v[-1]:.3g}" for task, (_, v) in lines.items())
    return Chart(
        f"probes_{kind}",
        f"Probes of each task over the optimiser steps: {KINDS[kind]}",
        f"One line chart for each of {len(lines)} tasks: {ends}.",
        Rows("", ["task", "probes", "first", "last", "lowest", "highest"], rows),
        lambda figure: _draw(figure, lines, at, (down, across)),
        (3.4 if across == 2 else 7.0, 0.5 + 1.15 * down),
    )


def _draw(figure: Figure, lines: dict[str, Line], at: list[float], shape: tuple[int, int]) -> None:
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).flat
    for axes, (task, line) in zip(grid, lines.items(), strict=False):
        for border in at:
            axes.axvline(border, color=MUTED, linewidth=0.4)
        axes.plot(*thinned(line), color=SERIES[0], linewidth=0.9, marker="o", markersize=1.8)
        axes.set_title(label(task, 18), loc="left", pad=3)
        axes.grid(axis="y")
    for axes in list(grid)[len(lines) :]:
        axes.set_visible(False)
    figure.supxlabel("optimiser step", fontsize=8)
