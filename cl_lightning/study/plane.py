"""Draw the stability-plasticity plane of a sequence: each method's curve over learning rates, and the front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_lightning.results.page.comparing.plane import front
from cl_lightning.results.page.comparing.selection import height, key, look, named
from cl_lightning.results.page.drawing import tip
from cl_lightning.results.page.palette import MUTED
from cl_lightning.results.page.parts import Chart
from cl_lightning.results.page.sections.plane import diagonal
from cl_lightning.results.tables import Rows
from cl_lightning.study.statistics import Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Learning rate, ap and fp.
Curve = list[tuple[float, float, float]]


def chart(found: Findings, sequence: str) -> Chart | None:
    """Build the chart; None without a method in the plane."""
    curves = {method: curve for method in found.grid.methods if (curve := found.curve(method, sequence))}
    if not curves:
        return None
    named_points = [(f"{method} at {rate:g}", (ap, fp)) for method, curve in curves.items() for rate, ap, fp in curve]
    names, points = zip(*named_points, strict=True)
    best = front(points)
    rows = [[name, *point, "yes" if i in best else "no"] for i, (name, point) in enumerate(named_points)]
    return Chart(
        f"plane_{sequence}",
        f"{sequence}: score when learnt and at the end, over learning rates",
        f"Scatter plot of {len(curves)} methods. On the Pareto front: {', '.join(names[i] for i in best)}.",
        Rows("", ["method", "ap", "fp", "on the front"], rows),
        lambda figure: _draw(figure, found.grid.methods, curves, [points[i] for i in best]),
        (3.4, height(len(curves), 3.2)),
    )


def _draw(figure: Figure, methods: tuple[str, ...], curves: dict[str, Curve], best: list[tuple[float, float]]) -> None:
    axes = figure.subplots()
    diagonal(axes)
    axes.plot(*zip(*best, strict=True), color=MUTED, linewidth=1, linestyle="--", label="Pareto front")
    for method, curve in curves.items():
        style = look(methods.index(method))
        rates, xs, ys = zip(*curve, strict=True)
        axes.plot(xs, ys, color=style["color"], linewidth=0.9, zorder=2)
        for rate, x, y in curve:
            first = {"label": named(method)} if rate == rates[0] else {}
            mark = axes.scatter([x], [y], s=20, c=style["color"], marker=style["marker"], zorder=3, **first)
            tip(mark, f"{method}, lr {rate:g}: {x:.2f} when learnt, {y:.2f} at the end")
    ends = [value for curve in curves.values() for _, x, y in curve for value in (x, y)]
    low, high = min(ends) - 3, max(ends) + 3
    axes.set(xlim=(low, high), ylim=(low, high))
    key(figure)
