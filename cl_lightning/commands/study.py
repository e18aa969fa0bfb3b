"""Compares methods in a grid of runs: `cl-lightning study run|status|table`."""

import time
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cl_lightning.commands import experiments
from cl_lightning.commands.arguments import Arguments, add_cluster, positive
from cl_lightning.common import stopping
from cl_lightning.common.errors import ConfigError, TrainingError, nearest
from cl_lightning.common.files import write_output
from cl_lightning.common.jobs import Cluster, Here
from cl_lightning.common.machine import commit, gpu, machine_kind
from cl_lightning.common.terminal import inform, say, say_text
from cl_lightning.study.estimate import Estimate
from cl_lightning.study.grid import Cell, Grid, read_grid
from cl_lightning.study.rows import Row, current, read_rows
from cl_lightning.study.runner import ABILITY_ITEMS, Sitting, ability_options, run_command

RESULTS, RUNS = Path("study/results.csv"), Path("runs/study")
ABOUT = """Compare methods in a grid of runs: method x learning rate x seed x sequence.

run: run the cells that have no row in the file of results yet, each as an ordinary run, and add a row for each.
status: say what is there and what is left. table: print the tables that follow from the file of results alone.
"""


def main(argv: Sequence[str]) -> None:
    """Run `study ACTION`."""
    options = parser().parse_args(argv)
    grid = read_grid(options.definition)
    cells, rows = _chosen(grid, options), read_rows(options.results)
    if options.chosen:
        from cl_lightning.study.statistics import Findings

        cells = list(filter(Findings(grid, list(grid.cells()), rows).wanted, cells))
    ACTIONS[options.action](grid, cells, rows, options)


def parser() -> Arguments:
    """Build the argument parser."""
    made = Arguments("study", ABOUT)
    made.add_argument("action", choices=ACTIONS, help="what to do")
    made.add_argument("--methods", nargs="+", metavar="NAME", help="only these methods")
    made.add_argument("--sequences", nargs="+", metavar="NAME", help="only these sequences")
    made.add_argument("--seeds", nargs="+", type=positive, metavar="SEED", help="only these seeds")
    made.add_argument("--rates", nargs="+", type=float, metavar="RATE", help="only these learning rates")
    made.add_argument(
        "--chosen",
        action="store_true",
        help="on other sequences than the development one, only the learning rates that are chosen there",
    )
    made.add_argument("--data", type=Path, metavar="FOLDER", help="folder of real data")
    made.add_argument("--dry-run", action="store_true", help="list the cells and the time they take, run none")
    made.add_argument("--max-hours", type=_hours, metavar="HOURS", help="begin no cell that would end later")
    made.add_argument(
        "--processes", type=positive, default=1, metavar="COUNT", help="cells at a time (default 1; one on a GPU)"
    )
    add_cluster(made, "run cells as jobs, --processes at a time,")
    made.add_argument(
        "--ability",
        action="store_true",
        help=f"also measure general ability before and after, on {ABILITY_ITEMS} items of PIQA in FOLDER/general",
    )
    made.add_argument("--keep", action="store_true", help="keep the run folders of finished cells")
    made.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help=f"default: {RESULTS}")
    made.add_argument("--runs", type=Path, default=RUNS, metavar="FOLDER", help=f"run folders (default: {RUNS})")
    made.add_argument(
        "--definition", type=Path, default=experiments.folder() / "study", metavar="FOLDER", help="the grid's files"
    )
    made.add_argument("--out", type=Path, metavar="FOLDER", help="table: also write tables and figures into FOLDER")
    return made


def _run(grid: Grid, cells: list[Cell], rows: list[Row], options: Namespace) -> None:
    kept, notes = current(rows, cells)
    there = {row.key for row in kept}
    left = [cell for cell in cells if cell.key not in there]
    for note in notes:
        inform(f"note: {note}")
    machine, local = machine_kind(), options.cluster is None
    processes = 1 if local and gpu() else options.processes
    inform(f"study: {len(cells)} cells, {len(cells) - len(left)} finished, {len(left)} left")
    time_left = Estimate(rows, machine).total(left, processes) if local else "not known for the machines of a cluster"
    inform(f"  time     {time_left}", hang=9)
    if options.dry_run:
        for cell in left:
            say(cell)
        return
    if options.data is None:
        raise ConfigError("--data: the study compares methods on real data; name its folder (DATA=FOLDER with make)")
    if not options.data.is_dir():
        raise ConfigError(f"--data: {options.data} is not a folder")
    stopping.set_message("finished cells are in the file of results; run the same command again to go on")
    deadline = None if options.max_hours is None else time.monotonic() + 3600 * options.max_hours
    more = ability_options(options.definition) if options.ability else []
    command = partial(run_command, data=options.data, more=more)
    jobs = Here() if local else Cluster(options.runs / "jobs", dict(options.cluster))
    sitting = Sitting(grid, options.results, options.runs, machine, commit(), command, jobs, deadline, options.keep)
    sitting.run(left, rows, processes)
    late = f", {sitting.late} not begun for lack of time" if sitting.late else ""
    say(f"{sitting.done} cells finished, {len(sitting.failed)} failed{late}; results: {options.results}")
    if sitting.failed:
        raise TrainingError(f"failed twice: {'; '.join(map(str, sitting.failed))}; the reasons are above")


def _status(grid: Grid, cells: list[Cell], rows: list[Row], options: Namespace) -> None:
    kept, notes = current(rows, cells)
    there = {row.key for row in kept}
    left = [cell for cell in cells if cell.key not in there]
    say(f"{len(kept)} of {len(cells)} cells are finished; {Estimate(rows, machine_kind()).total(left, 1)}")
    for sequence in grid.sequences:
        count = Counter(row.method for row in kept if row.sequence == sequence)
        of = Counter(cell.method for cell in cells if cell.sequence == sequence)
        done = ", ".join(f"{name} {count[name]}" for name in of if count[name])
        say(f"  {sequence}: {sum(count.values())} of {sum(of.values())}{': ' if done else ''}{done}", hang=6)
    for note in notes:
        say(f"note: {note}")


def _table(grid: Grid, cells: list[Cell], rows: list[Row], options: Namespace) -> None:
    from cl_lightning.study.report import figures, report

    text = report(grid, options.definition, cells, rows)
    say_text(text)
    if options.out is not None:
        write_output(options.out / "tables.md", text.encode())
        for name, data in figures(grid, cells, rows).items():
            write_output(options.out / name, data)


#: Called with the grid, the chosen cells, all rows and the options.
ACTIONS = {"run": _run, "status": _status, "table": _table}


def _chosen(grid: Grid, options: Namespace) -> list[Cell]:
    """Select cells. Raises ConfigError for names and numbers that the grid lacks."""
    for option, valid in (
        ("methods", grid.methods),
        ("sequences", grid.sequences),
        ("seeds", grid.seeds),
        ("rates", grid.rates),
    ):
        for given in getattr(options, option) or ():
            if given not in valid:
                raise ConfigError(f"--{option}: the grid has no {given!r}; {nearest(str(given), map(str, valid))}")
    return [
        cell
        for cell in grid.cells()
        if cell.method in (options.methods or grid.methods)
        and cell.sequence in (options.sequences or grid.sequences)
        and cell.seed in (options.seeds or grid.seeds)
        and cell.rate in (options.rates or grid.rates)
    ]


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < float("inf"):
        raise ArgumentTypeError(f"{text} must be a number above 0")
    return hours
