"""Tables for the terminal: cells, heads and titles are text, never rich's markup. No torch here."""

import sys
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cl_lightning.common.terminal import shown


def console(width: int) -> Console:
    """A console on standard output that takes strings as they are. `width`: columns where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else width, markup=False, highlight=False, emoji=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left: Collection[str] = ()) -> Table:
    """A table of texts; the first column and those in `left` are set to the left, the others to the right."""
    made = Table(title=Text(shown(title)), title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        justify = "left" if i == 0 or column in left else "right"
        made.add_column(Text(shown(column)), justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*[Text(shown(cell)) for cell in row])
    return made
