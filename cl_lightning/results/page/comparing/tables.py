"""Shows the comparison's tables and notes, and the tables as Markdown, LaTeX and CSV to copy."""

from cl_lightning.results.comparison.write import FORMATS, grids, notes
from cl_lightning.results.page.comparing.selection import Selection
from cl_lightning.results.page.parts import Rows, Section


def section(selection: Selection) -> Section:
    """Build the tables that `compare` prints."""
    arguments = selection.table, selection.metrics, selection.baseline
    tables = []
    for grid in grids(*arguments):
        names = [name for name, width in grid.groups for _ in range(width)]
        many = len(selection.table.columns) > 1
        heads = [f"{name}: {head}" if many else head for name, head in zip(names, grid.heads, strict=True)]
        tables.append(Rows(grid.title, ["method", *heads], grid.rows))
    listings = [(f"As {name}", write(*arguments)) for name, write in FORMATS.items()]
    return Section("Tables", notes(selection.table, selection.metrics), tables=tables, listings=listings)
