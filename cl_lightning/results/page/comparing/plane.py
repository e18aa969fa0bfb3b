"""Charts methods in the stability-plasticity plane, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cl_lightning.metrics.bootstrap import format_interval
from cl_lightning.results.comparison.table import Aggregate
from cl_lightning.results.page.comparing.selection import Selection, height, key, look, named
from cl_lightning.results.page.drawing import tip
from cl_lightning.results.page.palette import MUTED
from cl_lightning.results.page.papers import SLICE_TABLE
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section
from cl_lightning.results.page.sections.plane import diagonal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = tuple[int, str, Aggregate, Aggregate]


def section(selection: Selection) -> Section | Missing:
    """Build a plane for each column. Runs with another learning rate are another method."""
    charts = []
    for c, name, suffix in selection.columns():
        aps = {row: figure for row, _, figure in selection.found(c, "ap")}
        points = [(row, method, aps[row], fp) for row, method, fp in selection.found(c, "fp") if row in aps]
        if points:
            charts.append(_chart(points, name, suffix))
    if not charts:
        return Missing("stability-plasticity plane: no run learns one task after the other")
    text = [
        "Higher and further to the right is better. The front joins the methods whose means no other method "
        "exceeds in both; where intervals overlap, other test examples may give another front."
    ]
    return Section("Stability and plasticity", text, charts=charts)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the Pareto-optimal points, sorted by the first coordinate.

    Example:
        >>> front([(1.0, 3.0), (2.0, 2.0), (1.5, 1.5), (3.0, 1.0)])
        [0, 1, 3]
    """

    def beaten(x: float, y: float) -> bool:
        return any(u >= x and v >= y and (u, v) != (x, y) for u, v in points)

    return sorted((i for i, point in enumerate(points) if not beaten(*point)), key=lambda i: points[i])


def _chart(points: list[Point], name: str, suffix: str) -> Chart:
    best = front([(ap.mean, fp.mean) for _, _, ap, fp in points])
    rows = [
        [
            method,
            ap.mean,
            format_interval(ap.interval),
            fp.mean,
            format_interval(fp.interval),
            "yes" if i in best else "no",
        ]
        for i, (_, method, ap, fp) in enumerate(points)
    ]
    on_it = ", ".join(points[i][1] for i in best)
    return Chart(
        f"plane_{name}",
        f"Mean score when learnt and at the end{suffix} (lines: 95 % intervals)",
        f"Scatter plot of {len(points)} methods. On the Pareto front: {on_it}.",
        Rows("", ["method", "ap", "95 % interval", "fp", "95 % interval", "on the front"], rows),
        lambda figure: _draw(figure, points, best),
        (3.4, height(len(points), 3.2)),
        [SLICE_TABLE],
    )


def _draw(figure: Figure, points: list[Point], best: list[int]) -> None:
    axes = figure.subplots()
    diagonal(axes)
    axes.plot(
        [points[i][2].mean for i in best], [points[i][3].mean for i in best],
        color=MUTED, linewidth=1, linestyle="--", label="Pareto front",
    )  # fmt: skip
    for row, method, ap, fp in points:
        style = look(row)
        for ends, along in ((ap.interval, axes.hlines), (fp.interval, axes.vlines)):
            along((fp if along == axes.hlines else ap).mean, *ends, color=style["color"], linewidth=0.8)
        mark = axes.scatter([ap.mean], [fp.mean], s=26, c=style["color"], marker=style["marker"], label=named(method))
        tip(mark, f"{method}: {ap.mean:.2f} when learnt, {fp.mean:.2f} at the end")
    _close_up(figure, points)
    key(figure)


def _close_up(figure: Figure, points: list[Point]) -> None:
    """Limit the axes to the range of the points, because methods lie close together."""
    xs = [end for _, _, ap, _ in points for end in ap.interval]
    ys = [end for _, _, _, fp in points for end in fp.interval]
    low, high = min(*xs, *ys), max(*xs, *ys)
    room = max(2.0, 0.05 * (high - low))
    axes = figure.axes[0]
    axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
