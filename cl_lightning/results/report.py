"""Shows a run folder's tables in the terminal. Imports no torch, so `cl-lightning report RUN` is fast."""

from pathlib import Path
from shlex import quote
from typing import Any

from rich.table import Table
from rich.text import Text

from cl_lightning.common import console
from cl_lightning.common.terminal import printable, say
from cl_lightning.results import thinned
from cl_lightning.results.compact import matrix
from cl_lightning.results.resampled import metric_intervals
from cl_lightning.results.tables import SEQUENCE, Rows, callback_tables, cell, score_tables, state_of
from cl_lightning.sequence.folder import read_record

#: Columns of text, which are folded.
TEXTS = ("metric", "meaning", "long answers")


def tables(path: Path) -> list[Rows]:
    """Build the score matrix with its baselines, the sequence metrics, and the callbacks' own tables.

    Raises:
        StateError: no run folder, or a damaged one.
    """
    record = read_record(path)
    state = state_of(record)
    # Each title names the data and the state, because a table may be shown alone.
    return [
        Rows(f"{found.title} on {state}", found.heads, found.rows)
        for found in [*score_tables(record, metric_intervals(path, record)), *callback_tables(record)]
    ]


def fitted(rows: Rows, width: int) -> list[Table]:
    """Build a table of at most `width` cells, or several with its columns in turn."""
    return console.tables(rows.heads, [[cell(v) for v in row] for row in rows.rows], TEXTS, width=width)


def show(path: Path) -> None:
    """Print the score matrix, the sequence metrics, and what else has room in the terminal's width."""
    record, screen = read_record(path), console.Screen()
    first, *others = tables(path)
    _show_matrix(record, first.title, screen)
    for found in others:
        made = fitted(_short(found), screen.width)
        if len(made) == 1:
            screen.show(found.title, made)
    screen.print()
    say(f"all tables in full: cl-lightning report {quote(str(path))} --tables")
    say(f"run folder: {path}")


def show_all(path: Path) -> None:
    """Print all tables in full, with the columns of wide ones in turn."""
    record, screen = read_record(path), console.Screen()
    first, *others = tables(path)
    _show_matrix(record, first.title, screen)
    for found in (first, *others):
        screen.show(found.title, fitted(found, screen.width))
    screen.print()
    say(f"run folder: {path}")


def _show_matrix(record: dict[str, Any], title: str, screen: console.Screen) -> None:
    made, legend = matrix(record, screen.width)
    screen.show(title, made)
    for line in filter(None, ("  ".join(legend), thinned.note(record))):
        screen.print(Text(printable(line)))


def _short(found: Rows) -> Rows:
    """Cut the meanings of sequence metrics to what comes before the names that papers have for them."""
    if found.heads != SEQUENCE:
        return found
    return Rows(found.title, found.heads, [[*row[:-1], row[-1].split(":")[0]] for row in found.rows])
