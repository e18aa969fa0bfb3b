"""Tables for the terminal. Cells, headings and titles are plain text, never rich markup. No torch here."""

import sys
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cl_lightning.common.terminal import printable


def console(width: int) -> Console:
    """Make a console on standard output that prints strings verbatim. `width`: columns when not on a terminal."""
    return Console(width=None if sys.stdout.isatty() else width, markup=False, highlight=False, emoji=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left: Collection[str] = ()) -> Table:
    """Build a table; the first column and those in `left` are left-aligned, the others right-aligned."""
    made = Table(title=Text(printable(title)), title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        justify = "left" if i == 0 or column in left else "right"
        made.add_column(Text(printable(column)), justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*[Text(printable(cell)) for cell in row])
    return made
