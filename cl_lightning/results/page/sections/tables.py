"""The callbacks' own tables, as the terminal shows them."""

from cl_lightning.results.page.parts import Missing, Section
from cl_lightning.results.page.source import Source
from cl_lightning.results.tables import callback_tables


def section(run: Source) -> Section | Missing:
    """All of them."""
    found = callback_tables(run.record)
    return Section("Tables of the callbacks", tables=found) if found else Missing("tables of callbacks: none has any")
