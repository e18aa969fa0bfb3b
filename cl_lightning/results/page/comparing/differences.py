"""Differences from the baseline with paired intervals: which ones the test examples tell from nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_lightning.metrics.bootstrap import Interval
from cl_lightning.results.comparison.table import Difference
from cl_lightning.results.page.comparing.asked import Asked, look, named
from cl_lightning.results.page.palette import INK
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: (row, method, metric, difference).
Found = list[tuple[int, str, str, Difference]]


def section(asked: Asked) -> Section | Missing:
    """A chart for each column: a panel for each metric."""
    charts = []
    for c, name, told in asked.columns():
        found = _found(asked, c)
        if found:
            charts.append(_chart(found, name, told))
    if not charts:
        return Missing("differences: no two methods share a column and a seed")
    text = [
        f"Each method less {asked.table.methods[asked.baseline]}, on the same seeds and test examples. Where the 95 % "
        "interval holds 0, the test examples do not tell the two apart. Intervals are not widened for their number.",
    ]
    return Section("Differences", text, charts=charts)


def _found(asked: Asked, column: int) -> Found:
    pairs = [(r, name, metric) for metric in asked.metrics for r, name in enumerate(asked.table.methods)]
    made = [
        (r, name, metric, asked.table.difference(r, asked.baseline, column, metric))
        for r, name, metric in pairs
        if r != asked.baseline
    ]
    return [(r, name, metric, each) for r, name, metric, each in made if each is not None]


def verdict(ends: Interval) -> str:
    """What a difference's interval says."""
    low, high = ends
    return "higher" if low > 0 else "lower" if high < 0 else "not told apart"


def _chart(found: Found, name: str, told: str) -> Chart:
    rows = []
    for _, method, metric, each in found:
        ends = f"{each.interval[0]:+.2f} .. {each.interval[1]:+.2f}"
        rows.append([method, metric, f"{each.mean:+.2f}", ends, each.seeds, verdict(each.interval)])
    metrics = list(dict.fromkeys(metric for _, _, metric, _ in found))
    apart = sum(verdict(each.interval) != "not told apart" for *_, each in found)
    return Chart(
        f"differences_{name}",
        f"Differences from the baseline{told} (lines: paired 95 % intervals)",
        f"Points with intervals of {len(found)} differences in {', '.join(metrics)}; {apart} of them are told from 0.",
        Rows("", ["method", "metric", "difference", "95 % interval", "seeds", "verdict"], rows),
        lambda figure: _draw(figure, found, metrics),
        (3.4, sum(0.55 + 0.2 * sum(m == metric for _, _, m, _ in found) for metric in metrics) + 0.2),
    )


def _draw(figure: Figure, found: Found, metrics: list[str]) -> None:
    parts = {metric: [(r, name, each) for r, name, m, each in found if m == metric] for metric in metrics}
    sizes = [len(part) + 1 for part in parts.values()]
    panels = figure.subplots(len(metrics), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, (metric, part) in zip(panels, parts.items(), strict=True):
        axes.axvline(0, color=INK, linewidth=0.6)
        for place, (row, _, each) in enumerate(part):
            style = look(row)
            axes.hlines(place, *each.interval, color=style["color"], linewidth=1.2)
            axes.plot([each.mean], [place], color=style["color"], marker=style["marker"])
        axes.set_yticks(range(len(part)), [named(name) for _, name, _ in part])
        axes.set_ylim(len(part) - 0.4, -0.6)
        axes.set_title(metric, loc="left", pad=3)
        axes.grid(axis="x")
    panels[-1].set_xlabel("points")
