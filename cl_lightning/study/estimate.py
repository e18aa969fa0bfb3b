"""Estimate how long cells take, from finished cells on the same kind of machine. No guess without any."""

from collections.abc import Sequence
from statistics import fmean

from cl_lightning.study.grid import Cell
from cl_lightning.study.rows import Row


class Estimate:
    """Seconds of a cell on one kind of machine.

    Args:
        rows: finished cells, of any machine.
        machine: the kind of machine.
    """

    def __init__(self, rows: Sequence[Row], machine: str) -> None:
        self.rows = [row for row in rows if row.machine == machine]
        self.machine = machine

    def seconds(self, cell: Cell) -> float | None:
        """Return the mean seconds of the nearest finished cells; None without any.

        The nearest are those of its method and sequence, else of its sequence, else of its method, else all.
        """
        for same in (("method", "sequence"), ("sequence",), ("method",), ()):
            found = [row.seconds for row in self.rows if all(getattr(row, s) == getattr(cell, s) for s in same)]
            if found:
                return fmean(found)
        return None

    def total(self, cells: Sequence[Cell], processes: int) -> str:
        """Say how long these cells take together, and what that is based on."""
        if not cells:
            return "nothing to run"
        if not self.rows:
            return f"time unknown: no finished cell on {self.machine}"
        hours = sum(self.seconds(cell) or 0.0 for cell in cells) / 3600 / processes
        exact = {(row.method, row.sequence) for row in self.rows}
        known = sum((cell.method, cell.sequence) in exact for cell in cells)
        share = f"of {known} cells by their own method and sequence, of {len(cells) - known} by others"
        return f"about {hours:.1f} hours on {self.machine}, from {len(self.rows)} finished cells ({share})"
