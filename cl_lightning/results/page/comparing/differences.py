"""Differences from the baseline, with paired intervals over the test examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_lightning.metrics.bootstrap import Interval
from cl_lightning.results.comparison.table import Difference
from cl_lightning.results.page.comparing.selection import Selection, look, named
from cl_lightning.results.page.palette import INK
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: (row, method, metric, difference).
Found = list[tuple[int, str, str, Difference]]


def section(selection: Selection) -> Section | Missing:
    """Build a chart for each column, with a panel for each metric."""
    charts = []
    for c, name, suffix in selection.columns():
        found = _found(selection, c)
        if found:
            charts.append(_chart(found, name, suffix))
    if not charts:
        return Missing("differences: no two methods share a column and a seed")
    text = [
        f"Each method less {selection.table.methods[selection.baseline]}, on the same seeds and test examples. "
        "Where the 95 % interval contains 0, the test examples do not distinguish the two. Intervals are not widened "
        "for their number.",
    ]
    return Section("Differences", text, charts=charts)


def _found(selection: Selection, column: int) -> Found:
    pairs = [(r, name, metric) for metric in selection.metrics for r, name in enumerate(selection.table.methods)]
    made = [
        (r, name, metric, selection.table.difference(r, selection.baseline, column, metric))
        for r, name, metric in pairs
        if r != selection.baseline
    ]
    return [(r, name, metric, each) for r, name, metric, each in made if each is not None]


def verdict(ends: Interval) -> str:
    """Return "higher", "lower", or "not told apart" where the interval contains 0."""
    low, high = ends
    return "higher" if low > 0 else "lower" if high < 0 else "not told apart"


def _chart(found: Found, name: str, suffix: str) -> Chart:
    rows = []
    for _, method, metric, each in found:
        ends = f"{each.interval[0]:+.2f} .. {each.interval[1]:+.2f}"
        rows.append([method, metric, f"{each.mean:+.2f}", ends, each.seeds, verdict(each.interval)])
    metrics = list(dict.fromkeys(metric for _, _, metric, _ in found))
    apart = sum(verdict(each.interval) != "not told apart" for *_, each in found)
    return Chart(
        f"differences_{name}",
        f"Differences from the baseline{suffix} (lines: paired 95 % intervals)",
        f"Points with intervals of {len(found)} differences in {', '.join(metrics)}; {apart} of them differ from 0.",
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
