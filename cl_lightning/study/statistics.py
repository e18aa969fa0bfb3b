"""What follows from the rows: chosen learning rates, means with intervals, differences, areas, ranks. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from statistics import fmean, stdev
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cl_lightning.data.protocol import PROTOCOLS, Protocol
from cl_lightning.metrics.bootstrap import RESAMPLES, Interval, percentiles, resampled_means
from cl_lightning.results.resampled import as_matrices
from cl_lightning.study.grid import Cell, Grid
from cl_lightning.study.rows import Row, current

#: 97.5 percentiles of Student's t with 1, 2, .. degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
#: 95 percentiles of the studentised range of 2, 3, .. methods, divided by sqrt(2) (Demsar 2006, table 5).
NEMENYI = (
    1.960, 2.344, 2.569, 2.728, 2.850, 2.948, 3.031, 3.102, 3.164, 3.219, 3.268, 3.313, 3.354, 3.391, 3.426, 3.458,
    3.489, 3.517, 3.544,
)  # fmt: skip


@dataclass(frozen=True)
class Estimated:
    """A mean over seeds.

    Attributes:
        interval: 95 %, by bootstrap over seeds and scored prompts.
        another: where another seed's cell lands in 95 % of cases, if cells are normally distributed; None for one seed.
    """

    mean: float
    interval: Interval
    seeds: int
    another: Interval | None = None


class Findings:
    """Statistics of the rows of these cells.

    Attributes:
        rows: those that count, see `rows.current`.
        notes: which were left out.
    """

    def __init__(self, grid: Grid, cells: Sequence[Cell], rows: Sequence[Row]) -> None:
        self.grid, self.cells = grid, cells
        self.rows, self.notes = current(rows, cells)
        self._drawn: dict[tuple[Row, str], NDArray[np.float64]] = {}

    # ---- cells -------------------------------------------------------------------------------------------

    def protocol(self, method: str) -> Protocol:
        """Return a method's training protocol."""
        return PROTOCOLS[self.grid.differing[method].get("data.protocol", "sequential")]

    def of(self, method: str, sequence: str, rate: float | None = None) -> list[Row]:
        """Return the rows of a method at a learning rate (default: the chosen one), by seed."""
        rate = self.rate(method) if rate is None else rate
        found = [r for r in self.rows if (r.method, r.sequence, r.rate) == (method, sequence, rate)]
        return sorted(found, key=lambda row: row.seed)

    def methods(self, sequence: str) -> list[str]:
        """Return the methods with a row at their chosen learning rate, in the grid's order."""
        return [method for method in self.grid.methods if self.of(method, sequence)]

    @cached_property
    def rates(self) -> dict[str, tuple[float, int]]:
        """Each method's chosen learning rate, and the number of rates that it was chosen from.

        It is the one with the highest mean of fp (ap where the protocol has no fp) on the development sequence.
        Without rows there, it is the grid's middle one, chosen from none.
        """
        chosen = {}
        for method in self.grid.methods:
            metric = "fp" if "fp" in self.protocol(method).metrics else "ap"
            tried = {}
            for rate in self.grid.rates:
                if rows := self.of(method, self.grid.development, rate):
                    tried[rate] = fmean(self.value(row, metric) for row in rows)
            middle = sorted(self.grid.rates)[len(self.grid.rates) // 2]
            chosen[method] = max(tried, key=tried.__getitem__, default=middle), len(tried)
        return chosen

    def rate(self, method: str) -> float:
        """Return a method's chosen learning rate."""
        return self.rates[method][0]

    def wanted(self, cell: Cell) -> bool:
        """Whether a cell's score is asked for: on the development sequence, or at a rate chosen there from all."""
        return cell.sequence == self.grid.development or self.rates[cell.method] == (cell.rate, len(self.grid.rates))

    # ---- figures -----------------------------------------------------------------------------------------

    def value(self, row: Row, metric: str, constrained: bool = False) -> float:
        """Compute a metric of one row."""
        return self.protocol(row.method).metrics[metric](row.constrained_matrix if constrained else row.matrix)

    def mean(self, rows: Sequence[Row], metric: str, constrained: bool = False) -> Estimated | None:
        """Average a metric over seeds; None without rows, or if the protocol lacks the metric."""
        if not rows or metric not in self.protocol(rows[0].method).metrics:
            return None
        values = [self.value(row, metric, constrained) for row in rows]
        interval = percentiles(_over_seeds([self._values(row, metric) for row in rows]))
        return Estimated(fmean(values), interval, len(rows), another(values))

    def difference(self, method: str, baseline: str, sequence: str, metric: str) -> Estimated | None:
        """Compute method minus baseline, paired by seed and prompt; None if they share no seed or lack the metric."""
        if any(metric not in self.protocol(name).metrics for name in (method, baseline)):
            return None
        ours, theirs = ({row.seed: row for row in self.of(name, sequence)} for name in (method, baseline))
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds or method == baseline:
            return None
        values = [self.value(ours[s], metric) - self.value(theirs[s], metric) for s in seeds]
        drawn = [self._values(ours[s], metric) - self._values(theirs[s], metric) for s in seeds]
        return Estimated(fmean(values), percentiles(_over_seeds(drawn)), len(seeds))

    def curve(self, method: str, sequence: str) -> list[tuple[float, float, float]]:
        """Return (learning rate, ap, fp), means over seeds, by learning rate; [] for a reference."""
        if not {"ap", "fp"} <= self.protocol(method).metrics.keys():
            return []
        points = []
        for rate in sorted(self.grid.rates):
            if rows := self.of(method, sequence, rate):
                means = (fmean(self.value(row, metric) for row in rows) for metric in ("ap", "fp"))
                points.append((rate, *means))
        return points

    def ranks(self) -> tuple[dict[str, float], float | None, list[str]]:
        """Rank methods by fp on each sequence but the development one.

        Only methods with rows on all sequences that have any are ranked; references are not.

        Returns:
            Mean ranks (1 is best, ties share their mean), the critical difference of Nemenyi's test at 5 % (None for
            fewer than two methods or sequences), and the sequences.
        """
        others = [s for s in self.grid.sequences if s != self.grid.development and self.methods(s)]
        ranked = [m for m in self.grid.methods if m not in self.grid.references]
        ranked = [m for m in ranked if others and all(self.of(m, s) for s in others)]
        ranks: dict[str, list[float]] = {method: [] for method in ranked}
        for sequence in others:
            scores = {m: fmean(self.value(row, "fp") for row in self.of(m, sequence)) for m in ranked}
            for method, score in scores.items():
                better = sum(other > score for other in scores.values())
                equal = sum(other == score for other in scores.values())
                ranks[method].append(better + (equal + 1) / 2)
        k, n = len(ranked), len(others)
        critical = NEMENYI[k - 2] * sqrt(k * (k + 1) / (6 * n)) if 2 <= k <= len(NEMENYI) + 1 and n > 1 else None
        return {method: fmean(each) for method, each in ranks.items() if each}, critical, others

    def _values(self, row: Row, metric: str) -> NDArray[np.float64]:
        """Compute a metric on each resampled R, (RESAMPLES,). Rows of one seed and sequence share their draws."""
        if (row, metric) not in self._drawn:
            function = self.protocol(row.method).metrics[metric]
            self._drawn[row, metric] = np.array([function(R) for R in as_matrices(resampled(row))])
        return self._drawn[row, metric]


def area(points: Sequence[tuple[float, float]]) -> float:
    """Return the percentage of the plane (0..100 each way) in which some point is at least as good in both.

    Example:
        >>> area([(50.0, 100.0), (100.0, 50.0)])
        75.0
    """
    total, reached = 0.0, 0.0
    for x, y in sorted(points, reverse=True):
        if y > reached:
            total, reached = total + x * (y - reached), y
    return total / 100


def resampled(row: Row) -> NDArray[np.float64]:
    """Compute R on resampled prompts: (RESAMPLES, rows, tasks), NaN where not scored."""
    cells = row.single
    R = np.full((RESAMPLES, len(cells), len(row.counts)), np.nan)
    for j, task in enumerate(row.tasks.split()):
        seed = crc32(f"{row.sequence} {task} {row.seed}".encode())
        for count in {len(scores[j]) for scores in cells if scores[j] is not None}:
            there = [i for i, scores in enumerate(cells) if scores[j] is not None and len(scores[j]) == count]
            R[:, there, j] = resampled_means([cells[i][j] for i in there], seed)
    return R.clip(0, 100)  # rounding may carry a mean above 100


def _over_seeds(drawn: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Average over seeds that are themselves drawn with replacement: (seeds, RESAMPLES) -> (RESAMPLES,)."""
    values = np.array(drawn)
    chosen = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    return values[chosen, np.arange(RESAMPLES)[:, None]].mean(1)


def another(values: Sequence[float]) -> Interval | None:
    """Return the 95 % prediction interval of one more value of a normal distribution; None for fewer than two."""
    n = len(values)
    if not 2 <= n <= len(STUDENT) + 1:
        return None
    room = STUDENT[n - 2] * stdev(values) * sqrt(1 + 1 / n)
    return fmean(values) - room, fmean(values) + room
