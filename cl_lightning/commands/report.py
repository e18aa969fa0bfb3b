"""Prints a run folder's tables: `cl-lightning report RUN`. Imports no torch, so it is fast."""

from pathlib import Path

from cl_lightning.commands.arguments import Arguments
from cl_lightning.results.report import show


def main(argv: list[str]) -> None:
    """Print the tables of the run folder that `argv` names."""
    parser = Arguments("report", "Print a run's tables.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a view below one")
    show(parser.parse_args(argv).run)
