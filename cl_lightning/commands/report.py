"""Prints a run folder's tables and writes its page: `cl-lightning report RUN`. Imports no torch, so it is fast."""

from pathlib import Path

from cl_lightning.commands.arguments import Arguments
from cl_lightning.common.terminal import say
from cl_lightning.results.page.write import write
from cl_lightning.results.report import show, show_all


def main(argv: list[str]) -> None:
    """Print the tables of the run folder that `argv` names, and write its page and figures into it."""
    parser = Arguments("report", "Print a run's tables, and write report.html and figures/ into its folder.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a view below one")
    parser.add_argument("--tables", action="store_true", help="print all tables in full, write nothing")
    options = parser.parse_args(argv)
    if options.tables:
        show_all(options.run)
    else:
        show(options.run)
        say(f"report: {write(options.run)}")
