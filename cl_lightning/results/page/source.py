"""What a run folder holds, as sections of the page ask for it. Files that the record names are read checked."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl_lightning.common.errors import StateError
from cl_lightning.common.paths import below
from cl_lightning.data.protocol import PROTOCOLS, Protocol
from cl_lightning.metrics.bootstrap import Interval, percentiles
from cl_lightning.results.resampled import has_predictions, metric_intervals, resampled_matrices
from cl_lightning.sequence.folder import CONFIG, columns, prediction_file, read_checked, read_predictions, read_record
from cl_lightning.sequence.run_files import CSV_LOG
from cl_lightning.sequence.stored import read_config

#: What every optimiser step is logged with.
LOSS = "train/loss"


class Source:
    """A run folder.

    Raises:
        StateError: no run folder, or a damaged one; so do all that read files.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.record = path, read_record(path)
        self.config = read_config(path, self.record)

    @property
    def metrics(self) -> dict[str, Any]:
        return self.record["metrics"]

    @property
    def R(self) -> list[list[float | None]]:
        return self.record["R"]

    @property
    def tasks(self) -> list[str]:
        """Names of the columns of R."""
        return columns(self.record)

    @property
    def done(self) -> list[str]:
        """Names of the tasks that were trained so far: of the rows of R."""
        return self.record["order"][: self.record["done"]]

    @property
    def protocol(self) -> Protocol:
        return PROTOCOLS[self.record["protocol"]]

    @property
    def configuration(self) -> str:
        """config.yaml as it is."""
        return read_checked(self.path, self.record, CONFIG).decode()

    # ---- intervals ---------------------------------------------------------------------------------------

    @cached_property
    def resampled(self) -> NDArray[np.float64] | None:
        """As `resampled_matrices`; None without predictions."""
        return resampled_matrices(self.path, self.record) if has_predictions(self.record) else None

    @cached_property
    def metric_intervals(self) -> dict[str, Interval]:
        """Of the sequence metrics, by name."""
        return metric_intervals(self.path, self.record)

    def cell(self, after: str, task: str) -> Interval | None:
        """The interval of a score of R."""
        found = self.metrics["intervals"].get(after, {}).get(task)
        return None if found is None else (found[0], found[1])

    def lost(self, task: int) -> tuple[float, Interval | None]:
        """What was forgotten of a finished task since it was learnt, and its paired interval."""
        R, drawn = self.R, self.resampled
        value = R[task][task] - R[-1][task]
        return value, None if drawn is None else percentiles(drawn[:, task, task] - drawn[:, len(R) - 1, task])

    # ---- files -------------------------------------------------------------------------------------------

    def slots(self, kind: str) -> list[str]:
        """Names of the slots of the configuration that hold a callback of this class."""
        found = {**(self.config.get("boundary") or {}), **(self.config.get("observers") or {})}
        paths = {slot: str(of.get("class_path", "")) for slot, of in found.items() if isinstance(of, dict)}
        return [slot for slot, path in paths.items() if path.rpartition(".")[2] == kind]

    def rows(self, name: str, texts: Sequence[str], numbers: Sequence[str]) -> list[dict[str, Any]]:
        """These columns of a CSV file that the record names, None for empty numbers; [] where it names none."""
        if name not in self.record["files"]:
            return []
        with self.told(name):
            lines = csv.DictReader(io.StringIO(read_checked(self.path, self.record, name).decode(), newline=""))
            return [
                {key: line[key] for key in texts} | {key: float(line[key]) if line[key] else None for key in numbers}
                for line in lines
            ]

    def kept(self, slot: str, done: int) -> dict[str, int]:
        """How many examples of each task a replay memory held after so many tasks; {} where it held none."""
        name = f"state/{slot}-{done}.json"
        if name not in self.record["files"]:
            return {}
        with self.told(name):
            state = json.loads(read_checked(self.path, self.record, name))
            return {task: len(examples) for task, examples in state.get("examples", {}).items()}

    def predictions(self, after: str, task: str) -> list[dict[str, Any]]:
        """[] where there are none."""
        name = prediction_file(after, task)
        return read_predictions(self.path, self.record, name) if name in self.record["files"] else []

    def tables_with(self, *heads: str) -> list[dict[str, list[Any]]]:
        """These columns of each of the callbacks' tables that have them, and rows."""
        tables = (table for tables in self.record["tables"].values() for table in tables)
        return [
            {head: [row[table["columns"].index(head)] for row in table["rows"]] for head in heads}
            for table in tables
            if set(heads) <= set(table["columns"]) and table["rows"]
        ]

    @contextmanager
    def told(self, name: str) -> Iterator[None]:
        """Tell in one line that a file, which may be anyone's, does not hold what runs write."""
        try:
            yield
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise StateError(f"{self.path}/{name}: does not hold what a run writes there ({why}); restore it") from None

    # ---- log ---------------------------------------------------------------------------------------------

    @cached_property
    def log(self) -> "Log":
        """The CSV log of all attempts. It is no part of the state, so nothing vouches for it."""
        log = Log()
        folder = below(self.path, "logs")
        names = (f"logs/{each.name}/metrics.csv" for each in (folder.iterdir() if folder.is_dir() else ()))
        found = {int(match[1]): name for name in names if (match := CSV_LOG.fullmatch(name))}
        for attempt, name in sorted(found.items()):
            file = below(self.path, name)
            if attempt <= self.record["attempts"] and file.is_file():
                log.add(file)
        return log


class Log:
    """Values that were logged, over the sequence's own axis cl/step.

    Attributes:
        rows: in order; each has "cl/step". What an attempt logged after its last saved task is left out, because the
            next attempt did it again.
        left_out: lines that are no row of numbers: a process that is killed leaves half a line.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.left_out = 0

    def add(self, file: Path) -> None:
        """Append the log of one attempt. Raises StateError where it is no text or cannot be read."""
        try:
            lines = list(csv.DictReader(io.StringIO(file.read_bytes().decode(), newline="")))
        except (UnicodeDecodeError, csv.Error):
            raise StateError(f"{file}: is no CSV log; move it away, and the report is made without it") from None
        except OSError as error:
            raise StateError(f"{file}: cannot be read ({error.strerror})") from None
        found: list[dict[str, float]] = []
        step = 0.0
        for line in lines:
            try:
                row = {key: float(value) for key, value in line.items() if value != ""}
            except (TypeError, ValueError):  # too few cells, too many, no numbers
                self.left_out += 1
                continue
            if not all(isfinite(value) for key, value in row.items() if key.startswith("cl/")):
                self.left_out += 1  # a loss may be NaN, a place on an axis may not
                continue
            # What Lightning logs by itself has no such axis; it belongs to the step before.
            step = row.setdefault("cl/step", step)
            found.append(row)
        again = next((row["cl/step"] for row in found if LOSS in row), float("inf"))
        self.rows = [row for row in self.rows if row["cl/step"] < again] + found

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """(steps, values) of one name."""
        pairs = [(row["cl/step"], row[name]) for row in self.rows if name in row]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def names(self, prefix: str) -> list[str]:
        """Of what was logged under a prefix."""
        return sorted({key for row in self.rows for key in row if key.startswith(prefix)})
