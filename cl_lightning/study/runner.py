"""Run cells, each as `cl-lightning run` in a process of its own, so that a crash loses one cell."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cl_lightning.common.errors import UserError
from cl_lightning.common.jobs import Jobs
from cl_lightning.common.terminal import inform, say
from cl_lightning.study.collect import row_of
from cl_lightning.study.estimate import Estimate
from cl_lightning.study.grid import Cell, Grid
from cl_lightning.study.rows import Row, add_row

#: Attempts of a cell.
ATTEMPTS = 2
#: Items of each task of general ability.
ABILITY_ITEMS = 100
#: Called with a cell and its run folder; returns the command.
Command = Callable[[Cell, Path], Sequence[str]]


def run_command(cell: Cell, run: Path, data: Path | None, more: Sequence[str] = ()) -> list[str]:
    """Return the command of a cell: an ordinary run, whose options are all in its files."""
    options = [f"--config={file}" for file in cell.files]
    options += [f"--model.lr={cell.rate!r}", f"--seed_everything={cell.seed}", f"--sequence.run_dir={run}"]
    options += [] if data is None else [f"--data.root={data}"]
    return [sys.executable, "-m", "cl_lightning", "run", *options, *more]


def ability_options(definition: Path) -> list[str]:
    """Return the options with which a run also measures general ability, by the preset of a study's folder."""
    slot = "--observers.general"
    return [f"{slot}=GeneralAbility", f"{slot}.preset={definition / 'ability.yaml'}", f"{slot}.limit={ABILITY_ITEMS}"]


@dataclass
class Sitting:
    """One call of `study run`.

    Attributes:
        results: the file of results.
        runs: folder of the run folders, which are deleted once their rows are written.
        machine: kind of machine that is expected, for estimates.
        commit: written into each row.
        command: makes a cell's command.
        jobs: runs it.
        deadline: time.monotonic() after which no cell begins; None: no limit.
        failed: cells that failed twice, with the last line of their output.
    """

    grid: Grid
    results: Path
    runs: Path
    machine: str
    commit: str
    command: Command
    jobs: Jobs
    deadline: float | None = None
    keep: bool = False
    failed: dict[Cell, str] = field(default_factory=dict)
    done: int = 0
    late: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _rows: list[Row] = field(default_factory=list)

    def run(self, cells: Sequence[Cell], rows: Sequence[Row], processes: int) -> None:
        """Run cells, in order, in so many processes at a time. `rows`: those that are there, for estimates."""
        self._rows = list(rows)
        with ThreadPoolExecutor(processes) as pool:
            futures = [pool.submit(self._cell, cell, number, len(cells)) for number, cell in enumerate(cells, 1)]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # a defect of ours: report it now, not after the other cells
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _cell(self, cell: Cell, number: int, count: int) -> None:
        if not self._in_time(cell):
            self.late += 1
            return
        for attempt in range(1, ATTEMPTS + 1):
            inform(f"{number}/{count} {cell}{'' if attempt == 1 else ': once more'}")
            if (row := self._attempt(cell)) is not None:
                with self._lock:
                    self.done += 1
                    self._rows.append(row)
                    self.failed.pop(cell, None)
                    left = count - self.done - len(self.failed) - self.late
                say(f"{number}/{count} {cell}: {row.seconds:.0f} s, R {row.R}; {left} left")
                return

    def _in_time(self, cell: Cell) -> bool:
        """Whether the cell would end before the deadline; one of unknown length may begin."""
        if self.deadline is None:
            return True
        with self._lock:
            expected = Estimate(self._rows, self.machine).seconds(cell) or 0.0
        return time.monotonic() + expected <= self.deadline

    def _attempt(self, cell: Cell) -> Row | None:
        """Run a cell and write its row; None if it failed, which is reported."""
        run = self.runs / cell.name
        log = run.with_name(f"{run.name}.log")
        run.parent.mkdir(parents=True, exist_ok=True)
        ended = self.jobs.run(self.command(cell, run), log)
        if ended is None:
            return None
        if ended.code:
            self._report(cell, log, f"exit code {ended.code}: {_last_line(log)}")
            return None
        try:
            differing = self.grid.differing[cell.method]
            row = row_of(cell, differing, run, ended.machine, self.commit, ended.cpu_seconds)
            add_row(self.results, row)
        except UserError as error:
            self._report(cell, log, str(error))
            return None
        if not self.keep:
            shutil.rmtree(run)
            log.unlink()
        return row

    def _report(self, cell: Cell, log: Path, why: str) -> None:
        with self._lock:
            self.failed[cell] = why
        say(f"{cell} failed: {why} ({log})", error=True)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"
