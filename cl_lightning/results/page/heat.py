"""Heat maps: a coloured cell for each value, with its number if wanted; missing values are blank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

from cl_lightning.results.page.drawing import tip
from cl_lightning.results.page.parts import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Sequence[Sequence[float | None]]
#: Cells of a larger map have no titles, which would be most of the page.
MANY = 300
#: Columns beyond which the numbers in cells would overlap, and rows or columns beyond which their names would.
WRITTEN, NAMED = 16, 40


@dataclass(frozen=True)
class Heat:
    """A heat map.

    Attributes:
        rows, columns: names.
        values: values by row; None for a blank cell.
        scale: values of the first and the last colour.
        colours: a colour map of matplotlib. cividis: from low to high, PuOr: around a middle.
        digits: of the values written in cells; None: they are not written. More than WRITTEN columns have none.
        x, y: names of the axes.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Values
    scale: tuple[float, float]
    x: str
    y: str
    colours: str = "cividis"
    digits: int | None = None

    @property
    def size(self) -> tuple[float, float]:
        """Size in inches, with room for the numbers in cells."""
        cell = (0.42, 0.24) if self.digits is not None else (0.2, 0.11)
        width = max(3.4, 1.6 + cell[0] * len(self.columns))
        return min(width, 7.5), min(max(2.2, 1.2 + cell[1] * len(self.rows)), 9.0)

    def draw(self, figure: Figure) -> None:
        """Draw the cells, the axes and the colour bar."""
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.patches import Rectangle

        axes, norm, colours = figure.subplots(), Normalize(*self.scale), colormaps[self.colours]
        if len(self.rows) * len(self.columns) > MANY:
            cells = [[nan if value is None else value for value in row] for row in self.values]
            axes.pcolormesh(range(len(self.columns)), range(len(self.rows)), cells, norm=norm, cmap=colours)
        else:
            for i, j, value in self._cells():
                cell = axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colours(norm(value)), linewidth=0))
                cell.set_in_layout(False)  # cells do not affect the layout
                tip(cell, f"{self.columns[j]}, {self.rows[i]}: {value:.3g}")
        for i, j, value in self._cells() if self.digits is not None and len(self.columns) <= WRITTEN else ():
            red, green, blue, _ = colours(norm(value))
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            text = axes.text(j, i, f"{value:.{self.digits}f}", ha="center", va="center", color=ink, fontsize=6.5)
            text.set_in_layout(False)
        axes.set(xlim=(-0.5, len(self.columns) - 0.5), ylim=(len(self.rows) - 0.5, -0.5), xlabel=self.x, ylabel=self.y)
        axes.set_xticks(*_named(self.columns), rotation=45, ha="right")
        axes.set_yticks(*_named(self.rows))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, fraction=0.05, pad=0.02)
        bar.outline.set_visible(False)
        bar.solids.set_rasterized(True)  # one small image instead of hundreds of shapes

    def _cells(self) -> Iterator[tuple[int, int, float]]:
        """Yield (row, column, value) of each cell that is not blank."""
        for i, row in enumerate(self.values):
            yield from ((i, j, value) for j, value in enumerate(row) if value is not None)


def _named(names: Sequence[str]) -> tuple[range, list[str]]:
    """Places of names along an axis, and the names: every second or third of many."""
    step = 1 + len(names) // NAMED
    return range(0, len(names), step), [label(name) for name in names[::step]]
