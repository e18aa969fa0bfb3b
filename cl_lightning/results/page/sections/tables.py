"""Shows the callbacks' tables, as the terminal does."""

from cl_lightning.results.page.parts import Missing, Section
from cl_lightning.results.page.source import Source
from cl_lightning.results.tables import callback_tables


def section(run: Source) -> Section | Missing:
    """Build all non-empty tables."""
    found = callback_tables(run.record)
    return Section("Tables of the callbacks", tables=found) if found else Missing("tables of callbacks: none has any")
