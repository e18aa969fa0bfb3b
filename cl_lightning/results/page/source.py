"""Reads a run folder for the sections of a page. Files named in the record are compared with their checksums."""

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
from cl_lightning.metrics.matrix import is_whole
from cl_lightning.results.resampled import has_predictions, metric_intervals, resampled_matrices
from cl_lightning.sequence.folder import CONFIG, columns, prediction_file, read_checked, read_predictions, read_record
from cl_lightning.sequence.run_files import CSV_LOG, attempts_of
from cl_lightning.sequence.stored import read_config

#: The value that is logged at each optimiser step.
LOSS = "train/loss"


class Source:
    """A run folder.

    Raises:
        StateError: the folder is not a run or is damaged; methods that read files raise it, too.
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
        """Names of the finished tasks: the rows of R."""
        return self.record["order"][: self.record["done"]]

    @property
    def whole(self) -> bool:
        """Whether all finished tasks were scored after the last of them."""
        return is_whole(self.R, len(self.R) - 1)

    @property
    def protocol(self) -> Protocol:
        return PROTOCOLS[self.record["protocol"]]

    @property
    def configuration(self) -> str:
        """Text of config.yaml."""
        return read_checked(self.path, self.record, CONFIG).decode()

    # ---- intervals ---------------------------------------------------------------------------------------

    @cached_property
    def resampled(self) -> NDArray[np.float64] | None:
        """See `resampled_matrices`; None without predictions."""
        return resampled_matrices(self.path, self.record) if has_predictions(self.record) else None

    @cached_property
    def metric_intervals(self) -> dict[str, Interval]:
        """Intervals of the sequence metrics, by name."""
        return metric_intervals(self.path, self.record)

    def cell(self, after: str, task: str) -> Interval | None:
        """Return the interval of an entry of R."""
        found = self.metrics["intervals"].get(after, {}).get(task)
        return None if found is None else (found[0], found[1])

    def lost(self, task: int) -> tuple[float, Interval | None]:
        """Return the points that a finished task lost since it was learnt, and their paired interval."""
        R, drawn = self.R, self.resampled
        value = R[task][task] - R[-1][task]
        return value, None if drawn is None else percentiles(drawn[:, task, task] - drawn[:, len(R) - 1, task])

    # ---- files -------------------------------------------------------------------------------------------

    def slots(self, kind: str) -> list[str]:
        """Return the configuration's slots with a callback of this class."""
        found = {**(self.config.get("boundary") or {}), **(self.config.get("observers") or {})}
        paths = {slot: str(of.get("class_path", "")) for slot, of in found.items() if isinstance(of, dict)}
        return [slot for slot, path in paths.items() if path.rpartition(".")[2] == kind]

    def rows(self, name: str, texts: Sequence[str], numbers: Sequence[str]) -> list[dict[str, Any]]:
        """Read columns of a CSV file of the record, with None for empty numbers; [] if there is no such file."""
        if name not in self.record["files"]:
            return []
        with self.checked_content(name):
            lines = csv.DictReader(io.StringIO(read_checked(self.path, self.record, name).decode(), newline=""))
            return [
                {key: line[key] for key in texts} | {key: float(line[key]) if line[key] else None for key in numbers}
                for line in lines
            ]

    def kept(self, slot: str, done: int) -> dict[str, int]:
        """Return the number of examples of each task in a replay memory after `done` tasks; {} without examples."""
        name = f"state/{slot}-{done}.json"
        if name not in self.record["files"]:
            return {}
        with self.checked_content(name):
            state = json.loads(read_checked(self.path, self.record, name))
            return {task: len(examples) for task, examples in state.get("examples", {}).items()}

    def predictions(self, after: str, task: str) -> list[dict[str, Any]]:
        """Return the predictions of the model after a task; [] if there are none."""
        name = prediction_file(after, task)
        return read_predictions(self.path, self.record, name) if name in self.record["files"] else []

    def tables_with(self, *heads: str) -> list[dict[str, list[Any]]]:
        """Return these columns of each non-empty table of the callbacks that has all of them."""
        tables = (table for tables in self.record["tables"].values() for table in tables)
        return [
            {head: [row[table["columns"].index(head)] for row in table["rows"]] for head in heads}
            for table in tables
            if set(heads) <= set(table["columns"]) and table["rows"]
        ]

    @contextmanager
    def checked_content(self, name: str) -> Iterator[None]:
        """Raise StateError with one line if the file's content is not what a run writes."""
        try:
            yield
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise StateError(f"{self.path}/{name}: does not hold what a run writes there ({why}); restore it") from None

    # ---- log ---------------------------------------------------------------------------------------------

    @cached_property
    def log(self) -> "Log":
        """The CSV log of all attempts. It is not part of the state and has no checksum."""
        log = Log()
        folder = below(self.path, "logs")
        names = (f"logs/{each.name}/metrics.csv" for each in (folder.iterdir() if folder.is_dir() else ()))
        found = {int(match[1]): name for name in names if (match := CSV_LOG.fullmatch(name))}
        for attempt, name in sorted(found.items()):
            file = below(self.path, name)
            if attempt <= attempts_of(self.record) and file.is_file():
                log.add(file)
        return log


class Log:
    """Logged values over the sequence's step, cl/step.

    Attributes:
        rows: rows in order, each with "cl/step". Rows that an attempt logged after its last saved step are left out,
            because the next attempt repeated them.
        left_out: number of incomplete lines, which a killed process may leave.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.left_out = 0

    def add(self, file: Path) -> None:
        """Append the log of one attempt. Raises StateError if it is not text or cannot be read."""
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
            except (TypeError, ValueError):  # too few cells, too many, or not numbers
                self.left_out += 1
                continue
            if not all(isfinite(value) for key, value in row.items() if key.startswith("cl/")):
                self.left_out += 1  # a loss may be NaN, a place on an axis may not
                continue
            # What Lightning logs by itself has no such axis; it belongs to the step before.
            step = row.setdefault("cl/step", step)
            found.append(row)
        again = next((row["cl/step"] for row in found if LOSS in row), float("inf"))
        repeated = {(row["cl/step"], *row) for row in found}  # logged between the last saved step and the next
        kept = [row for row in self.rows if row["cl/step"] < again and (row["cl/step"], *row) not in repeated]
        self.rows = kept + found

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Return (steps, values) of a logged name."""
        pairs = [(row["cl/step"], row[name]) for row in self.rows if name in row]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def names(self, prefix: str) -> list[str]:
        """Return the logged names with this prefix."""
        return sorted({key for row in self.rows for key in row if key.startswith(prefix)})
