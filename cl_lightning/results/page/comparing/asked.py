"""What a comparison's page is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_lightning.results.comparison.table import Aggregate, Comparison
from cl_lightning.results.page.palette import series
from cl_lightning.results.page.parts import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Characters of a method's name in a figure.
NAME = 30


@dataclass(frozen=True)
class Asked:
    """Runs aligned, the metrics that were asked for, and the row that differences are from."""

    table: Comparison
    metrics: Sequence[str]
    baseline: int

    def columns(self) -> list[tuple[int, str, str]]:
        """(index, name, what it is called above a chart) of each column."""
        names = self.table.columns
        return [(c, name, f", column {name}" if len(names) > 1 else "") for c, name in enumerate(names)]

    def found(self, column: int, metric: str) -> list[tuple[int, str, Aggregate]]:
        """(row, method, figure) of the methods that have the metric in a column."""
        rows = ((r, name, self.table.aggregate(r, column, metric)) for r, name in enumerate(self.table.methods))
        return [(r, name, figure) for r, name, figure in rows if figure is not None]


def look(row: int) -> dict[str, str]:
    """Colour, marker and line of a method: the same in every chart."""
    return series(row)


def key(figure: Figure) -> None:
    """The methods' names below a chart, one a line."""
    figure.legend(loc="outside lower left", ncols=1)


def height(methods: int, rest: float) -> float:
    """Inches of a chart with such a key."""
    return rest + 0.17 * methods


def named(method: str) -> str:
    """A method's name in a figure."""
    return label(method, NAME)
