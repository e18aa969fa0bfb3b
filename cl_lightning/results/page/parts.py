"""What a page is made of: sections of charts and tables. Plain data; `drawing` draws it, `document` writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_lightning.common.terminal import printable
from cl_lightning.results.tables import Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Characters of a name in a figure.
LABEL = 22


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        name: of its files, without suffix.
        title: above it.
        says: what it shows, in a sentence, for those who do not see it.
        numbers: what was drawn.
        draw: draws on an empty figure.
        size: inches. Up to 3.4 wide it fits a phone and a column of a paper; 7 wide it fits a page.
    """

    name: str
    title: str
    says: str
    numbers: Rows
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (3.4, 2.6)


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own.

    Attributes:
        facts: (name, value) pairs.
        charts, tables: in this order.
        folded: tables that are opened on demand.
        listings: (title, text) pairs that are shown as they are, line by line.
    """

    title: str
    text: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Rows] = ()
    folded: Sequence[Rows] = ()
    listings: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Missing:
    """What a page does not show, and why."""

    what: str


def label(name: object, length: int = LABEL) -> str:
    """A name for a figure, on one line. A long one is cut in its middle, because names often differ at their ends."""
    text = printable(name)
    end = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - end]}…{text[-end:]}"


def cut(text: str, length: int) -> str:
    """The beginning of a long text, and how much was left out."""
    return text if len(text) <= length else f"{text[:length]} … ({len(text) - length:,} more characters)"
