"""The comparison's tables, its notes, and the same as Markdown, LaTeX and CSV to copy."""

from cl_lightning.results.comparison.write import FORMATS, grids, notes
from cl_lightning.results.page.comparing.asked import Asked
from cl_lightning.results.page.parts import Rows, Section


def section(asked: Asked) -> Section:
    """What `compare` prints."""
    arguments = asked.table, asked.metrics, asked.baseline
    tables = []
    for grid in grids(*arguments):
        names = [name for name, width in grid.groups for _ in range(width)]
        many = len(asked.table.columns) > 1
        heads = [f"{name}: {head}" if many else head for name, head in zip(names, grid.heads, strict=True)]
        tables.append(Rows(grid.title, ["method", *heads], grid.rows))
    listings = [(f"As {name}", write(*arguments)) for name, write in FORMATS.items()]
    return Section("Tables", notes(asked.table, asked.metrics), tables=tables, listings=listings)
