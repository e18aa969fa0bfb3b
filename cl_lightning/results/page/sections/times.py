"""Seconds of the work at task boundaries, where a callback's table has them."""

from cl_lightning.results.page.parts import Missing, Rows, Section
from cl_lightning.results.page.source import Source

#: Of the table of `SliceInit`.
BEFORE, SECONDS = "boundary before", "seconds"


def section(run: Source) -> Section | Missing:
    """A table of boundaries."""
    found = list(run.tables_with(BEFORE, SECONDS))
    if not found:
        return Missing("seconds of each stage")
    table = found[0]
    name, seconds = (table["columns"].index(head) for head in (BEFORE, SECONDS))
    rows = [[row[name], row[seconds]] for row in table["rows"]]
    total = sum(row[1] for row in rows)
    text = [f"Gradients and surgery at {len(rows)} task boundaries took {total:.1f} seconds in all."]
    return Section("Time", text, tables=[Rows("Seconds at each task boundary", ["before", "seconds"], rows)])
