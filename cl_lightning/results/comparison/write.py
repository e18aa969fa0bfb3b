"""Formats a comparison as Markdown, CSV or LaTeX (booktabs)."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from cl_lightning.common import console
from cl_lightning.common.files import to_csv
from cl_lightning.common.terminal import printable
from cl_lightning.metrics.bootstrap import Interval
from cl_lightning.metrics.matrix import CONVENTIONS
from cl_lightning.results.comparison.table import Aggregate, Comparison, Difference, each

ABOUT = (
    "± is the standard deviation over seeds; [low, high] is a 95 % bootstrap interval over test examples, of a "
    "difference paired: the same seeds and examples on both sides"
)

#: Characters that LaTeX does not print with a backslash before them.
TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    "±": r"$\pm$", "|": r"\textbar{}",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A table of formatted cells: `groups` are column groups (name, number of columns) above the column `heads`."""

    title: str
    groups: list[tuple[str, int]]
    heads: list[str]
    rows: list[list[str]]


def grids(table: Comparison, metrics: Sequence[str], baseline: int | None) -> list[Grid]:
    """Build the table of the methods' figures and, with a baseline row, that of their differences from it."""
    groups = [(name, len(metrics) + 1) for name in table.columns]
    heads = [*metrics, "seeds"] * len(table.columns)
    of_orders = [table.over_orders(r, "fp") for r in range(len(table.methods))]
    more = 1 if any(of_orders) else 0
    figures = Grid("Methods", [*groups, *[("orders", 1)] * more], [*heads, *["fp mean / worst"] * more], [])
    for r, method in enumerate(table.methods):
        cells = [[table.aggregate(r, c, m) for m in metrics] for c in range(len(table.columns))]
        orders = "; ".join(f"{o.mean:.2f} / {o.worst:.2f} ({o.orders} orders)" for o in of_orders[r])
        figures.rows.append([method, *_texts(cells, _figure), *[orders] * more])
    if baseline is None or len(table.methods) == 1:
        return [figures]
    differences = Grid(f"Differences from {table.methods[baseline]}", groups, heads, [])
    for r, method in enumerate(table.methods):
        if r != baseline:
            cells = [[table.difference(r, baseline, c, m) for m in metrics] for c in range(len(table.columns))]
            differences.rows.append([method, *_texts(cells, _change)])
    return [figures, differences]


def _texts(cells: list[list], write: Callable[..., str]) -> list[str]:
    """Format the cells of each column group, followed by the number of seeds; blank if there is no run."""
    return [text for group in cells for text in [*("" if c is None else write(c) for c in group), _seeds(group)]]


def _seeds(group: Sequence[Aggregate | Difference | None]) -> str:
    return next((str(cell.seeds) for cell in group if cell is not None), "")


def _figure(a: Aggregate) -> str:
    return f"{a.mean:.2f}{'' if a.sd is None else f' ± {a.sd:.2f}'} {_ends(a.interval)}"


def _change(d: Difference) -> str:
    return f"{d.mean:+.2f} {_ends(d.interval)}"


def _ends(interval: Interval) -> str:
    return f"[{interval[0]:.2f}, {interval[1]:.2f}]"


def notes(table: Comparison, metrics: Sequence[str]) -> list[str]:
    """What the columns, the metrics and the figures are."""
    return [*table.notes, *[f"{m}: {CONVENTIONS[m]}" for m in metrics], ABOUT]


