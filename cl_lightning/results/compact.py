"""The score matrix in the terminal's width: numbered columns, rows that name their tasks, cells coloured by score."""

from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from rich.table import Table
from rich.text import Text

from cl_lightning.common.console import table
from cl_lightning.common.terminal import printable
from cl_lightning.results.thinned import marked
from cl_lightning.sequence.folder import columns

#: Digits -> cells of a score and of the gap before it; and the least width of the rows' names.
DIGITS = {1: (5, 2), 0: (3, 1)}
NAMES = 20
#: Background and text of scores below 20, 40, 60, 80 and from there on: the colours of cividis, as on the page.
COLOURS = (("#00204d", "white"), ("#414d6b", "white"), ("#7c7b78", "white"), ("#bcaf6f", "black"), ("#ffea46", "black"))
REFERENCES = {"zero-shot": "zero_shot", "majority answer": "majority", "copy of the prompt": "copy_prompt"}


def references(record: dict[str, Any]) -> Iterator[tuple[str, str, list[float]]]:
    """Yield label, key and scores of each reference that a run has."""
    for label, key in REFERENCES.items():
        scores = record[key] if key == "zero_shot" else record["metrics"][key]
        if scores is not None:
            yield label, key, scores


def matrix(record: dict[str, Any], width: int) -> tuple[list[Table], list[str]]:
    """Build R and its references, of at most `width` cells.

    Scores have one decimal if all columns have room for it, else none; columns beyond the width go to further tables.

    Returns:
        The tables, and the legend: number and name of each column that no row names in full.
    """
    tasks = columns(record)
    number = {name: i for i, name in enumerate(tasks, 1)}
    after = record["order"][: len(record["R"])]
    names = [f"{number[name]} {name}" if name in number else name for name in after]
    rows = list(zip(names, marked(record), strict=True)) + [(label, scores) for label, _, scores in references(record)]
    digits = 1 if len(tasks) * sum(DIGITS[1]) <= width - NAMES else 0
    taken, gap = sum(DIGITS[digits]), DIGITS[digits][1]
    at_once = max(1, (width - NAMES) // taken)
    room = width - min(len(tasks), at_once) * taken
    made = []
    for first in range(0, len(tasks), at_once):
        block = slice(first, first + at_once)
        shown = [(name, scores[block]) for name, scores in rows if any(score is not None for score in scores[block])]
        cells = [[_cropped(name, room), *(_score(s, digits) for s in scores)] for name, scores in shown]
        made.append(table(["after", *map(str, range(1, 1 + len(tasks))[block])], cells, gap=gap))
    whole = {name for name, label in zip(after, names, strict=True) if cell_len(printable(label)) <= room}
    return made, [f"{i} {name}" for name, i in number.items() if name not in whole]


def _cropped(name: str, room: int) -> Text:
    text = Text(printable(name))
    text.truncate(room, overflow="ellipsis")
    return text


def _score(value: float | str | None, digits: int) -> Text:
    if value is None or isinstance(value, str):
        return Text(value or "")
    background, ink = COLOURS[min(int(max(value, 0.0) // 20), 4)]
    return Text(f"{value:{DIGITS[digits][0]}.{digits}f}", style=Style(bgcolor=background, color=ink))
