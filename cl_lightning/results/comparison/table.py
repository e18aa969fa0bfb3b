"""Aligns runs by method and sequence; aggregates seeds and computes paired differences of any metric of R."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from cl_lightning.common.errors import StateError
from cl_lightning.common.options import Options, label
from cl_lightning.metrics.bootstrap import Interval, percentiles
from cl_lightning.metrics.matrix import FROM_START, REFERENCED, Matrix, Row
from cl_lightning.results.comparison.runs import Run, differing, read
from cl_lightning.results.resampled import START, as_matrices, resampled_matrices
from cl_lightning.sequence.folder import read_record


@dataclass(frozen=True)
class Aggregate:
    """A metric over the seeds of a cell: mean, sample standard deviation (None for one seed), 95 % interval of the mean
    over test examples, number of seeds."""

    mean: float
    sd: float | None
    interval: Interval
    seeds: int


@dataclass(frozen=True)
class Difference:
    """Method minus baseline, mean over the seeds both have, with its paired 95 % interval over test examples."""

    mean: float
    interval: Interval
    seeds: int


@dataclass(frozen=True)
class Orders:
    """One metric over several orders of the same tasks: mean of the orders' means, mean of the worst order, number of
    orders, and the table's columns that hold them."""

    mean: float
    worst: float
    orders: int
    columns: tuple[int, ...]


class Comparison:
    """Runs in a table.

    Attributes:
        methods: row names; `columns`: column names (A, B, ...); `cells`: (row, column) -> runs by seed.
        notes: lines that describe each column, how it differs from the first, and which runs were left out.
    """

    def __init__(self, runs: Sequence[Run], left_out: Sequence[str] = (), references: Sequence[Run] = ()) -> None:
        rows, columns = _distinct([r.method for r in runs]), _distinct([r.column for r in runs])
        self.methods = _row_names(rows, runs)
        self.columns = [_letters(i) for i in range(len(columns))]
        self.cells: dict[tuple[int, int], list[Run]] = {}
        for run in sorted(runs, key=lambda r: r.seed):
            cell = self.cells.setdefault((rows.index(run.method), columns.index(run.column)), [])
            if cell and cell[-1].seed == run.seed:
                raise StateError(f"{cell[-1].path} and {run.path} are the same run (seed {run.seed}); leave one out")
            cell.append(run)
        self.of_column = columns
        self.notes = [*_about_columns(self, columns), *left_out]
        self.notes += [f"reference: {', '.join(r.alone)}: {r.record['experiment']}, seed {r.seed}" for r in references]
        self._resampled: dict[Path, NDArray[np.float64]] = {}
        self._drawn: dict[tuple[Path, str], NDArray[np.float64]] = {}
        self.references = references

    # ---- figures -----------------------------------------------------------------------------------------

    def aggregate(self, row: int, column: int, metric: str) -> Aggregate | None:
        """Aggregate a cell's metric over its seeds; None without a run, or if its protocol does not define the metric.

        Raises ValueError if R or the references are insufficient.
        """
        runs = self.cells.get((row, column), [])
        if not runs or not self.defined(runs[0], metric):
            return None
        values = [self.value(run, metric) for run in runs]
        spread = stdev(values) if len(values) > 1 else None
        drawn = np.mean([self._values(run, metric) for run in runs], axis=0)
        return Aggregate(fmean(values), spread, percentiles(drawn), len(values))

    def difference(self, row: int, baseline: int, column: int, metric: str) -> Difference | None:
        """Compute row minus baseline in one column, paired by seed and test example.

        None if they share no seed, or one of them lacks the metric.
        """
        ours, theirs = (
            {r.seed: r for r in self.cells.get((m, column), []) if self.defined(r, metric)} for m in (row, baseline)
        )
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            return None
        mean = fmean(self.value(ours[s], metric) - self.value(theirs[s], metric) for s in seeds)
        drawn = [self._values(ours[s], metric) - self._values(theirs[s], metric) for s in seeds]
        return Difference(mean, percentiles(np.mean(drawn, axis=0)), len(seeds))

    def over_orders(self, row: int, metric: str) -> list[Orders]:
        """Compute mean and worst order (lowest value) for each set of tasks that this method has run in several orders.

        Columns that differ only in their order belong to one set.
        """
        families: dict[str, dict[tuple[str, ...], list[float]]] = {}
        held: dict[str, list[int]] = {}
        for (r, column), runs in self.cells.items():
            family = repr({k: v for k, v in sorted(self.of_column[column].items()) if k not in ORDER})
            if r == row and self.defined(runs[0], metric):
                held.setdefault(family, []).append(column)
                for run in runs:
                    families.setdefault(family, {}).setdefault(run.tasks, []).append(self.value(run, metric))
        means = {family: [fmean(values) for values in orders.values()] for family, orders in families.items()}
        return [Orders(fsum(m) / len(m), min(m), len(m), tuple(held[f])) for f, m in means.items() if len(m) > 1]

    def defined(self, run: Run, metric: str) -> bool:
        """Return whether the run's protocol has the metric; joint training, for one, has no diagonal."""
        return metric in run.protocol.metrics or (
            run.protocol.builds_on and (metric in REFERENCED or metric in FROM_START)
        )

    def value(self, run: Run, metric: str) -> float:
        """Compute the metric of one run. Raises ValueError if R, zero-shot scores or references are insufficient."""
        return self._function(run, metric)(run.R, run.record["zero_shot"] or [])

    def _values(self, run: Run, metric: str) -> NDArray[np.float64]:
        """Compute the metric on each resampled R, (RESAMPLES,); references are not resampled."""
        if (run.path, metric) not in self._drawn:
            if run.path not in self._resampled:
                self._resampled[run.path] = resampled_matrices(run.path, run.record)
            function, drawn = self._function(run, metric), as_matrices(self._resampled[run.path])
            self._drawn[run.path, metric] = np.array([function(R[:START], R[START]) for R in drawn])
        return self._drawn[run.path, metric]

    def _function(self, run: Run, metric: str) -> Callable[[Matrix, Row], float]:
        """Return the metric as a function of R and the zero-shot row."""
        if metric in FROM_START:
            return FROM_START[metric]
        if metric not in REFERENCED:
            return lambda R, _: run.protocol.metrics[metric](R)
        row = [_reference(run, task, self.references) for task in run.tasks]
        return lambda R, _: REFERENCED[metric](R, row)


