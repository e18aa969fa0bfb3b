"""Shows a run folder's tables in the terminal. Imports no torch, so `cl-lightning report RUN` is fast."""

from pathlib import Path

from rich.table import Table

from cl_lightning.common.console import console, table
from cl_lightning.common.terminal import say
from cl_lightning.results.resampled import metric_intervals
from cl_lightning.results.tables import callback_tables, cell, score_tables, state_of
from cl_lightning.sequence.folder import read_record


def tables(path: Path) -> list[Table]:
    """Build the score matrix with its baselines, the sequence metrics, and the callbacks' own tables.

    Raises:
        StateError: no run folder, or a damaged one.
    """
    record = read_record(path)
    # Each title names the data and the state, because a table may be shown alone.
    return [
        table(
            f"{found.title} on {state_of(record)}",
            found.heads,
            [[cell(v) for v in row] for row in found.rows],
            left=("metric", "meaning"),
        )
        for found in [*score_tables(record, metric_intervals(path, record)), *callback_tables(record)]
    ]


def show(path: Path) -> None:
    """Print a run's tables."""
    screen = console(width=150)
    for each in tables(path):
        screen.print(each)
    say(f"run folder: {path}")
