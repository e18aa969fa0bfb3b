"""Tables in the terminal's width. Cells, headings and titles are text, never rich markup. No torch here."""

from collections.abc import Collection, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cl_lightning.common.terminal import printable

#: Cells between two columns, and the least width of a column whose text is folded.
GAP, LEAST = 2, 24


class Screen(Console):
    """A console that prints strings verbatim and never hides the cursor: a signal ends a command without clean-up."""

    def __init__(self, *, error: bool = False) -> None:
        super().__init__(stderr=error, markup=False, highlight=False, emoji=False)

    def show_cursor(self, show: bool = True) -> bool:
        """Leave the cursor as it is."""
        return False

    def show(self, title: str, made: Sequence[Table]) -> None:
        """Print a title and its tables, each after a blank line."""
        self.print()
        self.print(Text(printable(title), style="bold"))
        for i, part in enumerate(made):
            if i:
                self.print()
            self.print(part)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], left: Collection[str] = (), gap: int = GAP
) -> Table:
    """Build a table; the first column and those in `left` are left-aligned, the others right-aligned.

    A cell may be a Text, which keeps its style. `gap`: cells between columns.
    """
    made = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),
    )
    for i, column in enumerate(columns):
        justify = "left" if i == 0 or column in left else "right"
        made.add_column(Text(printable(column)), justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*map(_text, row))
    return made


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(printable(cell))


def tables(
    columns: Sequence[str], rows: Sequence[Sequence[object]], left: Collection[str] = (), *, width: int
) -> list[Table]:
    """Build a table of at most `width` cells, or several that have its columns in turn.

    Each begins with the first column, which takes at most a third of the width. Headings are wrapped. The text of
    columns in `left` is folded into what room there is, if that is LEAST cells or more.
    """
    texts = [[_text(cell) for cell in column] for column in zip(columns, *rows, strict=True)]
    first = min(_need(texts[0]), width // 3)
    made = []
    for block in _blocks(texts[1:], [column in left for column in columns[1:]], width - first):
        kept = [0, *(1 + i for i, _ in block)]
        part = table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], left)
        for column, cells in zip(part.columns, [first, *(cells for _, cells in block)], strict=True):
            column.width = cells
        made.append(part)
    return made


def _need(texts: Sequence[Text]) -> int:
    """The width of a column of a heading and cells: that of its cells, or of the heading's longest word."""
    head, *cells = (text.plain for text in texts)
    return max(1, *map(cell_len, [*head.split(), *cells]))


def _blocks(columns: Sequence[Sequence[Text]], folded: Sequence[bool], width: int) -> Iterator[list[tuple[int, int]]]:
    """Divide columns over tables: of each, yield the columns' numbers and widths."""
    block: list[tuple[int, int]] = []
    room = width
    for i, texts in enumerate(columns):
        need = _need(texts)
        takes = min(need, room - GAP) if folded[i] and room - GAP >= LEAST else need
        if block and takes > room - GAP:
            yield block
            block, room = [], width
            takes = need
        takes = max(1, min(takes, room - GAP))
        block.append((i, takes))
        room -= takes + GAP
    yield block
