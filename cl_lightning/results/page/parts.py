"""Parts of a page: sections of charts and tables. Plain data, drawn by `drawing` and written by `document`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_lightning.common.terminal import printable
from cl_lightning.results.tables import Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Largest number of characters of a name in a figure.
LABEL = 22


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        name: name of its files, without suffix.
        title: title above the chart.
        says: description in one sentence, for readers who cannot see it.
        numbers: table of the numbers drawn.
        draw: draws the chart on an empty figure.
        size: inches. Up to 3.4 wide it fits a phone and a column of a paper; 7 wide it fits a page.
        like: what shows the same in the papers, see `papers`.
    """

    name: str
    title: str
    says: str
    numbers: Rows
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (3.4, 2.6)
    like: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page with its own heading.

    Attributes:
        facts: (name, value) pairs.
        charts, tables: shown in this order.
        folded: (name, table) pairs that are closed at first, each called by the name and the table's title.
        listings: (title, text) pairs, shown verbatim.
    """

    title: str
    text: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Rows] = ()
    folded: Sequence[tuple[str, Rows]] = ()
    listings: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Missing:
    """Something that a page does not show, and the reason."""

    what: str


def label(name: object, length: int = LABEL) -> str:
    """A name for a figure, on one line. A long one is cut in its middle, because names often differ at their ends."""
    text = printable(name)
    end = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - end]}…{text[-end:]}"


def cut(text: str, length: int) -> str:
    """Cut a text after `length` characters, and append how many were left out."""
    return text if len(text) <= length else f"{text[:length]} … ({len(text) - length:,} more characters)"
