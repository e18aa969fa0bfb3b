"""The content of a comparison's page, and helpers of its charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_lightning.results.comparison.table import Aggregate, Comparison
from cl_lightning.results.page.palette import series
from cl_lightning.results.page.parts import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Largest number of characters of a method's name in a figure.
NAME = 30


@dataclass(frozen=True)
class Selection:
    """The table of runs, the selected metrics, and the row of the baseline."""

    table: Comparison
    metrics: Sequence[str]
    baseline: int

    def columns(self) -> list[tuple[int, str, str]]:
        """Return (index, name, suffix of a chart's title) of each column."""
        names = self.table.columns
        return [(c, name, f", column {name}" if len(names) > 1 else "") for c, name in enumerate(names)]

    def found(self, column: int, metric: str) -> list[tuple[int, str, Aggregate]]:
        """Return (row, method, aggregate) of each method that has the metric in a column."""
        rows = ((r, name, self.table.aggregate(r, column, metric)) for r, name in enumerate(self.table.methods))
        return [(r, name, figure) for r, name, figure in rows if figure is not None]


def look(row: int) -> dict[str, str]:
    """Return colour, marker and line of a method, the same in every chart."""
    return series(row)


def key(figure: Figure) -> None:
    """Add a legend with one method per line below the chart."""
    figure.legend(loc="outside lower left", ncols=1)


def height(methods: int, rest: float) -> float:
    """Return the height in inches of a chart with the legend of `key`."""
    return rest + 0.17 * methods


def named(method: str) -> str:
    """Return a method's name for a figure."""
    return label(method, NAME)