#: Last part of an option that names a class.
CLASS = "class_path"
#: Prefixes of a column's facts about single tasks.
ABOUT_A_TASK = ("checksum.", "metric.")
#: Options in which columns may differ and still be orders of the same tasks.
ORDER = ("order", "data.random_order", "data.benchmark.order")
#: Options that leave out scores of old tasks, which a reference does not have.
OF_OLD_TASKS = ("data.score_every", "data.score_samples_old")


def compare(paths: Iterable[Path], references: Iterable[Path] = ()) -> Comparison:
    """Read and align run folders; unfinished ones are left out and listed in the notes.

    Args:
        paths: the runs.
        references: independent or joint runs, for `fwt_sapt` and `intransigence`.

    Raises:
        StateError: a damaged folder, the same run twice, or no finished run.
    """
    runs, left_out = [], []
    for path in paths:
        record = read_record(path)
        done, all_ = record["done"], len(record["order"])
        if done == all_:
            runs.append(read(path))
        else:
            left_out.append(f"left out: {path}, {done} of {all_} tasks done")
    if not runs:
        raise StateError(f"no finished run to compare; {'; '.join(left_out)}")
    return Comparison(runs, left_out, [read(path) for path in references])


def _reference(run: Run, task: str, references: Sequence[Run]) -> float | None:
    """Average the scores on a task of all references that agree with `run` in data, budget and base; None without."""
    wanted = _about(run, task)
    found = [other.alone[task] for other in references if task in other.alone and _about(other, task) == wanted]
    return fmean(found) if found else None


def _about(run: Run, task: str) -> Options:
    """Return a column's options, without its order, its facts about other tasks and what concerns old tasks."""
    left_out = (*ORDER, *OF_OLD_TASKS, "tasks")
    return {k: v for k, v in run.column.items() if k not in left_out and not _of_another(k, task)}


def _of_another(option: str, task: str) -> bool:
    return option.startswith(ABOUT_A_TASK) and not option.endswith(f".{task}")


def _distinct(options: Sequence[Options]) -> list[Options]:
    found: list[Options] = []
    for each in options:
        if each not in found:
            found.append(each)
    return found


def _row_names(rows: Sequence[Options], runs: Sequence[Run]) -> list[str]:
    """Name methods by their runs' names or experiments, plus a short label where methods of one name differ."""
    names = [" / ".join(dict.fromkeys(r.name for r in runs if r.method == row)) for row in rows]
    named = []
    for row, name in zip(rows, names, strict=True):
        twins = [other for other, theirs in zip(rows, names, strict=True) if theirs == name]
        options = label({option: row.get(option) for option in differing(twins) if _tells(option, row, twins)})
        named.append(f"{name} ({options})" if options else name)
    # What a label leaves out may be all that tells two methods apart.
    return [f"{n} #{named[:i].count(n) + 1}" if named.count(n) > 1 else n for i, n in enumerate(named)]


def _tells(option: str, row: Options, twins: Sequence[Options]) -> bool:
    """Whether an option tells a method from one of the same classes. Where classes differ, their names are enough."""
    parts = option.split(".")
    classes = [".".join([*parts[:n], CLASS]) for n in range(1, len(parts))]
    alike = [twin for twin in twins if all(twin.get(c) == row.get(c) for c in classes if c != option)]
    return len({repr(twin.get(option)) for twin in alike}) > 1


def _about_columns(table: Comparison, columns: Sequence[Options]) -> list[str]:
    lines = []
    for c, (name, column) in enumerate(zip(table.columns, columns, strict=True)):
        runs = [run for (_, j), cell in table.cells.items() if j == c for run in cell]
        seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
        data, scored = each(run.record["data"] for run in runs), each(run.scored_by for run in runs)
        lines.append(
            f"{name}: {column['order']}; data: {data}; scored by: {scored}; base: {runs[0].base}; seeds: {seeds}"
        )
    for name, column in zip(table.columns[1:], columns[1:], strict=True):
        other = ", ".join(_difference(option, columns[0], column) for option in _apart(columns[0], column))
        lines.append(f"{name} is kept apart from {table.columns[0]}: other {other}")
    return lines


def each(texts: Iterable[str]) -> str:
    """Join the distinct texts, in order of first occurrence."""
    return " / ".join(dict.fromkeys(texts))


def _apart(one: Options, other: Options) -> list[str]:
    """List the options in which two columns differ; facts about single tasks only for tasks in both."""
    shared = one.keys() & other.keys()
    names = [n for n in differing([one, other]) if n in shared or not n.startswith(ABOUT_A_TASK)]
    return [n for n in names if n != "order"] or names


def _difference(option: str, one: Options, other: Options) -> str:
    if option.startswith("checksum."):
        return f"examples of {option.removeprefix('checksum.')}"
    values = [str(each.get(option, "null")) for each in (other, one)]
    return option if max(map(len, values)) > 40 else f"{option} ({values[0]}, not {values[1]})"


def _letters(index: int) -> str:
    return (_letters(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)
