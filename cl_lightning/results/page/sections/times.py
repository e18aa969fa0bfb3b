"""Shows the seconds spent at task boundaries, from a callback's table."""

from cl_lightning.results.page.parts import Missing, Rows, Section
from cl_lightning.results.page.source import Source
from cl_lightning.sequence.folder import RECORD

#: Columns of the table of `SliceInit`.
BEFORE, SECONDS = "boundary before", "seconds"


def section(run: Source) -> Section | Missing:
    """Build a table of boundaries."""
    with run.checked_content(RECORD):
        found = run.tables_with(BEFORE, SECONDS)
        rows = [(task, float(seconds)) for task, seconds in zip(*found[0].values(), strict=True)] if found else []
    if not rows:
        return Missing("seconds of each stage")
    total = sum(seconds for _, seconds in rows)
    text = [f"Gradients and surgery at {len(rows)} task boundaries took {total:.1f} seconds in all."]
    return Section("Time", text, tables=[Rows("Seconds at each task boundary", ["before", "seconds"], rows)])
