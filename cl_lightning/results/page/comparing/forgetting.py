"""Charts the forgetting of each method as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_lightning.metrics.bootstrap import format_interval
from cl_lightning.metrics.matrix import CONVENTIONS
from cl_lightning.results.comparison.table import Aggregate
from cl_lightning.results.page.comparing.selection import Selection, look, named
from cl_lightning.results.page.palette import INK
from cl_lightning.results.page.papers import SLICE_TABLE
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = list[tuple[int, str, Aggregate]]


def section(selection: Selection) -> Section | Missing:
    """Build a chart for each column."""
    charts = [
        _chart(found, name, suffix)
        for c, name, suffix in selection.columns()
        if (found := selection.found(c, "forget_T"))
    ]
    if not charts:
        return Missing("forgetting: no run learns one task after the other")
    return Section("Forgetting", [f"forget_T: {CONVENTIONS['forget_T']}. Lower is better."], charts=charts)


def _chart(found: Found, name: str, suffix: str) -> Chart:
    rows = [
        [method, figure.mean, figure.sd, format_interval(figure.interval), figure.seeds] for _, method, figure in found
    ]
    values = ", ".join(f"{method} {figure.mean:.1f}" for _, method, figure in found)
    return Chart(
        f"forgetting_{name}",
        f"Points forgotten{suffix} (lines: 95 % intervals)",
        f"Bars of {len(found)} methods: {values}.",
        Rows("", ["method", "forget_T", "sd over seeds", "95 % interval", "seeds"], rows),
        lambda figure: _draw(figure, found),
        (3.4, 0.9 + 0.24 * len(found)),
        [SLICE_TABLE],
    )


def _draw(figure: Figure, found: Found) -> None:
    axes = figure.subplots()
    for place, (row, _, aggregate) in enumerate(found):
        axes.barh(place, aggregate.mean, 0.65, color=look(row)["color"])
        axes.hlines(place, *aggregate.interval, color=INK, linewidth=1)
    axes.set_yticks(range(len(found)), [named(method) for _, method, _ in found])
    axes.invert_yaxis()
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.set_xlabel("points forgotten")
    axes.grid(axis="x")
