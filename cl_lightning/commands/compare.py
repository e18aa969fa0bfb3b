"""Compares several runs in one table: `cl-lightning compare RUN [RUN ...]`.

Runs that differ only in their seed are averaged. Runs with other data, budgets, orders or base models get columns of
their own, and the notes below the table list the differences.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from cl_lightning.commands.arguments import Arguments
from cl_lightning.common.console import Screen
from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.files import refuse_existing, write_output
from cl_lightning.common.terminal import say, say_text
from cl_lightning.metrics.matrix import FROM_START, FUNCTIONS, REFERENCED
from cl_lightning.results.comparison.runs import find
from cl_lightning.results.comparison.table import Comparison, compare
from cl_lightning.results.comparison.write import DEFAULT, FORMATS, show
from cl_lightning.results.page.assemble import assembled
from cl_lightning.results.page.comparing import SECTIONS
from cl_lightning.results.page.comparing.selection import Selection
from cl_lightning.sequence.run_files import is_report

#: Command that scores the untrained model, and every task after every task.
AGAIN = "make score RUN=... EVALUATE=1"
METRICS = ("ap", "fp", "forget_T")
NAMES = (*FUNCTIONS, *FROM_START, *REFERENCED)


def parser() -> Arguments:
    """Build the argument parser."""
    made = Arguments("compare", __doc__)
    made.add_argument("runs", nargs="+", metavar="RUN", help="run folders, folders of them, or globs")
    made.add_argument(
        "--metrics", nargs="+", default=METRICS, metavar="NAME", help=f"sequence metrics: {', '.join(NAMES)}"
    )
    made.add_argument(
        "--references",
        nargs="+",
        default=[],
        metavar="RUN",
        help="independent or joint runs, for fwt_sapt and intransigence",
    )
    made.add_argument(
        "--baseline", metavar="METHOD", help="method from which differences are taken (default: the first)"
    )
    made.add_argument(
        "--format", choices=FORMATS, help="default: markdown, but tables in the terminal's width on a terminal"
    )
    made.add_argument("--out", type=Path, metavar="FILE", help="write to FILE instead of printing; its folder is made")
    made.add_argument("--overwrite", action="store_true", help="replace the file of --out if it exists")
    made.add_argument("--html", type=Path, metavar="FILE", help="also write a page with charts and all tables")
    made.add_argument("--figures", type=Path, metavar="FOLDER", help="also write the page's charts as SVG and PNG")
    return made


def select(options: Namespace) -> Selection:
    """Make the comparison that the options select.

    Raises:
        UserError: unknown names, folders that are not runs, or the same run twice.
    """
    for name in options.metrics:
        if name not in NAMES:
            raise ConfigError(f"--metrics: no metric {name!r} to compare; {nearest(name, NAMES)}")
    table = compare(find(options.runs), find(options.references))
    for run in (run for cell in table.cells.values() for run in cell):
        for name in (name for name in options.metrics if table.defined(run, name)):
            try:
                table.value(run, name)
            except ValueError as error:
                lacking = name in FROM_START and len(run.tasks) > 1
                hint = f"; compare {run.path}/evaluated, made by `{AGAIN}`" if lacking else ""
                raise ConfigError(f"--metrics: {run.path}: {name}: {error}{hint}") from None
    return Selection(table, options.metrics, _baseline(table, options.baseline))


def render(argv: Sequence[str]) -> tuple[str, Path | None]:
    """Format the comparison; return it with the output file (None: print it). Raises UserError like `select`."""
    options = parser().parse_args(argv)
    found = select(options)
    return FORMATS[options.format or DEFAULT](found.table, found.metrics, found.baseline), options.out


def _baseline(table: Comparison, name: str | None) -> int:
    if name is None:
        return 0
    if name not in table.methods:
        raise ConfigError(f"--baseline: no method {name!r} in the table; {nearest(name, table.methods)}")
    return table.methods.index(name)


def main(argv: list[str]) -> None:
    """Print or write the table; write the page and the charts if their options are set."""
    options = parser().parse_args(argv)
    if options.out is not None:
        refuse_existing("--out", options.out, options.overwrite)
    found = select(options)
    files = _page(options, found) if options.html or options.figures else {}
    made = FORMATS[options.format or DEFAULT](found.table, found.metrics, found.baseline)
    if options.out is not None:
        _write(options.out, made.encode())
    elif options.format is None and sys.stdout.isatty():
        show(found.table, found.metrics, found.baseline, Screen())
    else:
        say_text(made)
    for file, data in files.items():
        _write(file, data)


def _page(options: Namespace, found: Selection) -> dict[Path, bytes]:
    """Make the files of --html and --figures. Raises ConfigError where one would replace what no report has made."""
    page, drawn = assembled("Comparison of runs", _lead(found), (make(found) for make in SECTIONS))
    files = {}
    for name, figure in drawn.items() if options.figures else ():
        files |= {options.figures / f"{name}.{kind}": made for kind, made in figure.files().items()}
    if options.html:
        files[options.html] = page
    for file in files:
        if file.is_file() and not is_report(file):
            option = "--html" if file == options.html else "--figures"
            raise ConfigError(f"{option}: {file} is there already and is no report; move it away, or name another")
    return files


def _lead(found: Selection) -> str:
    table, runs = found.table, sum(map(len, found.table.cells.values()))
    return f"Runs: {runs}; methods: {len(table.methods)}; columns of one sequence each: {len(table.columns)}."


def _write(file: Path, data: bytes) -> None:
    write_output(file, data)
    say(f"written: {file}")