def markdown(table: Comparison, metrics: Sequence[str], baseline: int | None) -> str:
    """Format as Markdown tables with a list of notes."""
    lines: list[str] = []
    for grid in grids(table, metrics, baseline):
        names = [name for name, width in grid.groups for _ in range(width)]
        heads = [f"{name}: {head}" for name, head in zip(names, grid.heads, strict=True)]
        lines += [f"### {printable(grid.title)}", "", _line(["method", *heads]), _line(["---", *["---:"] * len(heads)])]
        lines += [*(_line(row) for row in grid.rows), ""]
    return "\n".join([*lines, *[f"- {printable(note)}" for note in notes(table, metrics)], ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(printable(cell).replace('|', '/') for cell in cells)} |"


def show(table: Comparison, metrics: Sequence[str], baseline: int | None, screen: console.Screen) -> None:
    """Print tables in the terminal's width, with the notes below them."""
    for grid in grids(table, metrics, baseline):
        names = [name for name, width in grid.groups for _ in range(width)]
        heads = [f"{name}: {head}" for name, head in zip(names, grid.heads, strict=True)]
        screen.show(grid.title, console.tables(["method", *heads], grid.rows, width=screen.width))
    screen.print()
    for note in notes(table, metrics):
        screen.print(Text(printable(f"- {note}")))


def latex(table: Comparison, metrics: Sequence[str], baseline: int | None) -> str:
    """Format as LaTeX tabulars for the package booktabs, with the notes below them."""
    lines: list[str] = []
    for grid in grids(table, metrics, baseline):
        groups = [rf"\multicolumn{{{width}}}{{c}}{{{_tex(name)}}}" for name, width in grid.groups]
        lines += [
            rf"\textbf{{{_tex(grid.title)}}}\par\smallskip",
            rf"\begin{{tabular}}{{l{'r' * len(grid.heads)}}}",
            r"\toprule",
        ]
        lines += [_row(["", *groups]), _row(["method", *map(_tex, grid.heads)]), r"\midrule"]
        lines += [_row([_tex(cell) for cell in row]) for row in grid.rows]
        lines += [r"\bottomrule", r"\end{tabular}\par\medskip"]
    about = [rf"{_tex(note)}\par" for note in notes(table, metrics)]
    return "\n".join([*lines, r"{\footnotesize\raggedright", *about, "}", ""])


def _row(cells: Sequence[str]) -> str:
    # Without "{}", a row that begins with "[" or "*" would be read as an argument of the row or rule before it.
    return "{}" + " & ".join(cells) + r" \\"


def _tex(text: str) -> str:
    return re.sub(r"[&%$#_{}\\~^<>±|]", lambda found: TEX.get(found[0], rf"\{found[0]}"), printable(text))


def csv(table: Comparison, metrics: Sequence[str], baseline: int | None) -> str:
    """Format as CSV with one line per method, column and metric.

    A line holds the figures, the interval over test examples, the difference from the baseline, and mean and worst over
    task orders if there are several.
    """
    columns = ["method", "column", "order", "data", "scored_by", "metric", "seeds", "mean", "sd", "low", "high"]
    columns += ["baseline", "difference", "difference_low", "difference_high", "paired_seeds"]
    columns += ["orders", "orders_mean", "orders_worst"]
    rows = []
    for r, c in sorted(table.cells):
        facts = table.of_column[c]
        for metric in metrics:
            if (a := table.aggregate(r, c, metric)) is None:
                continue
            runs = table.cells[r, c]
            data, scored = each(run.record["data"] for run in runs), each(run.scored_by for run in runs)
            row = [table.methods[r], table.columns[c], facts["order"], data, scored, metric, a.seeds]
            row += [a.mean, a.sd, *a.interval]
            d = None if baseline is None or r == baseline else table.difference(r, baseline, c, metric)
            row += [table.methods[baseline], d.mean, *d.interval, d.seeds] if d else [None] * 5
            o = next((o for o in table.over_orders(r, metric) if c in o.columns), None)
            row = [printable(cell) if isinstance(cell, str) else cell for cell in row]
            rows.append([*row, *([o.orders, o.mean, o.worst] if o else [None] * 3)])
    return to_csv(columns, rows).decode()


#: The format of a file or a pipe.
DEFAULT = "markdown"
FORMATS: dict[str, Callable[[Comparison, Sequence[str], int | None], str]] = {
    "markdown": markdown,
    "csv": csv,
    "latex": latex,
}
